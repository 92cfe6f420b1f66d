"""
Reads a certificate and its key from their files and checks them before clients see them.

An error names the file and what is in it instead, so that an operator can repair it. OpenSSL would
say ``PEM lib``.

Only TLS 1.2 and 1.3 are spoken, with the ciphers that Mozilla calls *intermediate*
(https://wiki.mozilla.org/Security/Server_Side_TLS), less those with finite-field Diffie-Hellman,
which need parameters of their own and which no client of a registry requires. All give forward
secrecy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from OpenSSL import SSL

from nixery.runtime.clocks import WallTime
from nixery.runtime.errors import CertificateUnusable

__all__ = ["CIPHERS", "Identity", "fingerprint", "load_identity"]

CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""The ciphers for TLS 1.2, in OpenSSL's notation; all that TLS 1.3 has are secure."""

_MAX_SIZE = 1024 * 1024
"""Maximum number of bytes that are read of a file: a chain has some thousands."""


@frozen(kw_only=True)
class Identity:
    """
    A certificate with its key, usable for connections.

    :param context: the OpenSSL context that uses it; must not be changed.
    :param expires: the time at which it expires.
    :param names: the host names that it is valid for.
    """

    context: SSL.Context = field(eq=False, repr=False)
    expires: WallTime
    names: tuple[str, ...]


def load_identity(certificate: Path, key: Path, now: WallTime) -> Identity:
    """
    Read and check a certificate and its key.

    :param certificate: a PEM file: the server's certificate, then the intermediate certificates up
        to the one that clients trust.
    :param key: a PEM file, without a password.
    :param now: the time of day.
    :raises CertificateUnusable: with what is wrong with it.
    """
    chain = _read_chain(certificate)
    private = _read_key(key)
    mine = _public(private)
    if not any(_public(each) == mine for each in chain):
        raise CertificateUnusable(
            path=str(key), reason=f"it is not the key of the certificate in {certificate}"
        )
    if _public(chain[0]) != mine:
        raise CertificateUnusable(
            path=str(certificate),
            reason="the server's own certificate has to come first, before its authorities'",
        )
    moment = datetime.fromtimestamp(now, UTC)
    for each in chain:
        if each.not_valid_after_utc < moment:
            raise CertificateUnusable(
                path=str(certificate),
                reason=f"{_called(each)} expired at {each.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            )
        if each.not_valid_before_utc > moment:
            raise CertificateUnusable(
                path=str(certificate),
                reason=f"{_called(each)} is not valid before"
                f" {each.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; is the clock right?",
            )
    try:
        context = _context(chain, private)
    except (SSL.Error, TypeError, ValueError) as error:
        raise CertificateUnusable(
            path=str(certificate), reason=f"OpenSSL refuses it ({error})"
        ) from error
    return Identity(
        context=context,
        expires=WallTime(min(each.not_valid_after_utc for each in chain).timestamp()),
        names=_names(chain[0]),
    )


def fingerprint(*paths: Path) -> tuple[object, ...]:
    """
    Return a value that differs when one of the files differs. Links are followed: Kubernetes and
    certbot put a new pair into place by changing a link.
    """
    seen: list[object] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            seen.append(error.errno)
        else:
            seen.append((status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev))
    return tuple(seen)


def _context(chain: Sequence[x509.Certificate], key: PrivateKeyTypes) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(
        SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.set_cipher_list(CIPHERS.encode("ascii"))
    # Sessions would outlive the certificate that they began with.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # Release the memory of idle connections: a thousand clients are not unusual.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.use_certificate(chain[0])
    for each in chain[1:]:
        context.add_extra_chain_cert(each)
    # OpenSSL refuses keys that it cannot sign with; the checker's types know them all.
    context.use_privatekey(key)  # type: ignore[arg-type]
    context.check_privatekey()
    return context


def _read_chain(path: Path) -> list[x509.Certificate]:
    data = _read(path)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        instead = ": it holds a private key" if b"PRIVATE KEY" in data else ""
        raise CertificateUnusable(
            path=str(path), reason=f"there is no certificate in PEM form in it{instead}"
        ) from error


def _read_key(path: Path) -> PrivateKeyTypes:
    data = _read(path)
    try:
        return load_pem_private_key(data, password=None)
    except TypeError as error:
        raise CertificateUnusable(
            path=str(path),
            reason="the key has a password, and nobody is there to type it: openssl pkey -in OLD"
            " -out NEW takes it away",
        ) from error
    except Exception as error:
        # The exceptions of cryptography differ with its versions and with the file's content.
        instead = ": it holds a certificate" if b"BEGIN CERTIFICATE" in data else ""
        raise CertificateUnusable(
            path=str(path), reason=f"there is no private key in PEM form in it{instead}"
        ) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SIZE)
    except OSError as error:
        raise CertificateUnusable(
            path=str(path),
            reason=f"it cannot be read by user {os.geteuid()} ({error.strerror})",
        ) from error


def _public(owner: x509.Certificate | PrivateKeyTypes) -> bytes:
    return owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(
        str(each.value) for each in names if isinstance(each, x509.DNSName | x509.IPAddress)
    )


def _called(certificate: x509.Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string() or 'nobody by name'}"
