# The units of the lock as derivations: what build.sh makes of Debian packages.
#
# The derivations are for the machine that builds them (`currentSystem`), and what
# they make is for `system`: unpacking and patching needs no processor of its kind.
{
  system,
  lock,
  # Unit name -> { name, outputs, fixup }: what is particular to it.
  special,
}:
let
  platforms = {
    x86_64-linux = {
      triplet = "x86_64-linux-gnu";
      loader = "ld-linux-x86-64.so.2";
    };
    aarch64-linux = {
      triplet = "aarch64-linux-gnu";
      loader = "ld-linux-aarch64.so.1";
    };
  };

  platform =
    platforms.${system} or (throw "the demo package set is made for ${toString (builtins.attrNames platforms)}, not for ${system}");

  # Without the characters that a store path may not have, nor those that a URL
  # stands in for.
  clean = builtins.replaceStrings [ "%2b" "%2B" "%3a" "%3A" "%7e" "%7E" "~" ":" "%" ] [
    "+"
    "+"
    "_"
    "_"
    "_"
    "_"
    "_"
    "_"
    "_"
  ];

  # A mirror drops a version when the next one comes. Nix shows the URL of what it
  # could not fetch, and nothing else of ours; mirrors never see a fragment.
  hint = "#if-this-is-gone-from-the-mirror,run:_nix/demo/start_--prepare-only_--refresh";

  fetch =
    deb:
    derivation {
      name = clean (baseNameOf deb.url);
      builder = "builtin:fetchurl";
      system = "builtin";
      url = deb.url + hint;
      urls = [ (deb.url + hint) ];
      outputHashAlgo = "sha256";
      outputHashMode = "flat";
      outputHash = deb.sha256;
      executable = false;
      unpack = false;
      preferLocalBuild = true;
      allowSubstitutes = false;
      impureEnvVars = [
        "http_proxy"
        "https_proxy"
        "ftp_proxy"
        "all_proxy"
        "no_proxy"
      ];
    };

  seeds = ./seeds;

  outputsOf = drv: map (output: drv.${output}) drv.outputs;

  # All units that some units depend on, themselves included.
  closure =
    names:
    map (item: item.key) (
      builtins.genericClosure {
        startSet = map (name: { key = name; }) names;
        operator = item: map (name: { key = name; }) lock.${item.key}.depends;
      }
    );

  make =
    name: unit:
    let
      own = special.${name} or { };
      depends = map (other: units.${other}) unit.depends;
      # "python3Packages.requests" is called like a package of nixpkgs.
      pname = builtins.replaceStrings [ "Packages." ] [ "-" ] name;
      isModule = other: builtins.match "python3-.*|python3Packages.*|lib.*-perl" other != null;
    in
    derivation {
      name = own.name or (clean "${pname}-${unit.version}");
      system = builtins.currentSystem;
      builder = "${seeds}/bin/busybox";
      args = [
        "sh"
        ./build.sh
      ];
      inherit seeds;
      inherit (platform) triplet;
      unit = pname;
      outputs = own.outputs or [ "out" ];
      debs = map fetch unit.debs;
      deps = builtins.concatMap outputsOf depends;
      modules = map (other: units.${other}) (builtins.filter isModule (closure unit.depends));
      loader = if name == "glibc" then "" else "${units.glibc}/lib/${platform.triplet}/${platform.loader}";
      # dash needs glibc and nothing else: everything else may use it.
      shell = if name == "glibc" || name == "dash" || name == "tdb" then "" else "${units.dash}/bin/dash";
      fixup = if own ? fixup then own.fixup units else "";
      allowSubstitutes = false;
    };

  units = builtins.mapAttrs make lock;
in
units
