"""What an accelerator does, checked and measured on the user's own: ``python -m alexnet_fast.doctor --card [RECIPE]``.

A check is a function of a `Bench` that returns rows: to add one, write it into the module of its group and name it in checks.py.
"""
