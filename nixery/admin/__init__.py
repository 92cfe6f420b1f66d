"""The command that takes care of what is stored."""
