# Returns the package set of a flake: its `packages`, and beside them its `legacyPackages`.
#
#   flake   JSON: `url` of its tree in the store, with the hash; `tree`, the same as an argument
#           of `builtins.fetchTree`; and `directory`, that of its flake.nix below the top
#   system  the system that the packages run on
{ flake, system }:

let
  inherit (builtins)
    attrNames compareVersions fetchTree fromJSON functionArgs getFlake head isList mapAttrs
    nixVersion pathExists readFile removeAttrs tail;
  inherit (fromJSON flake) url tree directory;

  below = path: if path == "" then "" else "/${path}";

  # As Nix calls a flake.  Before 2.26 it has no URL for a directory of a tree in the store.
  callFlake =
    let
      root = fetchTree tree;
      lockFile = "${root}${below directory}/flake.lock";
      lock =
        if pathExists lockFile then fromJSON (readFile lockFile)
        else { nodes = { root = { }; }; root = "root"; };

      # An input, or the path to one from the root.
      resolve = spec: if isList spec then follow lock.root spec else spec;
      follow = name: path:
        if path == [ ] then name
        else follow (resolve lock.nodes.${name}.inputs.${head path}) (tail path);

      nodes = mapAttrs
        (name: node:
          let
            isRoot = name == lock.root;
            source = if isRoot then root else fetchTree (removeAttrs node.locked [ "dir" ]);
            outPath = "${source}${below (if isRoot then directory else node.locked.dir or "")}";
            file = "${outPath}/flake.nix";
            flake = if pathExists file then import file else throw "there is no flake.nix";
            inputs = mapAttrs (_: spec: nodes.${resolve spec}) (node.inputs or { });
            outputs = flake.outputs (inputs // { self = result; });
            result = outputs // source // { inherit inputs outPath outputs; sourceInfo = source; };
            wanted = removeAttrs (functionArgs flake.outputs // flake.inputs or { }) [ "self" ];
          in
          if !(node.flake or true) then source
          else if isRoot && attrNames wanted != attrNames inputs then
            throw "the inputs of flake.nix and those of flake.lock differ"
          else result)
        lock.nodes;
    in
    nodes.${lock.root};

  # Where Nix has to change the lock file, versions from 2.13 on call the flake without its
  # commit, as one that is not committed.
  called = getFlake url;
  outputs =
    if directory != "" && compareVersions nixVersion "2.26" < 0 then callFlake
    else if tree ? rev && !(called.sourceInfo ? rev) then
      throw "the inputs of flake.nix and those of flake.lock differ"
    else called;

  has = name: outputs ? ${name}.${system};
in
if has "packages" || has "legacyPackages" then
  (outputs.legacyPackages.${system} or { }) // (outputs.packages.${system} or { })
else
  throw "the flake has no packages for ${system}: neither packages.${system} nor legacyPackages.${system}"
