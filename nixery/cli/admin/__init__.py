"""``nixery-admin``: reports, verifies and removes stored images."""
