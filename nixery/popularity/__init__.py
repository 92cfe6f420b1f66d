"""Popularity data: counting, fetching and caching them."""
