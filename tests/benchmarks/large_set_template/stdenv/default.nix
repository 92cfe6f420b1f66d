# The standard environment, made in stages: each builds its tools with those of the one before.
{ lib, system, config }:

let
  tools = [
    "attr" "acl" "autoconf" "automake" "bash" "binutils" "bison" "brotli" "bzip2" "coreutils" "curl"
    "diffutils" "ed" "expand-response" "expat" "file" "findutils" "flex" "gawk" "gcc" "gettext" "glibc"
    "gmp" "gnugrep" "gnum4" "gnumake" "gnused" "gnutar" "gzip" "isl" "libelf" "libffi" "libidn"
    "libmpc" "libtool" "libunistring" "libxcrypt" "linux-headers" "mpfr" "ncurses" "openssl" "patch"
    "patchelf" "pcre2" "perl" "pkg-config" "python" "readline" "texinfo" "update-config" "which" "xz"
    "zlib" "zstd"
  ];

  setup = builtins.toFile "setup.sh" "PATH=$stdenv/bin; $buildCommand\n";

  hooks = map (name: builtins.toFile "${name}.sh" "# ${name}\n")
    [ "audit-tmpdir" "compress-man-pages" "make-symlinks-relative" "move-docs" "move-lib64" "multiple-outputs" "patch-shebangs" "prune-libtool-files" "reproducible-builds" "set-source-date" "strip" ];

  seed = derivation {
    name = "bootstrap-tools";
    inherit system;
    builder = "/bin/sh";
    salt = config.salt or "";
  };

  makeStage = number: previous:
    let
      mkDerivation = import ./make-derivation.nix {
        inherit lib system config setup hooks;
        inherit (previous) shell initialPath;
      };
      tool = at:
        let name = builtins.elemAt tools at;
        in mkDerivation {
          pname = "${name}-stage${toString number}";
          version = "${toString (at / 7 + 1)}.${toString (at + number)}";
          src = mkDerivation {
            name = "${name}-${toString number}.tar.xz";
            buildCommand = "fetch https://ftp.example.org/${name}/${name}-${toString number}.tar.xz";
          };
          outputs = if at - at / 3 * 3 == 0 then [ "out" "dev" "man" ] else [ "out" ];
          nativeBuildInputs = previous.tools;
          configureFlags = map (flag: "--enable-${flag}=${toString (at + number)}") tools;
          meta = {
            description = "Tool ${name} of stage ${toString number} of the standard environment";
            license = lib.licenses.gpl3Plus;
            platforms = lib.platforms.unix;
          };
        };
      made = builtins.genList tool (builtins.length tools);
    in
    { tools = made; shell = "${builtins.elemAt made 4}/bin/bash"; initialPath = made; };

  final = builtins.foldl' (previous: number: makeStage number previous)
    { tools = [ seed ]; shell = "/bin/sh"; initialPath = [ seed ]; }
    [ 0 1 2 3 4 ];

  stdenv = {
    inherit system shell;
    inherit (final) initialPath tools;
    mkDerivation = import ./make-derivation.nix {
      inherit lib system config setup hooks shell;
      # One derivation with all of the tools, on which each package depends.
      initialPath = environment;
    };
  };

  inherit (final) shell;

  environment = derivation {
    name = "stdenv-linux";
    inherit system setup hooks;
    builder = shell;
    args = [ setup ];
    inherit (final) initialPath;
  };
in
stdenv
