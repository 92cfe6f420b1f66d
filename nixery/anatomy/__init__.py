"""What an image is made of, for people: reports of images, and what is read out of them."""
