# A package set with the shape of nixpkgs, for benchmarks of evaluation: tests/benchmarks/large_set.py
# adds the packages. They are evaluated, and never built.
{ system ? builtins.currentSystem, config ? { }, overlays ? [ ] }:

import ./pkgs/stage.nix {
  lib = import ./lib;
  inherit system config overlays;
}
