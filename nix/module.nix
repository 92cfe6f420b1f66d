# Nixery as a service of NixOS:
#
#     imports = [ /path/to/nixery/nix/module.nix ];
#     services.nixery.enable = true;
#     services.nixery.settings.pkgs_path = "/etc/packages";
#
# and several of them, which have nothing in common:
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
    listen = setting (types.listOf types.str) "Where to listen: Twisted endpoint strings (TCP, TLS, UNIX, systemd sockets).";
    port = setting types.port "Listen on this TCP port of every interface.";
    tls_certificate = setting types.path "The file of the certificate, then its authorities: ports then speak TLS.";
    tls_key = setting types.path "The file of the certificate's private key.";
    public_url = setting types.str "How clients reach this registry: the base of links and pull commands.";
    allowed_hosts = setting (types.listOf types.str) "Further names under which browsers may open the pages, as [nixery.lan, *.example]; *: any.";
    auth = setting (types.enum [ "none" "htpasswd" "token" ]) "Who may pull: none (everybody), or users by password: htpasswd, or token, with both.";
    htpasswd_file = setting types.path "The file of users and the bcrypt hashes of their passwords, as htpasswd -B writes it.";
    auth_rules = setting (types.attrsOf (types.listOf types.str)) "The packages that a user may have, as {alice: [shell, git]}; others have all.";
    token_key = setting types.path "The file of the private key that signs tokens; the same for all replicas.";
    signing_key = setting types.path "The file of the private key that signs images, ECDSA P-256 or Ed25519 in PEM.";
    signing_key_previous = setting (types.listOf types.path) "The files of the public keys that signed before; their signatures are still served.";
    trusted_proxies = setting (types.listOf types.str) "Whose X-Forwarded-For is believed: addresses, networks, unix for UNIX sockets.";
    requests_per_client = setting types.ints.unsigned "How many requests one client may send in the long run, in requests a second, and 20 times that at once; 0: any.";
    builds_per_client = setting types.ints.unsigned "How many images are made at once, or wait for it, for one client; 0: any number.";
    builds_per_client_per_hour = setting types.ints.unsigned "How many images are made in an hour for one client; 0: any number.";
    connections_per_client = setting types.ints.unsigned "How many connections one client may have; 0: any number.";
    idle_timeout = setting types.numbers.positive "How long a connection may wait for its next request, in seconds.";
    max_unsent_size = setting (types.either types.ints.unsigned types.str) "How much may wait in memory for all clients to take it; 0: any amount.";
    max_packages = setting (types.ints.between 1 1000) "How many packages an image may be asked for.";
    max_closure_size = setting (types.either types.ints.unsigned types.str) "How large an image may be, unpacked, with all that its packages need, as 32 GiB.";
    allow_packages = setting (types.listOf types.str) "Which packages are served, as [shell, git, python3Packages.*], and no others.";
    deny_packages = setting (types.listOf types.str) "Which packages are not served, wherever they are found.";
    channel = setting types.str "Take packages from this nixpkgs channel, or this full nixpkgs commit.";
    pkgs_repo = setting types.str "Take packages from the package set in this git repository.";
    pkgs_path = setting types.path "Take packages from the package set at this path.";
    flake = setting types.str "Take packages from this flake, as github:owner/repository.";
    allow_unlocked_flake = setting types.bool "Whether the flake may have inputs that its flake.lock does not fix, and that move.";
    pkgs_repo_kind = setting (types.enum [ "package-set" "overlay" ]) "What is in the git repository: a package-set, or an overlay on nixpkgs.";
    pkgs_ref = setting types.str "The branch, tag or full commit of the git repository that the tag latest means.";
    submodules = setting types.bool "Whether the git repository's submodules are fetched with it.";
    lfs = setting types.bool "Whether the git repository's files in Git LFS are fetched with it; needs git-lfs.";
    base_channel = setting types.str "The nixpkgs channel, or full nixpkgs commit, that an overlay is applied to.";
    overlays = setting (types.listOf types.path) "Files or directories with overlays, which the package set is extended by.";
    nix_path = setting (types.attrsOf types.str) "What <name> means, as {nixpkgs: /srv/nixpkgs}: a path, or an archive's URL#HASH.";
    extra_paths = setting (types.listOf types.path) "Files or directories that package sets and overlays may read besides their own.";
    allowed_tags = setting (types.listOf types.str) "Which tags are served besides latest: patterns as nixos-*, or latest alone.";
    allow_any_commit = setting types.bool "Whether a tag may be any commit, even one of a fork: code of anybody's is then built.";
    source_ttl = setting types.numbers.nonnegative "How long a channel, branch or tag is not looked up again, in seconds; 0: look at every pull.";
    channel_url = setting types.str "The host that says which commit a channel is at.";
    nixpkgs_url = setting types.str "The archive of a nixpkgs commit.";
    system = setting (types.enum [
          "aarch64-linux"
          "armv6l-linux"
          "armv7l-linux"
          "i686-linux"
          "powerpc64le-linux"
          "riscv64-linux"
          "s390x-linux"
          "x86_64-linux"
        ]) "The Nix system of images whose name chooses none.";
    platforms = setting (types.listOf (types.enum [
          "aarch64-linux"
          "armv6l-linux"
          "armv7l-linux"
          "i686-linux"
          "powerpc64le-linux"
          "riscv64-linux"
          "s390x-linux"
          "x86_64-linux"
        ])) "The Nix systems that every tag serves whose name chooses none, as an index; system is one.";
    platforms_missing = setting (types.enum [
          "skip"
          "fail"
        ]) "What becomes of an index if a platform cannot be had: it lacks that, or the pull fails.";
    nixpkgs_config = setting (types.attrsOf types.anything) "What the package set gets as its config argument, as {allowUnfree: true}.";
    state_directory = setting types.path "What must survive a restart: garbage collection roots, and stored images by default.";
    cache_directory = setting types.path "What may be lost: the home and the caches of the Nix commands.";
    storage_backend = setting (types.enum [
          "filesystem"
          "gcs"
        ]) "Where images are stored: filesystem or gcs (Google Cloud Storage).";
    storage_path = setting types.path "The directory of the filesystem storage.";
    max_storage_size = setting (types.either types.ints.unsigned types.str) "How much stored images may take, as 200 GiB; those not pulled for longest go first.";
    max_image_age = setting types.numbers.positive "How long after its last pull an image is kept, in seconds.";
    min_free_space = setting (types.either types.ints.unsigned types.str) "Nothing is built while less is free on the disk of the storage: 1 GiB, or 5%; 0: off.";
    gcs_bucket = setting types.str "The bucket of the Google Cloud Storage.";
    gcs_signing_key = setting types.path "The file of the private key that signs download URLs.";
    gcs_signing_account = setting types.str "The service account that download URLs are signed for.";
    gcs_redirect = setting types.bool "Whether clients are redirected to the bucket, or get blobs through the daemon.";
    gcs_endpoint = setting types.str "Where the Google Cloud Storage is reached, if not at its usual address.";
    google_application_credentials = setting types.path "The file of the credentials for the Google Cloud Storage.";
    nix_timeout = setting types.ints.positive "How long the build of one derivation may take, in seconds; it may print nothing for half of that.";
    build_deadline = setting types.numbers.positive "How long the making of one image may take in all, once its turn has come, in seconds.";
    eval_timeout = setting types.numbers.positive "How long the evaluation of one image's packages may take, in seconds.";
    max_eval_memory = setting types.ints.positive "How much memory an evaluation may use, in MiB.";
    evaluators = setting (types.ints.between 0 64) "How many package sets stay in memory, so that evaluations need not read them again.";
    max_builds = setting types.ints.positive "How many images are evaluated at once, and how many are made.";
    allow_import_from_derivation = setting types.bool "Whether an evaluation may build what it reads.";
    allow_unpinned_fetches = setting types.bool "Whether an evaluation may fetch what has no hash or commit, so that it may change.";
    substitute_only = setting types.bool "Whether everything has to come from binary caches, and nothing is built here.";
    nix_options = setting (types.attrsOf types.anything) "Further options of nix.conf for every Nix command, as {max-jobs: 4}.";
    nix_options_file = setting types.path "A file of such options, as nix.conf has them: for those that are secret, as access-tokens.";
    layer_budget = setting (types.ints.between 1 125) "How many layers of packages an image may have.";
    compression = setting (types.strMatching "none|gzip(-[0-3])?|zstd(-chunked)?(-([1-9]|1[0-9]))?") "The form of layers: gzip, zstd (Docker reads it from 23 on), zstd-chunked (for partial pulls) or none; zstd-9: with a level.";
    layer_strategy = setting (types.enum [ "affinity" "dominators" ]) "How packages are put into layers; dominators is the first Nixery's way.";
    popularity_url = setting types.str "Where popularity data are fetched, once, to be kept in the state directory.";
    evaluation_ttl = setting types.numbers.nonnegative "How long the evaluation of a package set is believed whose changes may go unseen, in seconds.";
    stale_while_revalidate = setting types.numbers.nonnegative "How long an old image is served while that of a new revision is being built, in seconds.";
    builder_id = setting types.str "The URI by which the provenance of images names who built them.";
    provenance_time = setting types.bool "Whether the provenance of an image has the time of its build.";
    pull_wait_timeout = setting types.numbers.positive "How long a request waits for its image, unless it is Docker's, which waits for ever, in seconds.";
    shutdown_timeout = setting types.numbers.nonnegative "How long the builds that run may go on when the daemon is stopped, in seconds.";
    web_ui = setting types.bool "Whether there are pages for people: what this is, builds, images, documentation.";
    show_builds = setting types.bool "Whether /builds shows everyone what is being built, with names and logs.";
    show_images = setting types.bool "Whether /images shows everyone which images were pulled, and what is in them.";
    metrics = setting types.bool "Whether /metrics tells Prometheus what is going on, without names and addresses.";
    log_format = setting (types.enum [ "text" "json" ]) "How the log is written: text for people, or json, an object a line.";
    cpu_workers = setting types.ints.positive "How many layers are packed at once.";
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

  # What there is to say of each registry.
  registryOptions =
    { default, defaultText }:
    {
      package = lib.mkOption {
        type = types.package;
        inherit default defaultText;
        description = "The package of the daemon.";
      };

      openFirewall = lib.mkOption {
        type = types.bool;
        default = false;
        description = "Whether to let others reach {option}`settings.port`.";
      };

      environmentFile = lib.mkOption {
        type = types.nullOr types.path;
        default = null;
        description = "A file of environment variables, for settings that do not belong into the store.";
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
          can read, as `/run/credentials/UNIT.service/NAME`. One that is called as a setting
          becomes its value.
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
          description = "What systemd listens on: addresses and ports.";
        };
      };

      settings = lib.mkOption {
        type = types.submodule { options = settings // deprecated; };
        default = { };
        description = "The configuration file of the daemon, as `nixery --help` explains it.";
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
                  description = "Whether to run this registry.";
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
          message = "${unit}: settings.port and socket.enable exclude each other";
        }
        {
          assertion = lib.intersectLists (addresses registry) (addressesOfOthers unit) == [ ];
          message = "${unit}: another registry of services.nixery listens on the same address";
        }
      ]
      ++ lib.mapAttrsToList (name: value: {
        assertion = !inStore value;
        message = "${unit}: ${name} would be in the Nix store, which everybody can read: give the path of a file elsewhere, as a text";
      }) (secretFiles registry)
      ++ map (name: {
        assertion = false;
        message = "${unit}: settings.${name} has a secret, which would be in the Nix store, where everybody can read it: use nix_options_file, credentials or environmentFile";
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
