"""What is attached to images: documents about them, manifests of these, and signatures."""
