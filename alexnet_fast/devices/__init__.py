"""Everything in which devices differ: cpu, cuda and npu."""
