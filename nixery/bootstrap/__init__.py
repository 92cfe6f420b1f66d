"""
Installs what the project needs, before any of that is there.

These modules import nothing but the standard library: the machine's own Python runs them
from a checkout, for ``nix/demo/start`` and ``tests/run``.
"""
