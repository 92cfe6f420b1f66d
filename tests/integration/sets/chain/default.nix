# Three packages, each of which refers to the one before.  Builders use nothing but the shell's own
# commands; `config.salt` makes derivations that nobody has built before.
{ system, config ? { }, overlays ? [ ] }:

let
  make = name: reference: derivation {
    inherit name system;
    salt = config.salt or "";
    builder = "/bin/sh";
    args = [ "-c" "echo ${reference} > $out" ];
  };
in
rec {
  base = make "base-1" "nothing";
  tool = make "tool-1" base;
  app = make "app-1" tool;
}
