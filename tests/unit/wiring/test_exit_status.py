"""Tests for :mod:`nixery.wiring.exit_status`."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nixery.access.passwords import read_passwords
from nixery.access.tokens import load_key
from nixery.config.errors import ConfigError
from nixery.errors import NixeryError
from nixery.nix.errors import NixDiskFull, NixMisconfigured, NixUnusable
from nixery.process.errors import CommandMissing
from nixery.runtime.clocks import WallTime
from nixery.runtime.errors import StateDirectoryLocked
from nixery.runtime.listener import Listener
from nixery.runtime.state_lock import StateLock
from nixery.runtime.tls.certificates import load_identity
from nixery.storage.errors import StorageRefused, StorageUnavailable
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.testing.fakes import InlineWorkers
from nixery.wiring.exit_status import PASSING, PERMANENT, exit_status


class KindTests(SynchronousTestCase):
    """Tests of the exit status for each kind of error."""

    def test_error_that_lasts_until_something_is_changed_ends_with_ex_config(self) -> None:
        """An error that lasts until something is changed ends with EX_CONFIG."""
        for error in (
            ConfigError(problems=()),
            CommandMissing(command="git"),
            NixMisconfigured(reason="too old"),
            StorageRefused(operation="use the bucket", reason="forbidden", advice="permit it"),
        ):
            self.assertEqual(78, exit_status(error), error)

    def test_error_that_may_pass_or_was_not_foreseen_is_worth_a_restart(self) -> None:
        """An error that may pass, or was not foreseen, is worth a restart."""
        for error in (
            NixUnusable(reason="connection refused"),
            NixDiskFull(reason="no space"),
            StateDirectoryLocked(directory="/x"),
            StorageUnavailable(operation="use the bucket", reason="no answer"),
            ZeroDivisionError(),
        ):
            self.assertEqual(1, exit_status(error), error)

    def test_error_is_as_permanent_as_its_cause(self) -> None:
        """An error is as permanent as its cause."""
        for cause, status in (
            (CommandMissing(command="nix-store"), PERMANENT),
            (OSError(errno.EACCES, "denied"), PERMANENT),
            (OSError(errno.ENOTDIR, "no directory"), PERMANENT),
            (OSError(errno.EROFS, "read-only"), PERMANENT),
            (OSError(errno.ENOSPC, "full"), PASSING),
            (OSError("of no number"), PASSING),
        ):
            error = NixUnusable(reason="a directory cannot be made")
            error.__cause__ = cause
            self.assertEqual(status, exit_status(error), cause)
        error = NixMisconfigured(reason="on a disk that fails")
        error.__cause__ = OSError(errno.EIO, "broken")
        self.assertEqual(PASSING, exit_status(error))


class FileTests(SynchronousTestCase):
    """Tests of the exit status for faulty files and directories."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file = self.directory / "file"
        self.file.write_text("")

    def failing(self, act: Callable[[], object]) -> NixeryError:
        try:
            act()
        except NixeryError as error:
            return error
        raise AssertionError("it went well")

    def test_certificate_passwords_or_a_key_that_are_not_there(self) -> None:
        """A certificate, passwords or a key that are not there."""
        none = self.directory / "none"
        for act in (
            lambda: load_identity(none, none, WallTime(0.0)),
            lambda: read_passwords(none),
            lambda: load_key(none),
        ):
            self.assertEqual(PERMANENT, exit_status(self.failing(act)))

    def test_file_where_a_directory_should_be(self) -> None:
        """A file where a directory should be."""
        self.assertEqual(PERMANENT, exit_status(self.failing(StateLock(self.file).acquire)))
        storage = FilesystemStorage(self.file / "storage", InlineWorkers())
        failure = self.failureResultOf(Deferred.fromCoroutine(storage.start()))
        self.assertEqual(PERMANENT, exit_status(failure.value))

    def test_state_directory_that_another_daemon_has_which_may_be_about_to_end(self) -> None:
        """A state directory that another daemon has, which may be about to end."""
        lock = StateLock(self.directory)
        lock.acquire()
        self.addCleanup(lock.release)
        self.assertEqual(PASSING, exit_status(self.failing(StateLock(self.directory).acquire)))


class ListeningTests(TestCase):
    """Tests of the exit status for an address that cannot be used."""

    async def status(self, endpoint: str) -> int:
        listener = Listener({endpoint: serverFromString(reactor, endpoint)}, Factory())
        self.addCleanup(lambda: Deferred.fromCoroutine(listener.stop()))
        try:
            await listener.start()
        except NixeryError as error:
            return exit_status(error)
        raise AssertionError(f"{endpoint} could be had")

    async def test_another_program_which_may_end_has_the_port(self) -> None:
        """Another program, which may end, has the port."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            self.assertEqual(PASSING, await self.status(f"tcp:{port}:interface=127.0.0.1"))

    async def test_machine_does_not_have_the_address_or_not_yet(self) -> None:
        """The machine does not have the address, or not yet: TEST-NET-1 of RFC 5737."""
        self.assertEqual(PASSING, await self.status("tcp:0:interface=192.0.2.1"))

    async def test_there_is_no_directory_for_the_socket(self) -> None:
        """There is no directory for the socket."""
        self.assertEqual(PERMANENT, await self.status(f"unix:{self.mktemp()}/s"))

    async def test_port_is_one_of_those_that_need_a_privilege(self) -> None:
        """The port is one of those that need a privilege."""
        if os.geteuid() != 0:
            self.assertEqual(PERMANENT, await self.status("tcp:1:interface=127.0.0.1"))
            return
        os.seteuid(65534)
        try:
            self.assertEqual(PERMANENT, await self.status("tcp:1:interface=127.0.0.1"))
        finally:
            os.seteuid(0)
