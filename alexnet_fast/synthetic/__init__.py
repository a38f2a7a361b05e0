"""Training sets without a dataset: synthetic images with the sizes and the spectrum of ImageNet's."""
