"""Layers and roots as deterministic, compressed archives."""
