# The registry in a container, with its own Nix: `nix-build -A nixery-image`.
#
# Nix runs as root here, and builds as its build users, who cannot read the registry's
# files. There is no sandbox, since a container is not allowed to create one: builds see
# the container's network and each other's processes.
{
  pkgs,
  lib,
  nix,
  nixery,
  nixery-prepare,
  extraContents,
  maxLayers,
}:

let
  state = "/var/lib/nixery";
  cache = "/var/cache/nixery";

  buildUsers = lib.genList (at: {
    name = "nixbld${toString (at + 1)}";
    uid = toString (30001 + at);
  }) 32;

  passwd = pkgs.writeTextDir "etc/passwd" ''
    root:x:0:0:root:${state}:/bin/sh
    ${lib.concatMapStringsSep "\n" (
      user: "${user.name}:x:${user.uid}:30000:Nix build user:/var/empty:/bin/false"
    ) buildUsers}
    nobody:x:65534:65534:nobody:/var/empty:/bin/false
  '';

  # Nix takes its build users from the members that are listed.
  group = pkgs.writeTextDir "etc/group" ''
    root:x:0:
    nixbld:x:30000:${lib.concatMapStringsSep "," (user: user.name) buildUsers}
    nobody:x:65534:
  '';

  nsswitch = pkgs.writeTextDir "etc/nsswitch.conf" ''
    hosts: files dns
  '';

  nixConf = pkgs.writeTextDir "etc/nix/nix.conf" ''
    build-users-group = nixbld
    sandbox = false
    max-jobs = auto
  '';

  contents = [
    nixery
    nixery-prepare
    nix
    passwd
    group
    nsswitch
    nixConf
    pkgs.bashInteractive
    pkgs.cacert
    pkgs.coreutils
    pkgs.git
    pkgs.git-lfs
    pkgs.gnutar
    pkgs.gzip
    pkgs.openssh
    pkgs.tini
    pkgs.xz
    pkgs.dockerTools.binSh
    pkgs.dockerTools.caCertificates
    pkgs.dockerTools.usrBinEnv
  ]
  ++ extraContents;

  certificates = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";
in
pkgs.dockerTools.buildLayeredImage {
  name = "nixery";
  tag = nixery.version;
  inherit contents maxLayers;

  # Nix removes what lies in its store and is not registered, as soon as it wants to
  # build it: that would be the programs that run here.
  extraCommands = ''
    mkdir -p -m 755 .${state} .${cache} var/empty
    mkdir -m 1777 -p tmp var/tmp
    USER=nobody NIX_REMOTE="local?root=$PWD" ${pkgs.buildPackages.nix}/bin/nix-store --load-db \
      <${pkgs.closureInfo { rootPaths = contents; }}/registration
    # When that was would make each image another one.
    ${pkgs.buildPackages.sqlite}/bin/sqlite3 nix/var/nix/db/db.sqlite \
      'UPDATE ValidPaths SET registrationTime = 1'
    # Nor may a garbage collection take them.
    mkdir -p nix/var/nix/gcroots/image
    for path in ${lib.concatMapStringsSep " " toString contents}; do
      ln -s $path nix/var/nix/gcroots/image/
    done
  '';

  config = {
    # An init reaps what orphans the builds leave, and passes the signal to stop on.
    Entrypoint = [
      "${pkgs.tini}/bin/tini"
      "--"
      "${nixery}/bin/nixery"
    ];
    Env = [
      "PATH=/bin:/usr/bin"
      "HOME=${state}"
      "USER=root"
      "STATE_DIRECTORY=${state}"
      "CACHE_DIRECTORY=${cache}"
      "SSL_CERT_FILE=${certificates}"
      "NIX_SSL_CERT_FILE=${certificates}"
      "GIT_SSL_CAINFO=${certificates}"
      "PORT=8080"
    ];
    WorkingDir = state;
    ExposedPorts."8080/tcp" = { };
    Volumes = {
      ${state} = { };
      ${cache} = { };
    };
  };
}
