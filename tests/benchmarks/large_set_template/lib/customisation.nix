{ lib }:
rec {
  makeOverridable = f: original:
    let
      result = f original;
      overrideWith = changes: original // (if builtins.isFunction changes then changes original else changes);
    in
    if builtins.isAttrs result then
      result // {
        override = changes: makeOverridable f (overrideWith changes);
        overrideDerivation = changes: overrideDerivation result changes;
        ${if result ? overrideAttrs then "overrideAttrs" else null} = changes:
          makeOverridable (arguments: (f arguments).overrideAttrs changes) original;
      }
    else result;

  overrideDerivation = drv: changes:
    let new = derivation (drv.drvAttrs // changes drv);
    in extendDerivation true { inherit (drv) meta; } new;

  callPackageWith = scope: file: arguments:
    let
      f = if builtins.isFunction file then file else import file;
      wanted = builtins.functionArgs f;
      all = builtins.intersectAttrs wanted scope // arguments;
      missing = builtins.filter (name: !wanted.${name} && !all ? ${name}) (builtins.attrNames wanted);
    in
    if missing == [ ] then makeOverridable f all
    else abort "callPackage: nothing was given for the arguments ${toString missing}";

  callPackagesWith = scope: file: arguments:
    let
      f = if builtins.isFunction file then file else import file;
      all = builtins.intersectAttrs (builtins.functionArgs f) scope // arguments;
      packages = f all;
    in
    builtins.mapAttrs
      (name: _: makeOverridable (changed: (f changed).${name}) all)
      packages;

  extendDerivation = condition: passthru: drv:
    let
      outputs = drv.outputs or [ "out" ];
      common = drv // builtins.listToAttrs outputsList // { all = map (one: one.value) outputsList; } // passthru;
      outputToAttr = name: {
        inherit name;
        value = common // {
          inherit (drv.${name}) type outputName;
          outputSpecified = true;
          drvPath = assert condition; drv.${name}.drvPath;
          outPath = assert condition; drv.${name}.outPath;
        };
      };
      outputsList = map outputToAttr outputs;
    in
    common // {
      drvPath = assert condition; drv.drvPath;
      outPath = assert condition; drv.outPath;
    };
}
