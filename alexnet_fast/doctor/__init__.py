"""What a machine gives a training run, what is wrong with it, and how to fix it: ``python -m alexnet_fast.doctor [RECIPE]``.

Nothing here imports torch, numba or a library that may be broken: `probe` asks each in a child process, so that every
other question is answered even if one of them crashes.
"""
