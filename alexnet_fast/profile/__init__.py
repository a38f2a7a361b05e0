"""The profiling mode, ``python -m alexnet_fast.train RECIPE --profile``: the ceiling of each stage, which one is the bottleneck, and what would remove it."""
