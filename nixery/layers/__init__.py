"""Layers: grouping a closure, and packing it as archives."""
