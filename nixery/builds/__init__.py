"""The build pipeline: evaluation, realisation, packing and publication of an image."""
