# Visits packages of a set, and those in nested sets among them that ask for it
# (`recurseForDerivations`).
#
#   visit   a function of a package's attribute path, spelled as the set spells it, and of the
#           package
#   set     the package set
#   names   the attributes at its top that are looked at
#
# The result is a list of what `visit` returns. What throws when it is looked at is left out.
# `attempt` has a default for a value that throws.
let
  inherit (builtins) attrNames concatMap isAttrs match tryEval;
  inherit (import ./text.nix) onlyTexts;

  # Deeper sets are the same packages in other clothes.
  depth = 3;

  attempt = default: value:
    let tried = tryEval value;
    in if tried.success then tried.value else default;

  packagesIn = visit:
    let
      walk = level: prefix: set:
        concatMap (name:
          let
            value = attempt null set.${name};
            path = prefix + name;
          in
          # Other dots would separate empty names.
          if match "[^.]+(\\.[^.]+)*" name == null || !isAttrs value then [ ]
          else if attempt false ((value.type or "") == "derivation") then [ (visit path value) ]
          else if level < depth && attempt false (value.recurseForDerivations or false == true)
          then walk (level + 1) (path + ".") value (onlyTexts (attrNames value))
          else [ ]);
    in
    walk 0 "";
in
{ inherit attempt packagesIn; }
