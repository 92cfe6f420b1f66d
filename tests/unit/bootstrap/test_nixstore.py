"""Tests for :mod:`bootstrap.nixstore`."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bootstrap import nixstore
from bootstrap.nixstore import store_fault


class StoreFaultTests(SynchronousTestCase):
    """Tests of the faults that keep a user from building."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.parent = Path(directory.name)
        self.root = self.parent / "nix"
        self.state = self.root / "var/nix"
        self.patch(os, "geteuid", lambda: 1000)
        self.denied: set[Path] = set()
        self.patch(os, "access", lambda path, mode: path not in self.denied)
        for name in nixstore._ELSEWHERE:
            self.patch(os, "environ", {k: v for k, v in os.environ.items() if k != name})

    def test_without_a_store_the_command_that_makes_one_is_named(self) -> None:
        """Without a store, the command that makes one is named."""
        # A directory cannot be made in a file.
        self.root.touch()
        fault = store_fault(self.root)
        assert fault is not None
        self.assertEqual(
            f"    install -d -o 1000 {self.root} {self.root}/var {self.root}/var/nix",
            fault.splitlines()[-1],
        )

    def test_nixs_state_gets_its_directory_in_a_store_of_ones_own(self) -> None:
        """Nix's state gets its directory in a store of one's own: Nix looks for it."""
        self.root.mkdir()
        self.assertIsNone(store_fault(self.root))
        self.assertTrue(self.state.is_dir())
        self.assertIsNone(store_fault(self.root))

    def test_store_of_another_user_cannot_be_used(self) -> None:
        """The store of another user cannot be used."""
        self.state.mkdir(parents=True)
        self.denied.add(self.state)
        self.assertIn("belongs to somebody else", str(store_fault(self.root)))

    def test_daemon_builds_for_every_user_who_may_connect_to_it(self) -> None:
        """A daemon builds for every user who may connect to it."""
        (self.state / "daemon-socket").mkdir(parents=True)
        self.denied.add(self.state)
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.bind(str(self.state / "daemon-socket/socket"))
            self.assertIsNotNone(store_fault(self.root))
            daemon.listen()
            self.assertIsNone(store_fault(self.root))

    def test_store_that_nix_remote_names_is_not_checked(self) -> None:
        """A store that ``NIX_REMOTE`` names is not checked."""
        self.state.mkdir(parents=True)
        self.denied.add(self.state)
        os.environ["NIX_REMOTE"] = "ssh://builder"
        self.assertIsNone(store_fault(self.root))

    def test_root_builds_by_itself(self) -> None:
        """Root builds by itself."""
        self.patch(os, "geteuid", lambda: 0)
        self.assertIsNone(store_fault(self.root))
        self.assertFalse(self.root.exists())
