"""Bytes to pixels in host memory."""
