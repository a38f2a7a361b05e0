"""All in which devices differ."""
