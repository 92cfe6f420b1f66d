"""Tests for :mod:`bootstrap.arguments`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from twisted.trial.unittest import SynchronousTestCase

from bootstrap.arguments import UsageError, parse_arguments


class ArgumentTests(SynchronousTestCase):
    """The command line of the program."""

    def test_without_options_registry_listens_on_loopback_as_it_does_by_itself(self) -> None:
        """Without options the registry listens on the loopback, as it does by itself."""
        arguments = parse_arguments([], {})
        self.assertEqual(arguments.registry, ())
        self.assertEqual(arguments.endpoints, ("tcp:8080:interface=127.0.0.1",))

    def test_port_is_one_of_the_loopback_however_it_is_given(self) -> None:
        """A port is one of the loopback, however it is given; the last one holds."""
        expected = ("tcp:8099:interface=127.0.0.1",)
        environs: tuple[tuple[list[str], Mapping[str, str]], ...] = (
            (["--port", "8099"], {}),
            (["--port=8099"], {"PORT": "1"}),
            (["--port", "1", "--port", "8099"], {}),
            ([], {"PORT": "8099"}),
            ([], {"NIXERY_PORT": "8099", "PORT": "1"}),
            ([], {"NIXERY_PORT": "tcp://10.0.0.1:80", "PORT": "8099"}),
            (["--port", "8099"], {"NIXERY_CONFIG": "/etc/n.yaml"}),
        )
        for argv, environ in environs:
            arguments = parse_arguments(argv, environ)
            self.assertEqual(arguments.endpoints, expected)
            self.assertEqual(arguments.registry, ("--listen", *expected))

    def test_endpoint_is_passed_on_as_it_is(self) -> None:
        """An endpoint is passed on as it is."""
        arguments = parse_arguments(["--listen", "tcp:80", "--listen=unix:/s"], {"PORT": "1"})
        self.assertEqual(arguments.endpoints, ("tcp:80", "unix:/s"))
        self.assertEqual(arguments.registry, ("--listen", "tcp:80", "--listen", "unix:/s"))

    def test_only_registry_knows_endpoints_if_file_or_variable_may_give_them(self) -> None:
        """Only the registry knows the endpoints if a file or a variable may give them."""
        for argv, environ in (
            (["-c", "n.yaml"], {}),
            (["--config=n.yaml"], {}),
            ([], {"NIXERY_CONFIG": "n.yaml"}),
            ([], {"NIXERY_LISTEN": "tcp:1"}),
        ):
            self.assertIsNone(parse_arguments(argv, environ).endpoints)

    def test_configuration_file_is_one_of_directory_that_program_was_called_in(self) -> None:
        """A configuration file is one of the directory that the program was called in."""
        arguments = parse_arguments(["--config", "n.yaml", "--system", "x"], {})
        path = os.path.join(os.getcwd(), "n.yaml")
        self.assertEqual(arguments.registry, ("--system", "x", "--config", path))

    def test_options_of_the_package_set_are_not_passed_on_to_the_registry(self) -> None:
        """The options of the package set are not passed on to the registry."""
        arguments = parse_arguments(["--directory=set", "--refresh", "--prepare-only"], {})
        self.assertEqual(arguments.directory, os.path.join(os.getcwd(), "set"))
        self.assertTrue(arguments.refresh and arguments.prepare_only)
        self.assertEqual(arguments.registry, ())

    def test_invalid_options_are_refused(self) -> None:
        """Invalid options are refused."""
        for argv, environ in (
            (["--port", "http"], {}),
            (["--port", "0"], {}),
            (["--port", "65536"], {}),
            (["--port"], {}),
            ([], {"PORT": "x"}),
            ([], {"NIXERY_PORT": "x"}),
            (["--port", "1", "--listen", "tcp:2"], {}),
        ):
            self.assertRaises(UsageError, parse_arguments, argv, environ)
