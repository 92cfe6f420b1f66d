"""Values of an image: names, packages, closure, configuration, manifests."""
