"""Reports of images for the image pages: packages, layers, reference chains."""
