"""Tests of :mod:`nixery.artifacts`."""
