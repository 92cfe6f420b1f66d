# A package set made of Debian packages, in the manner of nixpkgs: an attribute set
# of derivations with `meta`, nested sets, and a few attributes that are there to be
# refused. What the packages are made of is in packages.json; README.md tells more.
{
  system ? builtins.currentSystem,
  config ? { },
  overlays ? [ ],
}:
let
  lock =
    if builtins.pathExists ./lock.json then
      builtins.fromJSON (builtins.readFile ./lock.json)
    else
      throw "the demo package set has no lock.json here: `nix/demo/start --prepare-only --directory DIRECTORY` makes DIRECTORY a package set that has one";

  units =
    lock.systems.${system}
      or (throw "the lock of the demo package set holds nothing for ${system}: see that the machine's apt sources offer it, then run `nix/demo/start --prepare-only --refresh`");

  built = import ./debian.nix {
    inherit system;
    lock = units;
    special = import ./fixups.nix;
  };

  inherit (import ./package.nix { inherit system config; }) package;

  # A unit of the lock as a package.
  unit =
    name: meta:
    package {
      drv = built.${name};
      pname = builtins.replaceStrings [ "Packages." ] [ "-" ] name;
      inherit (units.${name}) version;
      meta = {
        inherit (units.${name}) description homepage;
      }
      // meta;
    };

  plain = names: builtins.listToAttrs (map (name: { inherit name; value = unit name { }; }) names);

  packages =
    plain [
      "bash"
      "cacert"
      "coreutils"
      "dash"
      "diffutils"
      "ffmpeg"
      "findutils"
      "gawk"
      "glibc"
      "gnugrep"
      "gnused"
      "gnutar"
      "gzip"
      "hello"
      "htop"
      "iana-etc"
      "jq"
      "less"
      "nano"
      "openssl"
      "patch"
      "perl"
      "sqlite"
      "tree"
      "vim"
      "which"
      "xz"
    ]
    // {
      _7zz = unit "7zz" { mainProgram = "7zz"; };
      bashInteractive = unit "bash" { };
      curl = unit "curl" {
        outputsToInstall = [
          "bin"
          "man"
        ];
      };
      git = unit "git" { };
      jdk = unit "jdk_headless" { mainProgram = "java"; };
      jdk_headless = unit "jdk_headless" { mainProgram = "java"; };
      # Its `ts`, `parallel` and others stand back behind packages of that name.
      moreutils = unit "moreutils" { priority = 10; };
      # Some of its commands are in coreutils and util-linux too.
      procps = unit "procps" { priority = 6; };
      python3 = unit "python3" { };
      python3Packages = {
        recurseForDerivations = true;
        pyyaml = unit "python3Packages.pyyaml" { };
        requests = unit "python3Packages.requests" { };
      };
    }
    // import ./oddities.nix { inherit package; };

  final = builtins.foldl' (previous: overlay: previous // overlay final previous) packages overlays;
in
final
