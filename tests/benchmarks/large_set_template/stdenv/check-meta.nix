# Decides whether a package may be evaluated, as nixpkgs does.
{ lib, system, config }:

let
  inherit (builtins) any attrNames elem isAttrs isBool isList isString;

  types = {
    description = isString;
    longDescription = isString;
    homepage = isString;
    changelog = isString;
    license = value: isAttrs value || isList value;
    maintainers = isList;
    platforms = isList;
    mainProgram = isString;
    broken = isBool;
    knownVulnerabilities = isList;
    outputsToInstall = isList;
    priority = _: true;
  };

  licensesOf = meta:
    if !meta ? license then [ ] else if isList meta.license then meta.license else [ meta.license ];

  invalid = meta: builtins.filter (name: !(types ? ${name}) || !types.${name} meta.${name}) (attrNames meta);
in
{
  commonMeta = attributes:
    let
      meta = attributes.meta or { };
      unfree = any (license: !(license.free or true)) (licensesOf meta);
      broken = meta.broken or false;
      unsupported = meta ? platforms && !elem system meta.platforms;
      insecure = (meta.knownVulnerabilities or [ ]) != [ ];
    in
    { outputsToInstall = [ (if elem "bin" (attributes.outputs or [ "out" ]) then "bin" else "out") ]; }
    // meta
    // {
      name = attributes.name or "${attributes.pname}-${attributes.version}";
      inherit unfree broken unsupported insecure;
      available = !(unfree && !(config.allowUnfree or false)) && !broken && !unsupported && !insecure;
    };

  assertValid = attributes: meta:
    let name = attributes.name or attributes.pname;
    in
    if invalid (attributes.meta or { }) != [ ] then throw "${name} has invalid meta: ${toString (invalid attributes.meta)}"
    else if meta.available then true
    else throw "Package ${name} is ${if meta.unfree then "unfree" else if meta.broken then "marked as broken" else "not available"}, refusing to evaluate.";
}
