"""Make what is attached to images: documents about them, their manifests, and signatures."""
