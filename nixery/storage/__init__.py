"""Storage of blobs and records: the interface and its backends."""
