"""Bytes to pixels: compiled kernels that start no thread and know nothing of torch."""
