"""What is done to one decoded image, in place: one operation a file."""
