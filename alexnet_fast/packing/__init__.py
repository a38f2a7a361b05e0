"""The writing side of a beton: images in, one complete file out.  Starts without numba and torch."""
