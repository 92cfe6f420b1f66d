# All packages, as a fixed point of overlays.
{ lib, system, config, overlays }:

let
  stdenvOverlay = final: prev: {
    inherit lib system config;
    stdenv = import ../stdenv { inherit lib system config; };
    callPackage = lib.callPackageWith final;
    callPackages = lib.callPackagesWith final;
    fetchurl = final.callPackage ./fetchurl.nix { };
  };

  # A directory for each package, as `pkgs/by-name` of nixpkgs has them.
  byName = final: prev:
    let
      shards = builtins.attrNames (builtins.readDir ./by-name);
      packagesOf = shard: map
        (file: {
          name = builtins.replaceStrings [ ".nix" ] [ "" ] file;
          value = final.callPackage (./by-name + "/${shard}/${file}") { };
        })
        (builtins.attrNames (builtins.readDir (./by-name + "/${shard}")));
    in
    builtins.listToAttrs (builtins.concatMap packagesOf shards);

  allPackages = final: prev: import ./all-packages.nix final prev;

  aliases = final: prev: import ./aliases.nix final prev;

  configOverrides = final: prev: (config.packageOverrides or (_: { })) prev;

  toFix = builtins.foldl' (f: overlay: lib.extends overlay f) (final: { }) ([
    stdenvOverlay
    byName
    allPackages
    aliases
    configOverrides
  ] ++ overlays);
in
lib.fix toFix
