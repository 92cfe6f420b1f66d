"""
Installs what the project needs, with the standard library only.

The machine's own Python runs these modules from a checkout, for ``nix/demo/start`` and
``tests/run``, before any dependency is installed: they import nothing but the standard library.
"""
