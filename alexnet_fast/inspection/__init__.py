"""What a beton holds, and whether it is whole."""
