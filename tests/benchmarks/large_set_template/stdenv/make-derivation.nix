# Makes `mkDerivation` of a shell and what every build has in its environment.
{ lib, system, config, shell, initialPath, setup, hooks }:

let
  inherit (builtins) filter isFunction map removeAttrs;

  checkMeta = import ./check-meta.nix { inherit lib system config; };

  dependencies = [ "nativeBuildInputs" "buildInputs" "propagatedBuildInputs" "checkInputs" ];

  output = package: package.dev or package.out or package;

  make = attributes:
    let
      inputs = map (name: map output (filter (one: one != null) (lib.flatten (attributes.${name} or [ ])))) dependencies;
      name = attributes.name or "${attributes.pname}-${attributes.version}";
      meta = checkMeta.commonMeta attributes;
      valid = checkMeta.assertValid attributes meta;
      arguments = removeAttrs attributes [ "meta" "passthru" "pname" "version" ] // {
        inherit name system;
        builder = shell;
        args = [ "-e" setup ];
        stdenv = initialPath;
        defaultNativeBuildInputs = hooks;
        nativeBuildInputs = builtins.elemAt inputs 0;
        buildInputs = builtins.elemAt inputs 1;
        propagatedBuildInputs = builtins.elemAt inputs 2;
        checkInputs = builtins.elemAt inputs 3;
        configureFlags = attributes.configureFlags or [ ];
        patches = attributes.patches or [ ];
        strictDeps = attributes.strictDeps or false;
        doCheck = attributes.doCheck or false;
        ${if attributes ? pname then "pname" else null} = attributes.pname;
        ${if attributes ? version then "version" else null} = attributes.version;
      };
    in
    lib.extendDerivation valid
      ((attributes.passthru or { }) // {
        inherit meta name;
        passthru = attributes.passthru or { };
        overrideAttrs = changes: mkDerivation (attributes // changes attributes);
      })
      (derivation arguments);

  mkDerivation = attributes:
    if isFunction attributes then
      let
        package = make final;
        final = attributes (final // { finalPackage = package; });
      in
      package
    else make attributes;
in
mkDerivation
