"""The profiling mode, ``python -m alexnet_fast.train RECIPE --profile``: what each stage could do, which one binds, and what would lift it."""
