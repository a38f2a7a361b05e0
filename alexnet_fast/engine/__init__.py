"""Pixels to weights."""
