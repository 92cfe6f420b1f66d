"""Tests for :mod:`nixery.nix.store_location`, of what the real Nix says to a user it keeps out."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from nixery.nix import arguments
from nixery.nix.errors import NixUnusable
from nixery.nix.store_location import explain_denial
from nixery.wiring.exit_status import PASSING, PERMANENT, exit_status
from tests.integration.nixenv import daemon_listens, nix_missing

NOBODY = 65534


class DenialTests(SynchronousTestCase):
    """Tests of the message to a user who may not use Nix."""

    def setUp(self) -> None:
        if reason := nix_missing():
            raise SkipTest(reason)
        if os.geteuid() != 0:
            raise SkipTest("only root can be another user")
        directory = tempfile.TemporaryDirectory(prefix="nixery-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.directory.chmod(0o755)
        self.place = self.directory / "daemon-socket"
        self.place.mkdir()
        self.socket = self.place / "socket"
        self.group = NOBODY
        daemon = socket.socket(socket.AF_UNIX)
        self.addCleanup(daemon.close)
        daemon.bind(str(self.socket))
        daemon.listen()

    def explained(self, remote: str) -> NixUnusable:
        done = subprocess.run(
            arguments.probe_store(),
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "NIX_REMOTE": remote},
            cwd="/",
            user=NOBODY,
            group=self.group,
            extra_groups=(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertNotEqual(0, done.returncode)
        # As the daemon has it: privileges that are only of this moment.
        groups, group = os.getgroups(), os.getegid()
        os.setgroups([])
        os.setegid(self.group)
        os.seteuid(NOBODY)
        try:
            error = explain_denial(done.stderr)
        finally:
            os.seteuid(0)
            os.setegid(group)
            os.setgroups(groups)
        if error is None:
            raise AssertionError(done.stderr)
        return error

    def test_directory_that_only_a_group_may_enter_as_on_debian(self) -> None:
        """A directory that only a group may enter, as on Debian: the group is named."""
        os.chown(self.place, 0, 1)
        self.place.chmod(0o770)
        self.socket.chmod(0o777)
        error = self.explained(f"unix://{self.socket}")
        self.assertIn(f"({self.place} has mode 0770 and group daemon)", error.message)
        self.assertIn("SupplementaryGroups=daemon under [Service]", error.message)
        self.assertEqual(PERMANENT, exit_status(error))

    def test_in_the_units_user_namespace_the_group_is_not_seen(self) -> None:
        """In the unit's user namespace the group is not seen: it is not made one that is wrong."""
        self.group = 1
        os.chown(self.place, 0, NOBODY)
        self.place.chmod(0o770)
        error = self.explained(f"unix://{self.socket}")
        self.assertIn(f"({self.place} has mode 0770)", error.message)
        self.assertIn(f"which ls -ld {self.place} shows (nix-users on Debian)", error.message)
        self.assertIn("SupplementaryGroups=GROUP under [Service]", error.message)
        self.assertNotIn("nogroup", error.message)

    def test_socket_that_only_a_group_may_use(self) -> None:
        """A socket that only a group may use."""
        os.chown(self.socket, 0, 1)
        self.socket.chmod(0o770)
        error = self.explained(f"unix://{self.socket}")
        self.assertIn(f"({self.socket} has mode 0770 and group daemon)", error.message)
        self.assertIn("SupplementaryGroups=daemon", error.message)

    def test_no_group_is_advised_that_would_not_help(self) -> None:
        """No group is advised that would not help."""
        self.place.chmod(0o700)
        error = self.explained(f"unix://{self.socket}")
        self.assertIn("mode 0700 and group root", error.message)
        self.assertNotIn("SupplementaryGroups", error.message)

    def test_store_of_another_user_whose_daemon_may_not_be_up_yet(self) -> None:
        """A store of another user, whose daemon may not be up yet."""
        if daemon_listens():
            raise SkipTest("Nix's daemon runs")
        error = self.explained("local")
        self.assertIn("NIX_REMOTE=daemon", error.message)
        self.assertEqual(PASSING, exit_status(error))

    def test_any_other_message_of_nix_is_left_as_it_is(self) -> None:
        """Any other message of Nix is left as it is."""
        for said in (
            "",
            f"error: cannot connect to socket at '{self.socket}': Connection refused",
            "error: opening file '/etc/secret': Permission denied",
        ):
            self.assertIsNone(explain_denial(said))

    def test_error_of_a_missing_store_has_the_command_that_makes_it(self) -> None:
        """If there is no store, and Nix may not make one, the error has the command for it."""
        error = explain_denial("error: creating directory '/nix': Permission denied")
        assert error is not None
        self.assertIn("install -d -o root /nix /nix/var /nix/var/nix", error.message)
        self.assertEqual(PERMANENT, exit_status(error))
