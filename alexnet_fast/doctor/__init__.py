"""What a machine gives a training run, what is wrong with it, and how to mend it: ``python -m alexnet_fast.doctor [RECIPE]``.

Nothing here imports torch, numba or a library that may be broken: they are asked in processes of their own
(`inside`), so whatever they do, every other question is answered.
"""
