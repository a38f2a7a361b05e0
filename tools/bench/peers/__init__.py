"""One module for each library, each with ``open_peer(task) -> Peer`` and ``versions() -> dict``.

A module imports its library at the top: an ImportError there means that the peer is not installed.
"""
