"""What a beton contains, and whether it is intact."""
