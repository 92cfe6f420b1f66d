# Derivations as packages: with `meta`, and refused where nixpkgs would refuse them.
{ system, config }:
let
  refusal =
    name: meta:
    if (meta.license.free or true) == false && !(config.allowUnfree or false) then
      "Package ‘${name}’ has an unfree license (‘${meta.license.shortName}’), refusing to evaluate."
    else if (meta.broken or false) && !(config.allowBroken or false) then
      "Package ‘${name}’ is marked as broken, refusing to evaluate."
    else if !(builtins.elem system (meta.platforms or [ system ])) && !(config.allowUnsupportedSystem or false) then
      "Package ‘${name}’ is not available on the requested hostPlatform: ${system}, refusing to evaluate."
    else if
      (meta.knownVulnerabilities or [ ]) != [ ]
      && !(builtins.elem name (config.permittedInsecurePackages or [ ]))
    then
      "Package ‘${name}’ is marked as insecure, refusing to evaluate."
    else
      null;

  package =
    {
      drv,
      pname,
      version,
      meta,
    }:
    let
      reason = refusal drv.name fullMeta;
      checked = value: if reason == null then value else throw reason;
      fullMeta = meta // {
        name = drv.name;
        available = reason == null;
        broken = meta.broken or false;
        unfree = !(meta.license.free or true);
        insecure = (meta.knownVulnerabilities or [ ]) != [ ];
        unsupported = !(builtins.elem system (meta.platforms or [ system ]));
        outputsToInstall = meta.outputsToInstall or [ "out" ];
      };
      common = {
        inherit pname version;
        meta = fullMeta;
        drvPath = checked drv.drvPath;
      }
      // outputs;
      # Name, version and meta can be read of a package that is refused, its paths not.
      outputs = builtins.listToAttrs (
        map (output: {
          name = output;
          value =
            drv.${output}
            // common
            // {
              outPath = checked drv.${output}.outPath;
              outputSpecified = true;
            };
        }) drv.outputs
      );
    in
    drv
    // common
    // {
      outPath = checked drv.outPath;
      all = map (output: outputs.${output}) drv.outputs;
    };
in
{
  inherit package;
}
