# A package that is built once under two names: the version of one tells all that is in the
# directory `files`, that of the other the number in a file.
{ system ? builtins.currentSystem, ... }:

let
  inherit (builtins) hashFile hashString mapAttrs readDir toJSON;

  describe = directory: mapAttrs
    (name: type:
      let path = directory + "/${name}";
      in
      if type == "directory" then describe path
      else if type == "symlink" then "link"
      else hashFile "sha256" path)
    (readDir directory);

  package = derivation {
    name = "observed";
    inherit system;
    builder = "/bin/sh";
    args = [ "-c" "echo observed > $out" ];
  };
in
{
  observed = package // { version = hashString "sha256" (toJSON (describe ./files)); };
  counted = package // { version = builtins.readFile ./count/number; };
}
