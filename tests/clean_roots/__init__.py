"""The commands that people type first, in a Debian as it is when it has been installed."""
