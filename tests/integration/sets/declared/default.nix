# A package set of packages that declare licences and identifiers in every form, and of three that
# need each other.
{ system, config ? { } }:

let
  make = name: extra: derivation ({
    inherit name system;
    salt = config.salt or "";
    builder = "/bin/sh";
    args = [ "-c" "echo $needs > $out" ];
  } // extra);

  declaring = meta: make "package-1.0" { } // { inherit meta; };

  mit = { spdxId = "MIT"; fullName = "MIT License"; shortName = "mit"; free = true; };
  asl20 = { spdxId = "Apache-2.0"; fullName = "Apache License 2.0"; };
  either = { licenseType = "compound"; operator = "OR"; licenses = [ mit asl20 ]; };
  cpe = "cpe:2.3:a:vendor:package:1.0:*:*:*:*:*:*:*";
  endless = { operator = "AND"; licenses = [ mit endless ]; };
in
rec {
  nothing = make "nothing-1.0" { };
  one = declaring { license = mit; identifiers = { inherit cpe; }; };
  several = declaring { license = [ mit asl20 ]; };
  text = declaring { license = "gpl-2.0-only"; };
  name = declaring { license = { fullName = "Unfree redistributable"; shortName = "unfree"; }; };
  compound = declaring { license = either; };
  nested = declaring { license = { operator = "AND"; licenses = [ mit either ]; }; };
  exception = declaring {
    license = { licenseType = "exception"; operator = "WITH"; license = asl20; exception = { spdxId = "LLVM-exception"; }; };
  };
  later = declaring { license = { licenseType = "plus"; operator = "+"; license = { spdxId = "EUPL-1.1"; }; }; };
  throwing = declaring {
    license = { spdxId = throw "no id"; fullName = "A licence"; };
    identifiers = throw "no identifiers";
  };
  throwingAll = declaring { license = [ mit (throw "no licence") ]; identifiers.cpe = throw "no CPE"; };
  wrong = declaring { license = [ 1 mit ]; identifiers = null; };
  cpeless = declaring { identifiers = { cpe = "package 1.0"; }; };
  withoutEnd = declaring { license = endless; };
  long = declaring { license = { fullName = builtins.concatStringsSep "" (builtins.genList (_: "long ") 100); }; };

  outputs = make "outputs-1.0" { outputs = [ "out" "dev" "lib" ]; } // { meta.license = mit; };

  lowest = make "lowest-1.0" { };
  middle = make "middle-2.0" { needs = lowest; };
  upper = make "upper-3.0" { needs = middle; };
}
