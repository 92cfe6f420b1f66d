"""Popularity data: counted, fetched and kept."""
