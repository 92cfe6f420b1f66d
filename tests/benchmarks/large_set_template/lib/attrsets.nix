{ lib }:
rec {
  nameValuePair = name: value: { inherit name value; };

  genAttrs = names: f: builtins.listToAttrs (map (name: nameValuePair name (f name)) names);

  mapAttrs' = f: set:
    builtins.listToAttrs (map (name: f name set.${name}) (builtins.attrNames set));

  recursiveUpdate = left: right:
    left // builtins.mapAttrs
      (name: value:
        if builtins.isAttrs value && builtins.isAttrs (left.${name} or null)
        then recursiveUpdate left.${name} value
        else value)
      right;

  recurseIntoAttrs = set: set // { recurseForDerivations = true; };
}
