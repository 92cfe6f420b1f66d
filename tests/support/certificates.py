"""
A certificate authority of the tests' own, and what it signs.

Certificates have all that RFC 5280 asks for: Python from 3.13 on verifies strictly
(``ssl.VERIFY_X509_STRICT``), and refuses one that lacks the identifiers of keys.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "pem_key"]


def pem_key(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """A private key as its file has it."""
    hidden = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)


class Authority:
    """
    Signs certificates for this machine.

    :param host: its address.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tests' authority")])
        now = datetime.now(UTC)
        self._certificate = (
            self._builder(self._name, self._key, now - timedelta(days=1), now + timedelta(days=99))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, True, True, False, False),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self._certificate.public_bytes(Encoding.PEM)

    def sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        *,
        begins: datetime | None = None,
        ends: datetime | None = None,
    ) -> x509.Certificate:
        """A certificate for a key, of 30 days by default."""
        now = datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")])
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ip_address(self._host))]
        return (
            self._builder(
                name,
                key,
                begins or now - timedelta(hours=1),
                ends or now + timedelta(days=30),
            )
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(
        self,
        directory: Path,
        *,
        begins: datetime | None = None,
        ends: datetime | None = None,
    ) -> x509.Certificate:
        """
        Put a new pair into ``certificate.pem`` and ``key.pem`` of a directory.

        :return: the certificate.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(key, begins=begins, ends=ends)
        chain = certificate.public_bytes(Encoding.PEM) + self.pem
        for name, data in (("certificate.pem", chain), ("key.pem", pem_key(key))):
            (directory / f"{name}.new").write_bytes(data)
            (directory / f"{name}.new").rename(directory / name)
        return certificate

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        begins: datetime,
        ends: datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
