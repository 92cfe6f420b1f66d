"""Makes the components of the daemon out of its configuration."""
