"""The commands beside the daemon."""
