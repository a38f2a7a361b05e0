"""A run's folder: checkpoints, logs, reports, and one run at a time."""
