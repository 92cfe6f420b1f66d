# Lists what there is in a package set: the attribute paths of its packages, spelled as
# the set spells them, those in nested sets that ask for it (`recurseForDerivations`)
# included. For counting a whole set; the daemon never asks this.
#
#   nix-instantiate --eval --strict --json ... attributes.nix
#
# The arguments are those of package_set.nix, and `without` (JSON: a list of names of the
# top level). What throws when it is looked at is left out; what aborts ends the
# evaluation, unless it is named in `without`.
{ src ? "", system, config ? "{}", overlays ? "[]", flake ? "", without ? "[]" }:

let
  inherit (builtins) attrNames elem filter fromJSON;

  inherit (import ./packages_in.nix) packagesIn;
  inherit (import ./text.nix) onlyTexts;

  packages = import ./package_set.nix { inherit src system config overlays flake; };

  skipped = fromJSON without;
in
packagesIn (path: _: path) packages
  (filter (name: !elem name skipped) (onlyTexts (attrNames packages)))
