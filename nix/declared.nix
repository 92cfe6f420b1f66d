# Returns what a package declares of itself that no build depends on: its licences and the
# identifier under which vulnerabilities of it are listed.
#
#   get    as in lookup.nix: a default for what throws
#   meta   the package's `meta`; each part of it may throw, or be of any type
#
# It returns { licenses, cpe }.  A licence is { spdx, name }, its SPDX id and its name, or
# { operator, licenses } with the operators of SPDX.  What cannot be read is empty.  A package
# set that writes licences without an end gets them cut off: texts, lists and nesting are
# bounded, and what exceeds a bound is empty as a whole, for a part of it would say something
# else.
{ get }:

let
  inherit (builtins) elem head filter isAttrs isList isString length map seq stringLength;
  inherit (import ./text.nix) toText;

  maxBytes = 300;
  maxLicenses = 32;
  maxDepth = 4;

  unknown = { spdx = ""; name = ""; };

  text = value: toText (get (value: isString value && stringLength value <= maxBytes) "" value);
  list = value: get (value: isList value && length value <= maxLicenses) [ ] value;

  # A string is rare, and may be an id or a name.
  license = depth: value:
    let
      kind = get (value: isString value || isAttrs value) null value;
      operator = text (kind.operator or "");
      names = filter (name: name != "")
        [ (text (kind.fullName or "")) (text (kind.shortName or "")) (text (kind.spdxId or "")) ];
      combine = operands: { inherit operator; licenses = map (license (depth - 1)) operands; };
    in
    if depth == 0 || kind == null then unknown
    else if isString kind then { spdx = text kind; name = text kind; }
    else if elem operator [ "AND" "OR" ] then combine (list (kind.licenses or [ ]))
    else if operator == "WITH" then combine [ (kind.license or null) (kind.exception or null) ]
    else if operator == "+" then combine [ (kind.license or null) ]
    else { spdx = text (kind.spdxId or ""); name = if names == [ ] then "" else head names; };
in
meta:
let
  declared = get (value: seq value true) null (meta.license or null);
in
{
  licenses =
    if declared == null then [ ]
    else if isList declared then map (license maxDepth) (list declared)
    else [ (license maxDepth declared) ];
  cpe = text (meta.identifiers.cpe or "");
}
