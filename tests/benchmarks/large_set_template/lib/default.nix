# Library functions, as a fixed point that can be extended.
let
  inherit (import ./fixed-points.nix) makeExtensible;
in
makeExtensible (self:
  let callLibs = file: import file { lib = self; };
  in
  {
    fixedPoints = import ./fixed-points.nix;
    lists = callLibs ./lists.nix;
    attrsets = callLibs ./attrsets.nix;
    strings = callLibs ./strings.nix;
    customisation = callLibs ./customisation.nix;
    meta = callLibs ./meta.nix;
    licenses = callLibs ./licenses.nix;
    platforms = callLibs ./platforms.nix;
    maintainers = import ./maintainers.nix;

    inherit (self.fixedPoints) fix extends composeExtensions makeExtensible;
    inherit (self.lists) foldr flatten optional optionals unique;
    inherit (self.attrsets) genAttrs mapAttrs' nameValuePair recursiveUpdate recurseIntoAttrs;
    inherit (self.strings) concatMapStringsSep hasPrefix optionalString versionAtLeast;
    inherit (self.customisation) callPackageWith callPackagesWith extendDerivation makeOverridable;
  })
