"""A process that fetches a URL: python -m remote.fetching URL BLOCK_BYTES; prints the path."""

from __future__ import annotations

import logging
import sys

from alexnet_fast.remote.cached_copy import cached_copy
from alexnet_fast.remote.fetch import FetchOptions

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    options = FetchOptions(pause_s=0.0, connections=2, block_bytes=int(sys.argv[2]))
    print(cached_copy(sys.argv[1], options=options))
