# Looks packages up in a package set and instantiates their derivations.
#
# Evaluated by the daemon in restricted mode, without import-from-derivation, in one of
# two ways:
#
#   nix-instantiate --eval --strict --json --read-write-mode -A found ... resolve.nix
#   nix-build --out-link LINK -A outputs ... resolve.nix
#
# All arguments are strings, so that nothing which a client wrote is ever parsed as an
# expression: `src`, `overlays`, `flake` and `fetches` are those of package_set.nix, `names`
# and `guard` those of lookup.nix, and `system` and `config` those of both.
#
# A flake is evaluated in pure mode, which reads no file outside of the store: the daemon
# gives it the text of this file, in which it has put those of the others.
{
  src ? "", system, names, config ? "{}", overlays ? "[]", flake ? "", fetches ? "forbidden",
  guard ? "true"
}:

import ./lookup.nix
  {
    packages = import ./package_set.nix { inherit src system config overlays flake fetches; };
    inherit system config;
  }
  { inherit names guard; }
