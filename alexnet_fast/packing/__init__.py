"""The writing side of a beton: images in, one complete file out.  Imports neither numba nor torch."""
