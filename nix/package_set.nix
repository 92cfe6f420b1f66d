# Calls a package set with its arguments, and returns the set of its attributes.
#
# All arguments are strings, so that nothing in them is ever parsed as an expression:
#
#   src       the real path of the package set: a directory with a default.nix, or
#             a file
#   system    the system that the packages run on
#   config    JSON: the `config` argument of the package set
#   overlays  JSON: a list of paths of overlays
#   fetches   "pinned": what the set and the overlays fetch has to be pinned, see
#             guarded_fetches.nix; anything else: the options of Nix alone decide
#   flake     a flake in place of `src`, as flake_set.nix takes it: its packages are those that
#             it makes, without `config` and `overlays`
{ src ? "", system, config ? "{}", overlays ? "[]", flake ? "", fetches ? "forbidden" }:

let
  inherit (builtins) foldl' fromJSON functionArgs intersectAttrs isAttrs isFunction typeOf;

  load = if fetches == "pinned" then import ./guarded_fetches.nix else import;

  arguments = {
    inherit system;
    config = fromJSON config;
    overlays = map (path: load (/. + path)) (fromJSON overlays);
  };

  # A function is called with those arguments that it names, and with all of them
  # when it names none (`args: ...`, `{ ... }: ...`).  Whatever is no function is
  # the set itself.  A set that has not taken the overlays is extended by them
  # afterwards, as nixpkgs can be: leaving them out would go unnoticed.
  source = load (/. + src);
  named = functionArgs source;
  set =
    if !isFunction source then source
    else source (if named == { } then arguments else intersectAttrs named arguments);
  taken = isFunction source && (named == { } || named ? overlays);
in
if flake != "" then import ./flake_set.nix { inherit flake system; }
else if !isAttrs set then
  throw "the package set is a ${typeOf set}, and has to be a set or a function that returns one"
else if taken || arguments.overlays == [ ] then set
else if set ? extend then foldl' (previous: overlay: previous.extend overlay) set arguments.overlays
else throw "the package set takes no overlays, and there are overlays to be applied to it"
