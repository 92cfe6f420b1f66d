"""From an image name to an image that is stored."""
