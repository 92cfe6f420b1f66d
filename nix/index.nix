# Describes the packages of a set, for searches among them: their attribute paths, names,
# versions and descriptions. Nothing is instantiated.
#
#   nix-instantiate --eval --strict --json --readonly-mode ... index.nix
#
# `src`, `system`, `config`, `overlays`, `flake` and `fetches` are those of package_set.nix.
#
#   names     JSON: a list of attribute names at the top of the set; or null, which
#             lists all of them instead
#
# There is an entry for each package among the names, and for those in nested sets among them
# that ask for it (`recurseForDerivations`): [ attribute, pname, version, description, served ].
# What throws when it is looked at is left out, or empty. What aborts ends the evaluation: each
# name is traced before it is looked at, so that the last one is the culprit.
{
  src ? "", system, config ? "{}", overlays ? "[]", flake ? "", fetches ? "forbidden",
  names ? "null"
}:

let
  inherit (builtins)
    attrNames concatMap deepSeq fromJSON isAttrs isString parseDrvName substring trace;

  inherit (import ./packages_in.nix) attempt packagesIn;
  inherit (import ./text.nix) onlyTexts toText;

  packages = import ./package_set.nix { inherit src system config overlays flake fetches; };

  wanted = fromJSON names;

  # Some packages describe themselves with a whole document.
  maxBytes = 1000;

  text = value:
    let known = attempt "" value;
    in if isString known then toText (substring 0 maxBytes known) else "";

  describe = attribute: package:
    let
      meta = attempt { } package.meta or { };
      parsed = parseDrvName (text package.name or "");
    in
    [
      attribute
      (text package.pname or parsed.name)
      (text package.version or parsed.version)
      (if isAttrs meta then text meta.description or "" else "")
      (!(isAttrs meta && attempt true (meta.available or true) == false))
    ];
in
if wanted == null then onlyTexts (attrNames packages)
else concatMap
  (name:
    let entries = packagesIn describe packages [ name ];
    in trace name (deepSeq entries entries))
  wanted
