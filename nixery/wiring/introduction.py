"""Describes the configuration in the first lines of the log: address, source, storage, logins."""

from __future__ import annotations

from collections.abc import Sequence

from nixery.config.config import Config
from nixery.runtime.endpoint_strings import PLAIN, describe_endpoint, speaks_tls
from nixery.runtime.systemd.socket_activation import passed_address

__all__ = ["describe_configuration"]

_AUTHENTICATION = {
    "none": "none, everyone can pull",
    "htpasswd": "users and passwords of {file}",
    "token": "tokens, and users and passwords of {file}",
}
"""Descriptions of the values of the setting ``auth``."""


def describe_configuration(config: Config) -> Sequence[str]:
    """Return the lines: where the registry listens, what it serves, and to whom."""
    sources, access = config.sources, config.access
    tls = config.tls.tls_certificate is not None
    addresses = ", ".join(_describe_address(text, tls=tls) for text in config.http.listen)
    clients = "" if config.http.public_url is None else f"; clients use {config.http.public_url}"
    systems = ", ".join(sources.platforms or (sources.system,))
    storage = str(config.storage.storage_path)
    if config.storage.storage_backend == "gcs":
        storage = f"the bucket {config.gcs.gcs_bucket} of Google Cloud Storage"
    authentication = _AUTHENTICATION[access.auth].format(file=access.htpasswd_file)
    return (
        f"Address: {addresses}{clients}.",
        f"Source: {sources.source.describe()}, for {systems}.",
        f"Storage: {storage}.",
        f"Authentication: {authentication}.",
    )


def _describe_address(text: str, *, tls: bool) -> str:
    scheme = "https" if text.startswith("ssl:") or (tls and speaks_tls(text)) else "http"
    address = passed_address(text.removeprefix(PLAIN))
    if address is None:
        return describe_endpoint(text, scheme)
    location = f"{scheme}://{address}" if ":" in address else f"the UNIX socket {address}"
    return f"{location} (a socket of systemd)"
