# Packages for two platforms, of which this machine is one. `busybox` is a static program beside this
# file; `settings.json` has a salt and the system of this machine.
{ system ? builtins.currentSystem, ... }:

let
  settings = builtins.fromJSON (builtins.readFile ./settings.json);

  mk = name: builder: derivation {
    name = "${name}-1.0";
    system = builder;
    inherit (settings) salt;
    platform = system;
    builder = "${./bin}/busybox";
    args = [ "sh" "-euc" ''
      mkdir -p $out/bin $out/share
      cp $builder $out/bin/busybox
      echo $platform > $out/share/${name}
    '' ];
  } // { pname = name; version = "1.0"; };

  # This machine makes the package of every platform, as a cross compiler does.
  portable = mk "portable" settings.host;

  # Only a machine of the platform makes it.
  native = mk "native" system;
in
{ inherit portable native; }
// (if system == settings.host then { local = mk "local" system; } else { })
