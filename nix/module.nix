# Nixery as a service of NixOS:
#
#     imports = [ /path/to/nixery/nix/module.nix ];
#     services.nixery.enable = true;
#     services.nixery.settings.pkgs_path = "/etc/packages";
#
# and several separate ones:
#
#     services.nixery.instances.blue.settings.port = 8081;
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) types;

  cfg = config.services.nixery;

  # The registries of this machine, by the names of their services, users and directories.
  registries = lib.filterAttrs (_: registry: registry.enable) (
    lib.mapAttrs' (name: lib.nameValuePair "nixery-${name}") cfg.instances // { nixery = cfg; }
  );

  each = function: lib.mapAttrs function registries;
  eachOf = function: lib.concatLists (lib.mapAttrsToList function registries);

  # A setting that is left alone keeps the daemon's own default.
  setting =
    type: description:
    lib.mkOption {
      type = types.nullOr type;
      default = null;
      inherit description;
    };

  given =
    unit: registry:
    lib.mapAttrs (name: _: "${credentialsDirectory unit}/${name}") (
      builtins.intersectAttrs settings registry.credentials
    )
    // lib.optionalAttrs registry.socket.enable {
      listen = lib.imap0 inherited registry.socket.addresses;
    }
    // lib.filterAttrs (_: value: value != null) registry.settings;

  file = unit: registry: (pkgs.formats.yaml { }).generate "${unit}.yaml" (given unit registry);

  # The directives of the unit for other systems, by their sections: what is decided
  # there, hardening above all, holds here as well.
  directives =
    section:
    let
      lines = lib.splitString "\n" (builtins.readFile ../nixery.service);
      read =
        state: line:
        let
          title = builtins.match "\\[([A-Za-z]+)]" line;
          pair = builtins.match "([A-Za-z]+)=(.*)" line;
          name = lib.head pair;
        in
        if title != null then
          state // { inside = lib.head title == section; }
        else if !state.inside || pair == null then
          state
        else if lib.hasSuffix "\\" line then
          throw "nixery.service: a directive goes on in the next line, which nix/module.nix cannot read"
        else
          state
          // {
            found = state.found // {
              ${name} = (state.found.${name} or [ ]) ++ [ (lib.elemAt pair 1) ];
            };
          };
      found =
        (lib.foldl' read {
          inside = false;
          found = { };
        } lines).found;
    in
    lib.mapAttrs (_: values: if lib.length values == 1 then lib.head values else values) found;

  # What is another way on NixOS: programs are in the store, and instances have services of
  # their own.
  shared = lib.filterAttrs (
    name: _:
    !(lib.hasPrefix "Exec" name)
    && !(lib.elem name [
      "EnvironmentFile"
      "LoadCredential"
    ])
  ) (directives "Service");

  limits = lib.filterAttrs (name: _: lib.hasPrefix "StartLimit" name) (directives "Unit");

  # What belongs to one registry alone, as nix/systemd/nixery@.service.d has it.
  own = unit: {
    User = unit;
    Group = unit;
    StateDirectory = unit;
    CacheDirectory = unit;
    RuntimeDirectory = unit;
    WorkingDirectory = "/var/lib/${unit}";
  };

  credentialsDirectory = unit: "/run/credentials/${unit}.service";

  # Directories that systemd does not make, and would let nobody write to.
  ownDirectories =
    registry:
    lib.filter (path: path != null) [
      registry.settings.state_directory
      registry.settings.cache_directory
      registry.settings.storage_path
    ];

  # Settings and options of registries that name files with secrets, by their values.
  secretFiles =
    registry:
    lib.filterAttrs (_: value: value != null) (
      {
        inherit (registry) environmentFile;
        inherit (registry.settings)
          gcs_signing_key
          google_application_credentials
          htpasswd_file
          nix_options_file
          signing_key
          tls_key
          token_key
          ;
      }
      // lib.mapAttrs' (name: lib.nameValuePair "credentials.${name}") registry.credentials
    );

  # A path that is not a text is copied into the store when it is written into a file.
  inStore = value: builtins.isPath value || lib.hasPrefix builtins.storeDir (toString value);

  # Settings whose value holds a secret itself.
  secretValues =
    registry:
    lib.optional (
      registry.settings.nix_options != null && registry.settings.nix_options ? access-tokens
    ) "nix_options"
    ++ lib.filter (
      name:
      let
        value = registry.settings.${name};
      in
      value != null && builtins.match "[a-z+]+://[^/@]*:[^/@]+@.*" value != null
    ) [
      "channel_url"
      "flake"
      "nixpkgs_url"
      "pkgs_repo"
      "popularity_url"
    ];

  # What a registry listens on, as far as that is known here.
  addresses =
    registry:
    if registry.socket.enable then
      registry.socket.addresses
    else if registry.settings.port != null then
      [ (toString registry.settings.port) ]
    else if registry.settings.listen != null then
      registry.settings.listen
    else
      [ "127.0.0.1:8080" ];

  addressesOfOthers =
    unit: lib.concatMap addresses (lib.attrValues (removeAttrs registries [ unit ]));

  privileged =
    registry:
    !registry.socket.enable && registry.settings.port != null && registry.settings.port < 1024;

  # How Twisted takes over a socket that systemd has opened.
  inherited =
    index: address:
    let
      domain =
        if lib.hasPrefix "/" address then
          "UNIX"
        else if builtins.match "[0-9]+|\\[.*" address != null then
          "INET6"
        else
          "INET";
    in
    "systemd:domain=${domain}:index=${toString index}";

  settings = {
    listen = setting (types.listOf types.str) "Addresses to listen on: Twisted endpoint strings (TCP, TLS, UNIX, systemd sockets).";
    port = setting types.port "TCP port to listen on, on every interface.";
    tls_certificate = setting types.path "Certificate file, with its intermediate authorities: ports then speak TLS.";
    tls_key = setting types.path "Private key file of the certificate.";
    public_url = setting types.str "URL at which clients reach this registry: the base of links and pull commands.";
    allowed_hosts = setting (types.listOf types.str) "Additional host names for the pages in browsers, as [nixery.lan, *.example]; *: any.";
    auth = setting (types.enum [ "none" "htpasswd" "token" ]) "How users log in: none (anyone may pull), htpasswd, or token (Docker's tokens).";
    htpasswd_file = setting types.path "File of users and bcrypt hashes of their passwords, as htpasswd -B writes it.";
    auth_rules = setting (types.attrsOf (types.listOf types.str)) "Packages that a user may pull, as {alice: [shell, git]}; users without rules may pull all.";
    token_key = setting types.path "Private key file that signs tokens; the same for all replicas.";
    signing_key = setting types.path "Private key file that signs images: ECDSA P-256 or Ed25519, in PEM.";
    signing_key_previous = setting (types.listOf types.path) "Public key files of earlier signing keys, whose signatures are still served.";
    trusted_proxies = setting (types.listOf types.str) "Proxies whose X-Forwarded-For is trusted: addresses, networks, unix for UNIX sockets.";
    requests_per_client = setting types.ints.unsigned "Requests per second that one client may send, in bursts of 20 times that; 0: unlimited.";
    builds_per_client = setting types.ints.unsigned "Images that one client may have built, or waiting, at once; 0: unlimited.";
    builds_per_client_per_hour = setting types.ints.unsigned "Images that one client may have built in an hour; 0: unlimited.";
    connections_per_client = setting types.ints.unsigned "Connections that one client may have; 0: unlimited.";
    idle_timeout = setting types.numbers.positive "How long a connection may wait for its next request, in seconds.";
    max_unsent_size = setting (types.either types.ints.unsigned types.str) "Memory for data that clients have not received yet, for all of them; 0: unlimited.";
    max_packages = setting (types.ints.between 1 1000) "Packages that an image may be asked for.";
    max_closure_size = setting (types.either types.ints.unsigned types.str) "Size that an image may have, unpacked, with all dependencies, as 32 GiB.";
    allow_packages = setting (types.listOf types.str) "Packages to serve, as [shell, git, python3Packages.*], and no others.";
    deny_packages = setting (types.listOf types.str) "Packages never to serve, whatever package set has them.";
    channel = setting types.str "Nixpkgs channel to take packages from, or a full nixpkgs commit.";
    pkgs_repo = setting types.str "Git repository with the package set to take packages from.";
    pkgs_path = setting types.path "Path of the package set to take packages from.";
    flake = setting types.str "Flake to take packages from, as github:owner/repository.";
    allow_unlocked_flake = setting types.bool "Allow inputs of the flake that its flake.lock does not fix, and that may change.";
    pkgs_repo_kind = setting (types.enum [ "package-set" "overlay" ]) "Content of the git repository: a package-set, or an overlay on nixpkgs.";
    pkgs_ref = setting types.str "Branch, tag or full commit of the git repository that the tag latest means.";
    submodules = setting types.bool "Fetch the git repository's submodules.";
    lfs = setting types.bool "Fetch the git repository's files in Git LFS; needs git-lfs.";
    base_channel = setting types.str "Nixpkgs channel, or full nixpkgs commit, that an overlay is applied to.";
    overlays = setting (types.listOf types.path) "Files or directories with overlays to apply to the package set.";
    nix_path = setting (types.attrsOf types.str) "Meaning of <name> in package sets, as {nixpkgs: /srv/nixpkgs}: path, or archive's URL#HASH.";
    extra_paths = setting (types.listOf types.path) "Files or directories outside of package sets and overlays that these may read.";
    allowed_tags = setting (types.listOf types.str) "Tags to serve besides latest: patterns as nixos-*, or latest alone.";
    allow_any_commit = setting types.bool "Allow any commit as a tag, including commits from forks (lets strangers choose code to build).";
    source_ttl = setting types.numbers.nonnegative "How long to use a channel, branch or tag before it is looked up again, in seconds; 0: look at every pull.";
    channel_url = setting types.str "Host that tells the commit of a channel.";
    nixpkgs_url = setting types.str "URL of the archive of a nixpkgs commit.";
    system = setting (types.enum [
          "aarch64-linux"
          "armv6l-linux"
          "armv7l-linux"
          "i686-linux"
          "powerpc64le-linux"
          "riscv64-linux"
          "s390x-linux"
          "x86_64-linux"
        ]) "Nix system of images whose name does not choose one.";
    platforms = setting (types.listOf (types.enum [
          "aarch64-linux"
          "armv6l-linux"
          "armv7l-linux"
          "i686-linux"
          "powerpc64le-linux"
          "riscv64-linux"
          "s390x-linux"
          "x86_64-linux"
        ])) "Nix systems to serve as one index under each tag whose name does not choose one; must include system.";
    platforms_missing = setting (types.enum [
          "skip"
          "fail"
        ]) "For an index that lacks a platform: skip it, or fail the pull.";
    nixpkgs_config = setting (types.attrsOf types.anything) "Config argument of the package set, as {allowUnfree: true}.";
    state_directory = setting types.path "Directory for what must survive a restart: garbage collection roots, and stored images by default.";
    cache_directory = setting types.path "Directory for what may be lost: the home and the caches of the Nix commands.";
    storage_backend = setting (types.enum [
          "filesystem"
          "gcs"
        ]) "Storage of images: filesystem or gcs (Google Cloud Storage).";
    storage_path = setting types.path "Directory of the filesystem storage.";
    max_storage_size = setting (types.either types.ints.unsigned types.str) "Size of stored images, as 200 GiB; those not pulled for longest are deleted first.";
    max_image_age = setting types.numbers.positive "How long to keep an image after its last pull, in seconds.";
    min_free_space = setting (types.either types.ints.unsigned types.str) "Build nothing while less is free on the disk of the storage: 1 GiB, or 5%; 0: off.";
    gcs_bucket = setting types.str "Bucket of Google Cloud Storage.";
    gcs_signing_key = setting types.path "Private key file that signs download URLs.";
    gcs_signing_account = setting types.str "Service account that download URLs are signed for.";
    gcs_redirect = setting types.bool "Redirect clients to the bucket, instead of sending blobs through the daemon.";
    gcs_endpoint = setting types.str "URL of Google Cloud Storage, if not the usual one.";
    google_application_credentials = setting types.path "Credentials file for Google Cloud Storage.";
    nix_timeout = setting types.ints.positive "How long the build of one derivation may take, in seconds; it may print nothing for half of that.";
    build_deadline = setting types.numbers.positive "How long the build of one image may take in all, once its turn has come, in seconds.";
    eval_timeout = setting types.numbers.positive "How long the evaluation of one image's packages may take, in seconds.";
    max_eval_memory = setting types.ints.positive "Memory that an evaluation may use, in MiB.";
    evaluators = setting (types.ints.between 0 64) "Package sets to keep in memory, so that evaluations need not read them again.";
    max_builds = setting types.ints.positive "Images to evaluate at once, and images to build at once.";
    allow_import_from_derivation = setting types.bool "Allow evaluations to build what they read.";
    allow_unpinned_fetches = setting types.bool "Allow evaluations to fetch what has no hash or commit, and may change.";
    substitute_only = setting types.bool "Take everything from binary caches, and build nothing here.";
    nix_options = setting (types.attrsOf types.anything) "Additional options of nix.conf for every Nix command, as {max-jobs: 4}.";
    nix_options_file = setting types.path "File of such options, as in nix.conf: for secret ones, as access-tokens.";
    layer_budget = setting (types.ints.between 1 125) "Layers of packages that an image may have.";
    compression = setting (types.strMatching "none|gzip(-[0-3])?|zstd(-chunked)?(-([1-9]|1[0-9]))?") "Compression of layers: gzip, zstd (for Docker 23 and later), zstd-chunked (for partial pulls) or none; zstd-9: with a level.";
    layer_strategy = setting (types.enum [ "affinity" "dominators" ]) "How to group packages into layers; dominators is the first Nixery's way.";
    popularity_url = setting types.str "URL to fetch popularity data from, once; they are kept in the state directory.";
    evaluation_ttl = setting types.numbers.nonnegative "How long to trust the evaluation of a package set whose changes may go unnoticed, in seconds.";
    stale_while_revalidate = setting types.numbers.nonnegative "How long to serve an old image while that of a new revision is being built, in seconds.";
    builder_id = setting types.str "URI of the builder in the provenance of images.";
    provenance_time = setting types.bool "Put the time of the build into the provenance of an image.";
    pull_wait_timeout = setting types.numbers.positive "How long to hold a request before answering 429 (Docker's are always held), in seconds.";
    shutdown_timeout = setting types.numbers.nonnegative "How long running builds may go on when the daemon is stopped, in seconds.";
    web_ui = setting types.bool "Serve pages for people: builds, images, documentation.";
    show_builds = setting types.bool "Show everyone on /builds what is being built, with names and logs.";
    max_build_log_size = setting (types.either types.ints.unsigned types.str) "Disk space in the cache directory for the logs of the builds on /builds; 0 keeps only the last 1,000 lines of each.";
    show_images = setting types.bool "Show everyone on /images which images were pulled, and what is in them.";
    metrics = setting types.bool "Serve metrics for Prometheus on /metrics, without names and addresses.";
    log_format = setting (types.enum [ "text" "json" ]) "Format of the log: text for people, or json, an object per line.";
    cpu_workers = setting types.ints.positive "Layers to pack at once.";
  };

  # Former names of settings, and the opposite of one. The daemon accepts them for one release.
  renamed = {
    client_rate = "requests_per_client";
    client_builds = "builds_per_client";
    client_builds_hourly = "builds_per_client_per_hour";
    client_connections = "connections_per_client";
    max_closure = "max_closure_size";
    revisions = "allowed_tags";
    max_bytes = "max_storage_size";
    max_age = "max_image_age";
    min_free = "min_free_space";
    eval_memory = "max_eval_memory";
    serve_stale = "stale_while_revalidate";
    request_deadline = "pull_wait_timeout";
    stop_grace = "shutdown_timeout";
    site = "web_ui";
  };
  inverted.gcs_proxy = "gcs_redirect";

  # Settings that have no effect any more; accepted for one release.
  removed = [
    "blob_recheck"
    "client_burst"
    "compression_level"
    "evaluations"
    "failure_cache_ttl"
    "failure_ttl"
    "fetch_timeout"
    "gcs_chunk_size"
    "gcs_workers"
    "head_timeout"
    "layer_affinity"
    "layer_classes"
    "layer_common_share"
    "layer_minimum_size"
    "layer_popularity_threshold"
    "layer_size_threshold"
    "layer_unit_size"
    "manifest_memory"
    "manifest_ttl"
    "max_connections"
    "max_evaluations"
    "max_queue"
    "max_queued_builds"
    "min_response_rate"
    "min_send_rate"
    "nix_max_silent"
    "popularity_refresh"
    "request_read_timeout"
    "requests_per_client_burst"
    "retention_grace"
    "retention_interval"
    "send_timeout"
    "source_keep"
    "source_retention"
    "source_timeout"
    "stall_timeout"
    "storage_workers"
  ];

  deprecated =
    lib.mapAttrs (_: name: settings.${name} // { visible = false; }) (renamed // inverted)
    // builtins.listToAttrs (
      map (
        name: lib.nameValuePair name (setting types.anything "Has no effect." // { visible = false; })
      ) removed
    );

  adviceOn =
    name:
    if renamed ? ${name} then
      "is now called settings.${renamed.${name}}"
    else if inverted ? ${name} then
      "is now settings.${inverted.${name}}, with the opposite value"
    else
      "was removed and has no effect";

  # The options of each registry.
  registryOptions =
    { default, defaultText }:
    {
      package = lib.mkOption {
        type = types.package;
        inherit default defaultText;
        description = "The package of the registry.";
      };

      openFirewall = lib.mkOption {
        type = types.bool;
        default = false;
        description = "Open {option}`settings.port` in the firewall.";
      };

      environmentFile = lib.mkOption {
        type = types.nullOr types.path;
        default = null;
        description = "A file of environment variables, for settings with secrets: all users can read the Nix store.";
      };

      credentials = lib.mkOption {
        type = types.attrsOf types.path;
        default = { };
        example = {
          gcs_signing_key = "/run/secrets/nixery-gcs.json";
          "tls.pem" = "/var/lib/secrets/registry.pem";
        };
        description = ''
          Files that systemd reads as root when the service starts, and that only the service
          can read, as `/run/credentials/UNIT.service/NAME`. If the name is that of a setting,
          the file becomes the value of the setting.
        '';
      };

      socket = {
        enable = lib.mkEnableOption "socket activation: systemd listens, and starts Nixery for the first client";

        addresses = lib.mkOption {
          type = types.listOf types.str;
          default = [ "127.0.0.1:8080" ];
          example = [
            "80"
            "[::1]:8080"
          ];
          description = "Addresses and ports that systemd listens on.";
        };
      };

      settings = lib.mkOption {
        type = types.submodule { options = settings // deprecated; };
        default = { };
        description = "The settings of the registry; `twistd nixery --help` explains them.";
      };
    };
in
{
  options.services.nixery =
    registryOptions {
      default = (import ../default.nix { inherit pkgs; }).nixery;
      defaultText = lib.literalMD "the package of this checkout";
    }
    // {
      enable = lib.mkEnableOption "Nixery, a container registry that builds images with Nix";

      instances = lib.mkOption {
        type = types.attrsOf (
          types.submodule {
            options =
              registryOptions {
                default = cfg.package;
                defaultText = lib.literalMD "{option}`services.nixery.package`";
              }
              // {
                enable = lib.mkOption {
                  type = types.bool;
                  default = true;
                  description = "Run this registry.";
                };
              };
          }
        );
        default = { };
        example = {
          blue.settings.port = 8081;
          green.settings.port = 8082;
        };
        description = ''
          Further registries on this machine, by their names: each is a service
          `nixery-NAME` with a user, directories and settings of its own.
        '';
      };
    };

  config = lib.mkIf (registries != { }) {
    assertions = eachOf (
      unit: registry: [
        {
          assertion = registry.openFirewall -> registry.settings.port != null;
          message = "${unit}: openFirewall needs settings.port";
        }
        {
          assertion = registry.socket.enable -> registry.settings.port == null;
          message = "${unit}: set either settings.port or socket.enable, not both";
        }
        {
          assertion = lib.intersectLists (addresses registry) (addressesOfOthers unit) == [ ];
          message = "${unit}: another registry of services.nixery listens on the same address";
        }
      ]
      ++ lib.mapAttrsToList (name: value: {
        assertion = !inStore value;
        message = "${unit}: ${name} would be in the Nix store, which all users can read: give the path of a file elsewhere, as a string";
      }) (secretFiles registry)
      ++ map (name: {
        assertion = false;
        message = "${unit}: settings.${name} has a secret, which would be in the Nix store, where all users can read it: use nix_options_file, credentials or environmentFile";
      }) (secretValues registry)
    );

    warnings = eachOf (
      unit: registry:
      map (name: "${unit}: settings.${name} ${adviceOn name}") (
        lib.filter (name: registry.settings.${name} != null) (lib.attrNames deprecated)
      )
    );

    users.users = each (
      unit: _: {
        isSystemUser = true;
        group = unit;
        description = "Nixery";
      }
    );
    users.groups = each (_: _: { });

    # Enough to build; a trusted user would be as good as root.
    nix.settings.extra-allowed-users = lib.attrNames registries;

    # nixery-admin, above all.
    environment.systemPackages = lib.unique (
      map (registry: registry.package) (lib.attrValues registries)
    );

    networking.firewall.allowedTCPPorts = eachOf (
      _: registry: lib.optional registry.openFirewall registry.settings.port
    );

    systemd.sockets = lib.mapAttrs (_: registry: {
      description = "Container registry that builds images with Nix";
      wantedBy = [ "sockets.target" ];
      listenStreams = registry.socket.addresses;
      # As in nix/systemd/nixery.socket.
      socketConfig = {
        TriggerLimitIntervalSec = "10min";
        TriggerLimitBurst = 20;
      };
    }) (lib.filterAttrs (_: registry: registry.socket.enable) registries);

    systemd.services = each (
      unit: registry: {
        description = "Container registry that builds images with Nix";
        wantedBy = lib.optional (!registry.socket.enable) "multi-user.target";
        requires = [ "nix-daemon.socket" ];
        wants = [ "network-online.target" ];
        after = [
          "nix-daemon.socket"
          "network-online.target"
          "time-sync.target"
        ];
        path = [ config.nix.package ] ++ registry.package.runtimePrograms;
        unitConfig = limits;
        serviceConfig =
          shared
          // own unit
          // {
            ExecStart = "${registry.package}/bin/nixery --config ${file unit registry}";
            ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
            ReadWritePaths = ownDirectories registry;
            LoadCredential = lib.mapAttrsToList (name: path: "${name}:${path}") registry.credentials;
          }
          // lib.optionalAttrs (registry.environmentFile != null) {
            EnvironmentFile = registry.environmentFile;
          }
          // lib.optionalAttrs (privileged registry) {
            AmbientCapabilities = "CAP_NET_BIND_SERVICE";
            CapabilityBoundingSet = "CAP_NET_BIND_SERVICE";
            # Capabilities in a user namespace are none over the machine's ports.
            PrivateUsers = false;
          };
      }
    );
  };
}
