"""The folder of a run: its checkpoints, logs, reports, and a lock that admits one run at a time."""
