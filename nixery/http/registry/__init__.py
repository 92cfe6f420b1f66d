"""The registry API under ``/v2/``."""
