"""
Declares the settings, each once.

:data:`SETTINGS` is the one table of what can be configured: the name of a setting in the
configuration file, its environment variable and its option, the kind of its value, and one line
that says what it does. The command line, the check of the file, the reading of the environment and
the reference documentation are all made from it; a new setting is one more row, and a field of
:class:`nixery.config.config.Config`.
"""

from __future__ import annotations

from attrs import frozen

from nixery.config import types
from nixery.config.types import Kind
from nixery.layers.compression_levels import DEFAULT_KIND, LEVELS
from nixery.limits.addresses import TrustedProxies
from nixery.runtime.sizes import FreeSpaceLimit
from nixery.sources.source import NIXPKGS_URL

__all__ = ["ANY_VALUE", "SETTINGS", "SYSTEMS", "Setting"]


ANY_VALUE = object()
"""Stands for any value in a setting's ``requires``: the other setting need only have a value."""


@frozen(kw_only=True)
class Setting:
    """
    One setting of the configuration.

    :param name: its name in the configuration file.
    :param kind: the kind of its value.
    :param help: its effect, in one line without a full stop.
    :param default: its value where no layer gives one.
    :param default_text: the default as documentation shows it, if it is determined when the daemon
        starts.
    :param variable: the environment variable, where there is one.
    :param group: settings of one group are alternatives: one layer gives at most
        one of them, and it replaces those of lower layers.
    :param requires: a setting, and the value that it must have for this one to
        mean anything, or :data:`ANY_VALUE`.
    :param secret: whether its value must never be shown.
    """

    name: str
    kind: Kind
    help: str
    default: object = None
    default_text: str | None = None
    variable: str | None = None
    group: str | None = None
    requires: tuple[str, object] | None = None
    secret: bool = False

    @property
    def option(self) -> str:
        """The option of the command line, without its dashes."""
        return self.name.replace("_", "-")


SYSTEMS = (
    "aarch64-linux",
    "armv6l-linux",
    "armv7l-linux",
    "i686-linux",
    "powerpc64le-linux",
    "riscv64-linux",
    "s390x-linux",
    "x86_64-linux",
)
"""The Nix systems that images can be made for."""

