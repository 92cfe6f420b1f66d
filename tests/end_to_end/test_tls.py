"""
TLS with a certificate of an authority of one's own: clients that verify it, and what they
notice of its renewal.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
from pathlib import Path

from cryptography import x509

from tests.end_to_end.case import EndToEndCase, Once, containerd, docker, podman, skopeo
from tests.end_to_end.daemon import Daemon, run_admin
from tests.end_to_end.engines import require
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import (
    Finished,
    free_port,
    private_directory,
    run,
    wait_until,
)
from tests.support.certificates import Authority

HOST = "127.0.0.1"

DOWNLOAD_SIZE = 800_000
"""The bytes of a slow download."""


class Secured:
    """A registry with TLS beside its plain port, on an image that has been built."""

    def __init__(self) -> None:
        host, port = HOST, free_port()
        self.directory = private_directory("tls")
        self.authority = Authority(host)
        self.authority.issue(self.directory)
        (self.directory / "ca.crt").write_bytes(self.authority.pem)
        self.place = (host, port)
        self.address = f"{host}:{port}"
        self.daemon = Daemon(
            demo_set(),
            name="tls",
            plain=True,
            options=[
                *("--listen", f"tcp:{port}:interface={host}"),
                *("--tls-certificate", str(self.directory / "certificate.pem")),
                *("--tls-key", str(self.directory / "key.pem")),
            ],
        ).start()
        self.manifest = self.daemon.registry.manifest("hello").json()

    def connect(self) -> ssl.SSLSocket:
        """A connection that trusts our authority and no other."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        plain = socket.create_connection(self.place, timeout=60)
        # Little fits into a small window: what is downloaded stays with the daemon.
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return context.wrap_socket(plain, server_hostname=self.place[0])

    def serial(self) -> int:
        """The number of the certificate that is shown."""
        with self.connect() as connection:
            data = connection.getpeercert(binary_form=True)
        assert data is not None
        return x509.load_der_x509_certificate(data).serial_number

    def certs_directory(self, base: Path) -> Path:
        """A directory of what clients trust, named after the registry."""
        directory = base / self.address
        directory.mkdir(parents=True)
        shutil.copy(self.directory / "ca.crt", directory / "ca.crt")
        return directory


secured = Once(Secured)


