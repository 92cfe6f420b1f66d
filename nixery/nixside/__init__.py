"""Nix: how its commands are called, run and understood."""
