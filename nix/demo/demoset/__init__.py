"""The demo package set: made of Debian packages."""
