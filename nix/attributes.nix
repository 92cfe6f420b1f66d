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
  inherit (builtins) attrNames concatMap elem fromJSON isAttrs match tryEval;

  inherit (import ./text.nix) onlyTexts;

  packages = import ./package_set.nix { inherit src system config overlays flake; };

  skipped = fromJSON without;

  # Deeper sets are the same packages in other clothes.
  depth = 3;

  attempt = default: value:
    let tried = tryEval value;
    in if tried.success then tried.value else default;

  walk = level: prefix: set:
    concatMap
      (name:
        let
          value = attempt null set.${name};
          path = prefix + name;
        in
        # Other dots would separate empty names.
        if match "[^.]+(\\.[^.]+)*" name == null || (level == 0 && elem name skipped) || !isAttrs value then [ ]
        else if attempt false ((value.type or "") == "derivation") then [ path ]
        else if level < depth && attempt false (value.recurseForDerivations or false == true)
        then walk (level + 1) (path + ".") value
        else [ ])
      (onlyTexts (attrNames set));
in
walk 0 "" packages
