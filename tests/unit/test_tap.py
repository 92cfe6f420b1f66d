"""Tests for :mod:`nixery.tap`."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from twisted.application.service import IService
from twisted.internet.testing import MemoryReactorClock
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nixery.config.layer import DEPRECATED_NAMES
from nixery.config.sections import SECTIONS
from nixery.config.setting import option_name
from nixery.config.settings import SETTINGS
from nixery.sources.source import PathSource
from nixery.tap import Options
from nixery.wiring.application import make_application

CHECKOUT = Path(__file__).resolve().parents[2]


class OptionsTests(SynchronousTestCase):
    """The command line of ``twistd nixery``."""

    def parse(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Options:
        """The options, in an environment of their own."""
        options = Options({"HOME": "/home/somebody", **(environ or {})})
        options.parseOptions(arguments)
        return options

    def refused(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
        """Return the reason why a command line is refused."""
        try:
            self.parse(*arguments, environ=environ)
        except usage.UsageError as error:
            return str(error)
        raise AssertionError("the options were accepted")

    def test_options_become_the_configuration(self) -> None:
        """The options of the command line arrive in the configuration."""
        config = self.parse("--pkgs-path", "/p", "--nix-timeout=5", "--layer-budget", "7").config
        self.assertEqual(PathSource(path=Path("/p")), config.sources.source)
        self.assertEqual(5, config.nix.nix_timeout)
        self.assertEqual(7, config.layers.layer_budget)

    def test_settings_that_command_line_leaves_open_come_from_environment(self) -> None:
        """Settings that the command line leaves open come from the environment."""
        options = self.parse("--port", "1", environ={"NIXERY_PKGS_PATH": "/p", "PORT": "2"})
        self.assertEqual(("tcp:1",), options.config.http.listen)
        self.assertEqual(PathSource(path=Path("/p")), options.config.sources.source)

    def test_listen_option_may_be_repeated(self) -> None:
        """--listen may be given several times."""
        options = self.parse("--pkgs-path=/p", "--listen=tcp:1", "--listen=unix:/run/x")
        self.assertEqual(["tcp:1", "unix:/run/x"], list(options.endpoints))

    def test_every_setting_has_an_option(self) -> None:
        """The help lists every setting, with its variable and its default."""
        text = " ".join(str(Options({})).split())
        for setting in SETTINGS:
            self.assertIn(f"--{setting.option}=", text)
            self.assertIn(setting.help.split(":", maxsplit=1)[0].split(" ")[0], text)
            self.assertIn(f"[{', '.join(setting.variables)}]", text)
        self.assertIn("--config=", text)

    def test_help_and_documentation_have_the_same_sections(self) -> None:
        """The help and the documentation have every setting once, in the same sections."""
        self.assertEqual(
            sorted(setting.name for setting in SETTINGS),
            sorted(name for names in SECTIONS.values() for name in names),
        )
        text = (CHECKOUT / "web" / "docs" / "configuration.md").read_text("utf-8")
        documented = re.findall(
            r"^## (.+)\n(?:\n[^`#].*)*\n+```\{settings\}\n((?:\w+\n)+)```$", text, re.MULTILINE
        )
        self.assertEqual(
            {heading: [*names] for heading, names in SECTIONS.items()},
            {heading: names.split() for heading, names in documented},
        )
        shown = str(Options({}))
        places = [shown.index(f"\n{heading}:\n") for heading in SECTIONS]
        self.assertEqual(sorted(places), places)

    def test_help_fits_the_terminal_and_ends_with_examples(self) -> None:
        """The help is wrapped at the terminal's width, and its last lines are commands."""
        for columns in (60, 120):
            self.patch(os, "environ", {"COLUMNS": str(columns)})
            lines = Options({}).getUsage().rstrip().splitlines()
            self.assertLessEqual(max(map(len, lines)), columns)
            self.assertGreater(max(map(len, lines)), columns - 12)
            self.assertIn("twistd -n nixery", lines[-1])

    def test_former_names_of_options_work_and_are_not_in_the_help(self) -> None:
        """Former names of options work and are not in the help."""
        options = self.parse("--pkgs-path=/p", "--stop-grace=7", "--client-rate", "9")
        config = options.config
        self.assertEqual(
            (7, 9), (config.builds.shutdown_timeout, config.limits.requests_per_client)
        )
        self.assertEqual(
            {"--stop-grace", "--client-rate"}, {warning.setting for warning in config.warnings}
        )
        text = str(options)
        for name in DEPRECATED_NAMES:
            self.assertNotIn(f"--{option_name(name)}=", text)

    def test_unknown_option_is_refused_with_the_nearest_one(self) -> None:
        """An unknown option is refused with the nearest one."""
        self.assertEqual(
            "there is no option --prot: did you mean --port?", self.refused("--prot", "1")
        )

    def test_option_without_its_value_is_refused(self) -> None:
        """An option without its value is refused, at the end and before another option."""
        for options in (("--port",), ("--port", "--pkgs-path=/p"), ("--port", "--pkgs-path", "/p")):
            self.assertEqual("--port needs a value: write --port=VALUE", self.refused(*options))

    def test_words_that_belong_to_no_option_are_refused(self) -> None:
        """Words that belong to no option are refused."""
        self.assertIn("unexpected argument 'hello'", self.refused("--pkgs-path=/p", "hello"))

    def test_all_problems_are_in_one_message(self) -> None:
        """All problems are in one message, a line each."""
        text = self.refused("--port=x", "--system=y", environ={"NIX_TIMEOUT": "z"})
        for name in ("--port", "--system", "NIX_TIMEOUT"):
            self.assertIn(f"\n  {name} = ", text)

    def test_endpoints_that_twisted_does_not_understand_are_named(self) -> None:
        """An endpoint that Twisted does not understand is named, and all of them are."""
        text = self.refused("--pkgs-path=/p", "--listen=tcp:x", "--listen=nothing:1")
        self.assertIn("'tcp:x'", text)
        self.assertIn("'nothing:1'", text)
        self.assertIn("listen", text)

    def test_tls_endpoint_whose_key_does_not_exist_is_refused_not_a_traceback(self) -> None:
        """A TLS endpoint whose key does not exist is refused, not a traceback."""
        self.assertIn("listen", self.refused("--pkgs-path=/p", "--listen=ssl:1:privateKey=/none"))


class WiringTests(SynchronousTestCase):
    """Tests of the daemon that the parts become together."""

    def test_nothing_happens_before_the_start(self) -> None:
        """
        Making the daemon opens no socket, starts no thread and writes nothing:
        twistd forks, and changes its user, between making and starting.
        """
        for storage in ([], ["--storage-backend=gcs", "--gcs-bucket=b"]):
            directory = Path(self.mktemp()).absolute()
            options = Options({"HOME": str(directory)})
            options.parseOptions(["--pkgs-path=/p", "--listen=tcp:1", *storage])
            reactor = MemoryReactorClock()
            threads = threading.active_count()
            service = make_application(options.config, options.endpoints, reactor)
            verifyObject(IService, service)
            self.assertEqual([], reactor.tcpServers)
            self.assertEqual([], reactor.getDelayedCalls())
            self.assertEqual(threads, threading.active_count())
            self.assertFalse(directory.exists())
