"""Nix as a process: arguments, output, evaluation, garbage-collection roots."""
