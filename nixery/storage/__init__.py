"""Blobs and records: the interface and its backends."""
