"""Processes that train together: started, joined, summed and stopped together."""
