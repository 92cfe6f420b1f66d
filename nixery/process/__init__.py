"""Child processes through Twisted's process protocols."""
