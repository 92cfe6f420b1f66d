"""
The config of an image: its platform, the command and environment of its containers, and its
contents.

Format: OCI image specification 1.1, "Image Configuration".  Docker's is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from nixery.image.canonical_json import Json, canonical_json
from nixery.image.errors import UnknownSystem
from nixery.image.names import DEFAULT_PACKAGES, Digest
from nixery.image.packages import Package

__all__ = ["CONFIG_VERSION", "CREATED", "Platform", "image_config", "platform_of"]

CONFIG_VERSION = 1
"""Increased when the same arguments give other bytes: part of image keys."""

CREATED = "1970-01-01T00:00:01Z"
"""The creation time of every image: identical content has an identical digest."""

_SHELL = "/bin/bash"

_CA_BUNDLE = "/etc/ssl/certs/ca-bundle.crt"

# The value that Docker sets if an image sets none.  Programs that a derived image puts under
# /usr/local precede those of this image.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# containerd's tools copy an image's labels to its containers, where a label has
# at most 4096 bytes, key and value together.
_MAX_LABEL_BYTES = 3500

# A layer may hold thousands of paths; `docker history --no-trunc` prints this.
_MAX_HISTORY_BYTES = 1000


@frozen(kw_only=True)
class Platform:
    """The platform of an image: Go's GOARCH and GOOS, and a variant of ARM."""

    architecture: str
    variant: str | None = None
    os: str = "linux"


_PLATFORMS: Mapping[str, Platform] = {
    "aarch64-linux": Platform(architecture="arm64", variant="v8"),
    "armv5tel-linux": Platform(architecture="arm", variant="v5"),
    "armv6l-linux": Platform(architecture="arm", variant="v6"),
    "armv7l-linux": Platform(architecture="arm", variant="v7"),
    "i686-linux": Platform(architecture="386"),
    "loongarch64-linux": Platform(architecture="loong64"),
    "mips64el-linux": Platform(architecture="mips64le"),
    "mipsel-linux": Platform(architecture="mipsle"),
    "powerpc64-linux": Platform(architecture="ppc64"),
    "powerpc64le-linux": Platform(architecture="ppc64le"),
    "riscv64-linux": Platform(architecture="riscv64"),
    "s390x-linux": Platform(architecture="s390x"),
    "x86_64-linux": Platform(architecture="amd64"),
}


def image_config(
    *,
    diff_ids: Sequence[Digest],
    contents: Sequence[Sequence[str]],
    packages: Iterable[Package],
    system: str,
    has_shell: bool,
    has_ca_bundle: bool,
) -> bytes:
    """
    Return the bytes of the config of an image.

    :param diff_ids: the digests of the layers' uncompressed archives, from the
        bottom to the top.
    :param contents: for each layer the names of its contents, the most important first.
    :param packages: in any order.
    :param system: the Nix system, ``x86_64-linux``.
    :param has_shell: true if the image holds ``/bin/bash``: it is then the default
        command of containers.
    :param has_ca_bundle: true if it holds ``/etc/ssl/certs/ca-bundle.crt``.
    :raises UnknownSystem: images have no name for the system.
    """
    platform = platform_of(system)
    environment = [f"PATH={_PATH}"]
    if has_ca_bundle:
        environment.append(f"SSL_CERT_FILE={_CA_BUNDLE}")
    # Capitalised, as the format requires: Go's decoder accepts lower case, other
    # clients' decoders do not.  Kubernetes rejects an image without `config`.
    container: dict[str, Json] = {"Env": environment, "Labels": _labels(packages)}
    if has_shell:
        container["Cmd"] = [_SHELL]
    config: dict[str, Json] = {
        "architecture": platform.architecture,
        "config": container,
        "created": CREATED,
        # One entry for each layer: engines reject an image if the numbers differ.
        "history": [
            {"created": CREATED, "created_by": f"nixery: {_join_within(names, _MAX_HISTORY_BYTES)}"}
            for names in contents
        ],
        "os": platform.os,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    if platform.variant is not None:
        config["variant"] = platform.variant
    return canonical_json(config)


def platform_of(system: str) -> Platform:
    """
    Return the platform of a Nix system.

    :raises UnknownSystem: images have no name for the system.
    """
    try:
        return _PLATFORMS[system]
    except KeyError:
        raise UnknownSystem(system=system, known=tuple(_PLATFORMS)) from None


def _labels(packages: Iterable[Package]) -> Mapping[str, Json]:
    """
    Return labels that describe the packages of an image.

    They describe its contents, not the name that was requested: ``git/htop`` and
    ``htop/git`` are one image.
    """
    ordered = sorted(packages, key=lambda package: package.attribute)
    chosen = [
        package for package in ordered if package.attribute not in DEFAULT_PACKAGES
    ] or ordered
    labels = {
        "nixery.image.packages": _join_within(
            [f"{package.attribute}={package.version}" for package in ordered], _MAX_LABEL_BYTES, " "
        ),
        "org.opencontainers.image.title": _join_within(
            [package.attribute for package in chosen], _MAX_LABEL_BYTES
        ),
        "org.opencontainers.image.description": _join_within(
            [package.name for package in chosen], _MAX_LABEL_BYTES
        ),
    }
    if len(chosen) == 1:
        [package] = chosen
        labels["org.opencontainers.image.version"] = package.version
        if len(package.description.encode("utf-8")) <= _MAX_LABEL_BYTES:
            labels["org.opencontainers.image.description"] = package.description
    return {key: value for key, value in labels.items() if value}


def _join_within(items: Sequence[str], limit: int, separator: str = ", ") -> str:
    """Join as many whole items as fit into ``limit`` bytes, and the number of the others."""
    available = limit - len(separator) - len("+99999")
    shown: list[str] = []
    for item in items:
        available -= len(item.encode("utf-8")) + len(separator)
        if available < 0:
            shown.append(f"+{len(items) - len(shown)}")
            break
        shown.append(item)
    return separator.join(shown)
