"""The settings: declared, read and checked."""
