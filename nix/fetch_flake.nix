# Brings the tree of a flake into the store, and the inputs that its lock file names.
#
#   nix-instantiate --eval --json --read-write-mode -A path fetch_flake.nix ...
#   nix-instantiate --add-root LINK --indirect -A holder fetch_flake.nix ...
#
# Nothing of the flake is evaluated: evaluation is pure and comes later.  All arguments are
# strings:
#
#   tree       JSON: the argument of `builtins.fetchTree` for the flake
#   directory  the directory of its flake.nix, below the top of the tree
#   info       JSON: what is to be said of the tree in place of what it says itself
#
# `path` is a file in the store which refers to all trees, so that one root protects them.
# `holder` is a derivation that refers to it and is never built.
{ tree, directory ? "", info ? "{}" }:

let
  inherit (builtins)
    addErrorContext attrNames concatMap elem elemAt fetchTree filter foldl' fromJSON genList head
    intersectAttrs isString length pathExists readDir readFile removeAttrs split substring toFile
    toJSON;

  root = fetchTree (fromJSON tree);

  below = path: if path == "" then "" else "/${path}";

  lockFile = "${root}${below directory}/flake.lock";
  lock = if pathExists lockFile then fromJSON (readFile lockFile) else { nodes = { }; root = ""; };
  inherit (lock) nodes;

  isRelative = locked: locked.type == "path" && substring 0 1 locked.path != "/";

  # A directory of another input, or of the flake.  Nix before 2.26 locks it like an input of
  # its own, and finds it in the store alone; later versions do without.
  relativeInput = name: locked:
    let
      parent = head (filter
        (other: elem name (map (input: nodes.${other}.inputs.${input}) (attrNames (nodes.${other}.inputs or { }))))
        (attrNames nodes));
      top = if parent == lock.root then root.outPath else pathOf parent;
      base = if parent == lock.root then directory else nodes.${parent}.locked.dir or "";
      parts = foldl'
        (done: part:
          if part == "" || part == "." then done
          else if part != ".." then done ++ [ part ]
          else if done == [ ] then throw "${locked.path} leads out of the flake"
          else genList (elemAt done) (length done - 1))
        [ ]
        (filter isString (split "/" "${base}/${locked.path}"));
      # Nothing is read by a link that leads elsewhere on this machine.
      path = foldl'
        (above: part:
          if (readDir above).${part} or "" == "directory" then "${above}/${part}"
          else throw "${locked.path} is no directory of the flake")
        top
        parts;
    in
    builtins.path { inherit path; name = "source"; sha256 = locked.narHash; };

  pathOf = name:
    let inherit (nodes.${name}) locked;
    in
    addErrorContext "while fetching the input '${name}' of the flake"
      (if isRelative locked then relativeInput name locked
      else (fetchTree (removeAttrs locked [ "dir" ])).outPath);

  inputs = concatMap
    (name:
      let locked = nodes.${name}.locked or { };
      in
      if name == lock.root || !(locked ? type) || (isRelative locked && !(locked ? narHash)) then [ ]
      else [ { inherit name; path = pathOf name; rev = locked.rev or ""; } ])
    (attrNames nodes);

  path = toFile "flake.json" (toJSON {
    path = root.outPath;
    # What the flake sees of itself (`self.rev`).
    info = intersectAttrs { lastModified = null; narHash = null; rev = null; revCount = null; } root
      // fromJSON info;
    inherit inputs;
  });
in
{
  inherit path;
  holder = derivation { name = "holder"; system = "none"; builder = "none"; inherit path; };
}
