"""A trained model in use: what it says of images, and its network for other programs."""