SETTINGS: tuple[Setting, ...] = (
    # The addresses of the daemon.
    Setting(
        name="listen",
        kind=types.ENDPOINTS,
        help="where to listen: Twisted endpoint strings (TCP, TLS, UNIX, systemd sockets)",
        default=("tcp:8080:interface=127.0.0.1",),
        default_text="tcp:8080:interface=127.0.0.1",
        group="listening",
    ),
    Setting(
        name="port",
        kind=types.integer(1, 65535),
        help="listen on this TCP port of every interface",
        variable="PORT",
        group="listening",
    ),
    Setting(
        name="tls_certificate",
        kind=types.PATH,
        help="the file of the certificate, then its authorities: ports then speak TLS",
        requires=("tls_key", ANY_VALUE),
    ),
    Setting(
        name="tls_key",
        kind=types.PATH,
        help="the file of the certificate's private key",
        requires=("tls_certificate", ANY_VALUE),
    ),
    Setting(
        name="public_url",
        kind=types.BASE_URL,
        help="how clients reach this registry: the base of links and pull commands",
        default_text="the address that is listened on",
    ),
    # Authentication.
    Setting(
        name="auth",
        kind=types.choice("none", "htpasswd", "token"),
        help="who may pull: none (everybody), or users by password: htpasswd, or token, with both",
        default="none",
    ),
    Setting(
        name="htpasswd_file",
        kind=types.PATH,
        help="the file of users and the bcrypt hashes of their passwords, as htpasswd -B writes it",
    ),
    Setting(
        name="auth_rules",
        kind=types.AUTH_RULES,
        help="the packages that a user may have, as {alice: [shell, git]}; others have all",
        default={},
        default_text="{}",
    ),
    Setting(
        name="token_key",
        kind=types.PATH,
        help="the file of the private key that signs tokens; the same for all replicas",
        default_text="token-key.pem in the state directory, made at the first start",
        requires=("auth", "token"),
    ),
    # Limits for clients.
    Setting(
        name="trusted_proxies",
        kind=types.PROXIES,
        help="whose X-Forwarded-For is believed: addresses, networks, unix for UNIX sockets",
        default=TrustedProxies(),
        default_text="nobody's",
    ),
    Setting(
        name="client_rate",
        kind=types.integer(0, 1_000_000, unit="requests a second"),
        help="how many requests one client may send in the long run; 0: any number",
        default=1000,
    ),
    Setting(
        name="client_burst",
        kind=types.integer(1, 10_000_000, unit="requests"),
        help="how many requests one client may send at once",
        default=20_000,
    ),
    Setting(
        name="client_builds",
        kind=types.integer(0, 100_000, unit="images"),
        help="how many images are made at once, or wait for it, for one client; 0: any number",
        default=50,
    ),
    Setting(
        name="client_builds_hourly",
        kind=types.integer(0, 1_000_000, unit="images"),
        help="how many images are made in an hour for one client; 0: any number",
        default=1000,
    ),
    Setting(
        name="client_connections",
        kind=types.integer(0, 1_000_000, unit="connections"),
        help="how many connections one client may have; 0: any number",
        default=5000,
    ),
    Setting(
        name="max_connections",
        kind=types.integer(0, 1_000_000, unit="connections"),
        help="how many connections there may be, if there may be files for them; 0: any number",
        default=10_000,
    ),
    Setting(
        name="head_timeout",
        kind=types.SECONDS,
        help="how long a request may take to arrive, from its first byte to its last",
        default=30.0,
    ),
    Setting(
        name="idle_timeout",
        kind=types.SECONDS,
        help="how long a connection may wait for its next request",
        default=60.0,
    ),
    Setting(
        name="stall_timeout",
        kind=types.SECONDS,
        help="how long a client may take nothing of what it downloads",
        default=600.0,
    ),
    Setting(
        name="min_send_rate",
        kind=types.integer(0, unit="bytes a second"),
        help="what a client must take of a download in the long run; 0: nothing",
        default=1024,
    ),
    Setting(
        name="max_packages",
        kind=types.integer(1, 1000, unit="packages"),
        help="how many packages an image may be asked for",
        default=100,
    ),
    Setting(
        name="max_closure",
        kind=types.SIZE,
        help="how large an image may be, unpacked, with all that its packages need, as 32 GiB",
        default=32 * 2**30,
        default_text="32 GiB",
    ),
    Setting(
        name="allow_packages",
        kind=types.PACKAGES,
        help="which packages are served, as [shell, git, python3Packages.*], and no others",
        default_text="all",
    ),
    Setting(
        name="deny_packages",
        kind=types.PACKAGES,
        help="which packages are not served, wherever they are found",
        default_text="none",
    ),
    # Package sources.
    Setting(
        name="channel",
        kind=types.CHANNEL,
        help="take packages from this nixpkgs channel, or this full nixpkgs commit",
        default="nixos-unstable",
        variable="NIXERY_CHANNEL",
        group="source",
    ),
    Setting(
        name="pkgs_repo",
        kind=types.REPOSITORY,
        help="take packages from the package set in this git repository",
        variable="NIXERY_PKGS_REPO",
        group="source",
    ),
    Setting(
        name="pkgs_path",
        kind=types.PATH,
        help="take packages from the package set at this path",
        variable="NIXERY_PKGS_PATH",
        group="source",
    ),
    Setting(
        name="pkgs_repo_kind",
        kind=types.choice("package-set", "overlay"),
        help="what is in the git repository: a package-set, or an overlay on nixpkgs",
        default="package-set",
        requires=("pkgs_repo", ANY_VALUE),
    ),
    Setting(
        name="pkgs_ref",
        kind=types.REF,
        help="the branch, tag or full commit of the git repository that the tag latest means",
        default_text="the repository's default branch",
        requires=("pkgs_repo", ANY_VALUE),
    ),
    Setting(
        name="base_channel",
        kind=types.CHANNEL,
        help="the nixpkgs channel, or full nixpkgs commit, that an overlay is applied to",
        default="nixos-unstable",
        requires=("pkgs_repo_kind", "overlay"),
    ),
    Setting(
        name="overlays",
        kind=types.PATHS,
        help="files or directories with overlays, which the package set is extended by",
        default=(),
        default_text="none",
    ),
    Setting(
        name="revisions",
        kind=types.TAG_PATTERNS,
        help="which tags are served besides latest: patterns as nixos-*, or latest alone",
        default=("*",),
        default_text="*",
    ),
    Setting(
        name="allow_any_commit",
        kind=types.BOOLEAN,
        help="whether a tag may be any commit, even one of a fork: code of anybody's is then built",
        default=False,
        default_text="false",
    ),
    Setting(
        name="source_ttl",
        kind=types.DURATION,
        help="how long a channel, branch or tag is not looked up again; 0: look at every pull",
        default=900.0,
    ),
    Setting(
        name="source_timeout",
        kind=types.SECONDS,
        help="how long it may take to look up a channel, branch or tag, all attempts together",
        default=20.0,
    ),
    Setting(
        name="fetch_timeout",
        kind=types.SECONDS,
        help="how long it may take to fetch a revision of the package set",
        default=1800.0,
    ),
    Setting(
        name="source_keep",
        kind=types.integer(86400, unit="seconds"),
        help="how long a fetched revision that is not used is kept from garbage collection",
        default=1209600,
    ),
    Setting(
        name="channel_url",
        kind=types.URL,
        help="the host that says which commit a channel is at",
        default="https://channels.nixos.org",
    ),
    Setting(
        name="nixpkgs_url",
        kind=types.ARCHIVE_URL,
        help="the archive of a nixpkgs commit",
        default=NIXPKGS_URL,
    ),
    Setting(
        name="system",
        kind=types.choice(*SYSTEMS),
        help="the Nix system of images whose name chooses none",
        default="x86_64-linux",
    ),
    Setting(
        name="nixpkgs_config",
        kind=types.NIXPKGS_CONFIG,
        help="what the package set gets as its config argument, as {allowUnfree: true}",
        default={},
        default_text="{}",
    ),
    # Storage and directories.
    Setting(
        name="state_directory",
        kind=types.PATH,
        help="what must survive a restart: garbage collection roots, and stored images by default",
        default_text="$STATE_DIRECTORY, else $XDG_STATE_HOME/nixery, else ~/.local/state/nixery",
    ),
    Setting(
        name="cache_directory",
        kind=types.PATH,
        help="what may be lost: the home and the caches of the Nix commands",
        default_text="$CACHE_DIRECTORY, else $XDG_CACHE_HOME/nixery, else ~/.cache/nixery",
    ),
    Setting(
        name="storage_backend",
        kind=types.choice("filesystem", "gcs"),
        help="where images are stored: filesystem or gcs (Google Cloud Storage)",
        default="filesystem",
        variable="NIXERY_STORAGE_BACKEND",
    ),
    Setting(
        name="storage_path",
        kind=types.PATH,
        help="the directory of the filesystem storage",
        default_text="storage in the state directory",
        variable="STORAGE_PATH",
        requires=("storage_backend", "filesystem"),
    ),
    Setting(
        name="max_bytes",
        kind=types.SIZE,
        help="how much stored images may take, as 200 GiB; those not pulled for longest go first",
        default_text="any amount",
        requires=("storage_backend", "filesystem"),
    ),
    Setting(
        name="max_age",
        kind=types.SECONDS,
        help="how long after its last pull an image is kept",
        default_text="for ever",
        requires=("storage_backend", "filesystem"),
    ),
    Setting(
        name="retention_grace",
        kind=types.DURATION,
        help="how long after its last use nothing is removed, whatever the limits say",
        default=86400.0,
        requires=("storage_backend", "filesystem"),
    ),
    Setting(
        name="retention_interval",
        kind=types.SECONDS,
        help="how long after one collection of the storage the next one begins",
        default=3600.0,
        requires=("storage_backend", "filesystem"),
    ),
    Setting(
        name="min_free",
        kind=types.SPACE,
        help="nothing is built while less is free on the disk of the storage: 1 GiB, or 5%; 0: off",
        default=FreeSpaceLimit(amount=2**30),
        default_text="1 GiB",
        requires=("storage_backend", "filesystem"),
    ),
    Setting(
        name="gcs_bucket",
        kind=types.TEXT,
        help="the bucket of the Google Cloud Storage",
        variable="GCS_BUCKET",
        requires=("storage_backend", "gcs"),
    ),
    Setting(
        name="gcs_signing_key",
        kind=types.PATH,
        help="the file of the private key that signs download URLs",
        variable="GCS_SIGNING_KEY",
        requires=("storage_backend", "gcs"),
        secret=True,
    ),
    Setting(
        name="gcs_signing_account",
        kind=types.TEXT,
        help="the service account that download URLs are signed for",
        variable="GCS_SIGNING_ACCOUNT",
        requires=("storage_backend", "gcs"),
    ),
    Setting(
        name="gcs_proxy",
        kind=types.BOOLEAN,
        help="whether the daemon passes blobs on itself, for clients that cannot reach the bucket",
        default=False,
        default_text="false",
        requires=("storage_backend", "gcs"),
    ),
    Setting(
        name="gcs_endpoint",
        kind=types.URL,
        help="where the Google Cloud Storage is reached, if not at its usual address",
        default_text="$STORAGE_EMULATOR_HOST, else Google's own",
        requires=("storage_backend", "gcs"),
    ),
    Setting(
        name="gcs_chunk_size",
        kind=types.integer(1, 256, unit="MiB"),
        help="how much of a layer is uploaded at a time; an upload holds up to five times as much",
        default=16,
        requires=("storage_backend", "gcs"),
    ),
    Setting(
        name="gcs_workers",
        kind=types.integer(1, 1024, unit="threads"),
        help="how many requests to the bucket run at once",
        default=32,
        requires=("storage_backend", "gcs"),
    ),
    # Other programs on the machine use this variable too: it requires nothing.
    Setting(
        name="google_application_credentials",
        kind=types.PATH,
        help="the file of the credentials for the Google Cloud Storage",
        variable="GOOGLE_APPLICATION_CREDENTIALS",
    ),
    # Limits for Nix.
    Setting(
        name="nix_timeout",
        kind=types.integer(1, unit="seconds"),
        help="how long the build of one derivation may take",
        default=3600,
        variable="NIX_TIMEOUT",
    ),
    Setting(
        name="nix_max_silent",
        kind=types.integer(1, unit="seconds"),
        help="how long the build of one derivation may print nothing",
        default=1800,
    ),
    Setting(
        name="build_deadline",
        kind=types.SECONDS,
        help="how long the making of one image may take in all, once its turn has come",
        default=14400.0,
    ),
    Setting(
        name="eval_timeout",
        kind=types.SECONDS,
        help="how long the evaluation of one image's packages may take",
        default=120.0,
    ),
    Setting(
        name="eval_memory",
        kind=types.integer(64, unit="MiB"),
        help="how much memory an evaluation may use",
        default=4096,
    ),
    Setting(
        name="evaluations",
        kind=types.integer(1, 1024, unit="processes"),
        help="how many evaluations run at once",
        default=4,
    ),
    Setting(
        name="max_builds",
        kind=types.integer(1, 1024, unit="images"),
        help="how many images are made at once",
        default=4,
    ),
    Setting(
        name="max_queue",
        kind=types.integer(0, 100_000, unit="images"),
        help="how many more may wait for their turn, before clients are sent away for a while",
        default=64,
    ),
    Setting(
        name="allow_import_from_derivation",
        kind=types.BOOLEAN,
        help="whether an evaluation may build what it reads",
        default=False,
        default_text="false",
    ),
    Setting(
        name="substitute_only",
        kind=types.BOOLEAN,
        help="whether everything has to come from binary caches, and nothing is built here",
        default=False,
        default_text="false",
    ),
    Setting(
        name="nix_options",
        kind=types.NIX_OPTIONS,
        help="further options of nix.conf for every Nix command, as {max-jobs: 4}",
        default={},
        default_text="{}",
    ),
    # Building of images.
    Setting(
        name="layer_budget",
        kind=types.integer(1, 125, unit="layers"),
        help="how many layers of packages an image may have",
        default=94,
    ),
    Setting(
        name="layer_strategy",
        kind=types.choice("affinity", "dominators"),
        help="how packages are put into layers; dominators is the first Nixery's way",
        default="affinity",
    ),
    Setting(
        name="layer_affinity",
        kind=types.integer(1, 100, unit="percent"),
        help="how many of those who have a package have another one, if they share a layer",
        default=70,
        requires=("layer_strategy", "affinity"),
    ),
    Setting(
        name="layer_unit_size",
        kind=types.integer(0, unit="bytes"),
        help="store paths of this size, unpacked, follow no other into its layer",
        default=4 * 2**20,
        requires=("layer_strategy", "affinity"),
    ),
    Setting(
        name="layer_minimum_size",
        kind=types.integer(0, unit="bytes"),
        help="what is smaller, unpacked, gets no layer of its own",
        default=128 * 2**10,
        requires=("layer_strategy", "affinity"),
    ),
    Setting(
        name="layer_classes",
        kind=types.integer(1, 125, unit="layers"),
        help="how many layers what is small is spread over, by popularity",
        default=5,
        requires=("layer_strategy", "affinity"),
    ),
    Setting(
        name="layer_common_share",
        kind=types.integer(1, 100, unit="percent"),
        help="how much of the layer budget goes to what every image contains",
        default=10,
        requires=("layer_strategy", "affinity"),
    ),
    Setting(
        name="layer_popularity_threshold",
        kind=types.integer(1, unit="references"),
        help="what so many store paths refer to is kept in a layer of its own",
        default=100,
        requires=("layer_strategy", "dominators"),
    ),
    Setting(
        name="layer_size_threshold",
        kind=types.integer(0, unit="bytes"),
        help="what is this large with all that it needs, unpacked, too",
        default=100_000_000,
        requires=("layer_strategy", "dominators"),
    ),
    Setting(
        name="compression",
        kind=types.choice(*LEVELS),
        help="how layers are compressed: gzip, zstd (Docker reads it from 23 on) or none",
        default=DEFAULT_KIND,
    ),
    Setting(
        name="compression_level",
        kind=types.integer(0, max(levels[-1] for levels in LEVELS.values())),
        help="how hard they are compressed: 0 to 3 with gzip, 1 to 19 with zstd",
        default_text="1",
    ),
    Setting(
        name="popularity_url",
        kind=types.DATA_URL,
        help="where popularity data are fetched, once, to be kept in the state directory",
        variable="NIX_POPULARITY_URL",
    ),
    Setting(
        name="popularity_refresh",
        kind=types.BOOLEAN,
        help="whether to fetch them at this start although a copy is kept: layers change",
        default=False,
        default_text="false",
    ),
    Setting(
        name="failure_ttl",
        kind=types.SECONDS,
        help="how long a failed build is remembered before it is tried again",
        default=60.0,
    ),
    Setting(
        name="manifest_ttl",
        kind=types.SECONDS,
        help="how long manifests are kept in memory",
        default=21600.0,
    ),
    Setting(
        name="manifest_memory",
        kind=types.integer(1, unit="MiB"),
        help="how much memory the manifests that are kept there may take",
        default=64,
    ),
    Setting(
        name="blob_recheck",
        kind=types.DURATION,
        help="how long the blobs of an image are taken to be stored once they were seen",
        default=10.0,
    ),
    Setting(
        name="evaluation_ttl",
        kind=types.DURATION,
        help="how long the evaluation of a package set is believed that may change at any time",
        default=0.0,
    ),
    Setting(
        name="serve_stale",
        kind=types.DURATION,
        help="how long an old image is served while that of a new revision is being built",
        default=0.0,
    ),
    Setting(
        name="request_deadline",
        kind=types.SECONDS,
        help="how long a request waits for its image, unless it is Docker's, which waits for ever",
        default=25.0,
    ),
    Setting(
        name="stop_grace",
        kind=types.DURATION,
        help="how long the builds that run may go on when the daemon is stopped",
        default=10.0,
    ),
    Setting(
        name="site",
        kind=types.BOOLEAN,
        help="whether there are pages for people: what this is, builds, images, documentation",
        default=True,
        default_text="true",
    ),
    Setting(
        name="show_builds",
        kind=types.BOOLEAN,
        help="whether /builds shows everyone what is being built, with names and logs",
        default=True,
        default_text="true",
    ),
    Setting(
        name="show_images",
        kind=types.BOOLEAN,
        help="whether /images shows everyone which images were pulled, and what is in them",
        default=True,
        default_text="true",
    ),
    Setting(
        name="metrics",
        kind=types.BOOLEAN,
        help="whether /metrics tells Prometheus what is going on, without names and addresses",
        default=True,
        default_text="true",
    ),
    Setting(
        name="log_format",
        kind=types.choice("text", "json"),
        help="how the log is written: text for people, or json, an object a line",
        default="text",
    ),
    Setting(
        name="cpu_workers",
        kind=types.integer(1, 1024, unit="threads"),
        help="how many layers are packed at once",
        default_text="the number of processors",
    ),
    Setting(
        name="storage_workers",
        kind=types.integer(1, 1024, unit="threads"),
        help="how many storage operations run at once",
        default=16,
    ),
)
"""Every setting, in the order in which documentation lists them."""
