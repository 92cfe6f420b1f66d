"""Verified fakes and a storage in memory, for tests."""
