"""Tests of :mod:`nixery.wiring.introduction`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import getPlugins
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase

from nixery.config.load import load_config
from nixery.wiring.introduction import describe_configuration


class IntroductionTests(SynchronousTestCase):
    """The first lines of the log."""

    def introduced(self, **given: object) -> list[str]:
        """Return the lines for a configuration."""
        listen = given.pop("listen", None)
        config = load_config({"pkgs_path": "/p", "listen": listen, **given}, {"HOME": "/h"})
        return list(describe_configuration(config))

    def test_newcomers_registry_is_introduced(self) -> None:
        """Address, source, storage and authentication have a line each, in this order."""
        self.assertEqual(
            [
                "Address: http://127.0.0.1:8080.",
                "Source: the package set at /p, for x86_64-linux.",
                "Storage: /h/.local/state/nixery/storage.",
                "Authentication: none, everyone can pull.",
            ],
            self.introduced(),
        )

    def test_several_listeners_platforms_and_tls_are_introduced(self) -> None:
        """All addresses, with the scheme of each, and all systems are named."""
        address, source, _, authentication = self.introduced(
            listen=["tcp:443", "plain:tcp:8080:interface=127.0.0.1", "unix:/run/x"],
            tls_certificate="/c",
            tls_key="/k",
            public_url="https://r.example",
            platforms="x86_64-linux,aarch64-linux",
            auth="token",
            htpasswd_file="/users",
        )
        self.assertEqual(
            "Address: https, port 443 of every interface, http://127.0.0.1:8080, the UNIX socket"
            " /run/x; clients use https://r.example.",
            address,
        )
        self.assertEqual("Source: the package set at /p, for x86_64-linux, aarch64-linux.", source)
        self.assertEqual(
            "Authentication: tokens, and users and passwords of /users.", authentication
        )

    def test_bucket_is_named(self) -> None:
        """The storage is the bucket, if there is one."""
        _, _, storage, _ = self.introduced(storage_backend="gcs", gcs_bucket="images")
        self.assertEqual("Storage: the bucket images of Google Cloud Storage.", storage)

    def test_sockets_of_systemd_are_named_by_their_addresses(self) -> None:
        """A socket that was passed is named by its address, not by its number."""
        path = str(Path(self.mktemp()).absolute())
        tcp, unix = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
        self.addCleanup(tcp.close)
        self.addCleanup(unix.close)
        os.makedirs(path)
        # The address of a UNIX socket is short.
        unix.bind(os.path.relpath(f"{path}/s"))
        parser = next(
            each
            for each in getPlugins(IStreamServerEndpointStringParser)
            if each.prefix == "systemd"
        )
        self.patch(parser, "_sddaemon", ListenFDs([tcp.fileno(), unix.fileno()]))
        [address, *_] = self.introduced(
            listen=["systemd:domain=INET:index=0", "systemd:domain=UNIX:index=1"]
        )
        port = tcp.getsockname()[1]
        self.assertIn(f"Address: http://127.0.0.1:{port} (a socket of systemd), the", address)
        self.assertIn("/s (a socket of systemd)", address)