class TLSTests(EndToEndCase):
    """A registry that speaks TLS."""

    def refused(self, finished: Finished) -> None:
        """A client does not believe the certificate."""
        self.assertNotEqual(0, finished.status, finished.describe())
        self.assertIn("certificate", finished.output)

    def test_skopeo_verifies_certificate_and_copies_when_it_knows_authority(self) -> None:
        """skopeo verifies the certificate, and copies when it knows the authority."""
        image = f"{secured().address}/hello"
        self.refused(skopeo().inspect_verified(image))
        # There must be nothing else in it but keys for clients.
        trusted = secured().certs_directory(secured().directory / "skopeo")
        skopeo().inspect_verified(image, f"--cert-dir={trusted}").checked()

    def test_warm_verifies_the_certificate_and_trusts_the_authority_of_a_variable(self) -> None:
        """``nixery-admin warm`` verifies the certificate; ``SSL_CERT_FILE`` names the authority."""
        wanted = ("warm", "hello", "--url", f"https://{secured().address}")
        refused = run_admin(*wanted)
        self.refused(refused)
        self.assertIn("set SSL_CERT_FILE to a PEM file", refused.output)
        run_admin(*wanted, SSL_CERT_FILE=str(secured().directory / "ca.crt")).checked()

    def test_podman_verifies_the_certificate_and_runs_what_it_pulls(self) -> None:
        """podman verifies the certificate, and runs what it pulls."""
        image = f"{secured().address}/hello"
        self.refused(podman().pull_verified(image))
        trusted = secured().certs_directory(secured().directory / "podman")
        podman().pull_verified(image, f"--cert-dir={trusted}").checked()
        self.assertIn("Hello, world!", podman().run(image, "hello").checked().stdout)

    def test_docker_pulls_with_authority_in_directory_named_after_registry(self) -> None:
        """
        Docker pulls with the authority in a directory named after the registry.

        It verifies nothing on the loopback interface, so that it refuses nothing here.
        """
        image = f"{secured().address}/hello"
        engine = docker()
        directory = secured().certs_directory(Path("/etc/docker/certs.d"))
        self.addCleanup(shutil.rmtree, directory)
        engine.pull(image).checked()
        self.assertIn("Hello, world!", engine.run(image, "hello").checked().stdout)

    def test_containerd_reads_of_the_authority_in_hosts_toml(self) -> None:
        """containerd reads of the authority in hosts.toml."""
        image = f"{secured().address}/hello:latest"
        hosts = secured().directory / "hosts"
        directory = hosts / secured().address
        directory.mkdir(parents=True)
        authority = secured().directory / "ca.crt"
        stranger = directory / "stranger.crt"
        stranger.write_bytes(Authority(HOST).pem)
        for trusted in (stranger, authority):
            (directory / "hosts.toml").write_text(
                f'server = "https://{secured().address}"\n'
                f'[host."https://{secured().address}"]\n'
                '  capabilities = ["pull", "resolve"]\n'
                f'  ca = "{trusted}"\n'
            )
            if trusted is stranger:
                self.refused(containerd().pull_verified(image, "--hosts-dir", str(hosts)))
        containerd().pull_verified(image, "--hosts-dir", str(hosts)).checked()
        self.assertIn("Hello, world!", containerd().run(image, "hello").checked().stdout)

    def test_renewed_during_a_download(self) -> None:
        """The next client is shown the new certificate; a download that runs goes on."""
        stage = secured()
        layer = max(stage.manifest["layers"], key=lambda each: int(each["size"]))
        blob = stage.daemon.registry.blob("hello", layer["digest"])
        before = stage.serial()
        with stage.connect() as connection:
            connection.sendall(
                f"GET /v2/hello/blobs/{layer['digest']} HTTP/1.1\r\nHost: r\r\n"
                # More than the socket holds, and no more: a small window takes 40 kB a second.
                f"Range: bytes=0-{DOWNLOAD_SIZE - 1}\r\nConnection: close\r\n\r\n".encode()
            )
            received = connection.recv(1024)
            new = stage.authority.issue(stage.directory)
            self.assertEqual(before, stage.serial())
            os.kill(stage.daemon.pid, signal.SIGHUP)
            wait_until(lambda: stage.serial() == new.serial_number, "the new certificate")
            while data := connection.recv(65536):
                received += data
        head, _, body = received.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 206"), head)
        self.assertEqual(DOWNLOAD_SIZE, len(body))
        self.assertTrue(blob.startswith(body))

    def test_old_versions_and_weak_ciphers_are_refused_current_ones_are_not(self) -> None:
        """Old versions and weak ciphers are refused, current ones are not."""
        require("openssl")

        def tried(*options: str) -> Finished:
            return run(
                [
                    *("openssl", "s_client", "-brief", "-connect", secured().address),
                    *("-CAfile", str(secured().directory / "ca.crt")),
                    *("-verify_return_error", *options),
                ]
            )

        lax = "ALL:@SECLEVEL=0"
        for options in (
            ("-tls1_1", "-cipher", lax),
            ("-tls1", "-cipher", lax),
            ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"),
            ("-tls1_2", "-cipher", "AES128-GCM-SHA256"),
        ):
            finished = tried(*options)
            self.assertNotEqual(0, finished.status, finished.describe())
            self.assertIn("alert", finished.output)
        for version in ("-tls1_2", "-tls1_3"):
            finished = tried(version, "-alpn", "h2,http/1.1").checked()
            self.assertIn("Verification: OK", finished.output)
