"""Pixels to batches: the order, the threads that decode ahead, host buffers, and the way to the device."""
