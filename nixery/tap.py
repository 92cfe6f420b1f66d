"""
The plugin of ``twistd nixery``: makes the services of the daemon out of its options.

This is the only module, beside the commands, that knows the global reactor.  The components are
listed in :mod:`nixery.wiring.application`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import IService
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python import usage

from nixery.config.config import Config
from nixery.config.errors import ConfigError, ConfigProblem
from nixery.config.file import CONFIG_VARIABLE, suggest
from nixery.config.layer import DEPRECATED_NAMES
from nixery.config.load import load_config
from nixery.config.sections import SECTIONS
from nixery.config.setting import Setting, option_name
from nixery.config.settings import SETTINGS
from nixery.errors import NixeryError
from nixery.observability.json_log import json_line
from nixery.observability.log_service import LoggedService, in_foreground, log_file
from nixery.observability.text_log import text_line
from nixery.runtime.endpoint_strings import PLAIN
from nixery.runtime.reactor_time import use_monotonic_time
from nixery.runtime.systemd.journal import journal_line, to_journal, with_priority
from nixery.runtime.systemd.socket_activation import passed_endpoints
from nixery.runtime.systemd.unix_socket import PassedUNIXEndpoint
from nixery.version import VERSION
from nixery.wiring.application import make_application
from nixery.wiring.exit_status import PERMANENT, exit_status

__all__ = ["Options", "makeService"]


def _help(setting: Setting) -> str:
    variables = ", ".join(setting.variables)
    shown = f" (default: {setting.default_text})" if setting.default_text is not None else ""
    unit = f", in {setting.kind.name}" if setting.kind.name in {"bytes", "MiB", "seconds"} else ""
    return f"{setting.help}{unit} [{variables}]{shown}"


_EXAMPLES = """\
Examples:
  NIXERY_CHANNEL=nixos-25.05 twistd -n nixery
  twistd -n nixery --pkgs-path /srv/packages --port 8080
  twistd -n nixery --config /etc/nixery/nixery.yaml
"""


class Options(usage.Options):
    """
    The options of ``twistd nixery``, and the configuration made of them.

    After parsing, :attr:`config` is the configuration and :attr:`endpoints` are
    the endpoints that it names, by their strings; :attr:`reread` reads the configuration
    once more.
    """

    synopsis = "[options]"
    longdesc = (
        "A container registry that builds images on demand, with Nix. An option wins"
        " over its environment variables [in brackets], and that over the configuration file,"
        " which has the same settings with underscores."
    )
    optParameters = [  # noqa: RUF012  # Twisted's way of declaring them
        ["config", "c", None, f"the configuration file, in YAML [{CONFIG_VARIABLE}]"],
        *(
            [setting.option, None, None, _help(setting)]
            for setting in SETTINGS
            if not setting.kind.repeated
        ),
        *([option_name(name), None, None, "deprecated"] for name in DEPRECATED_NAMES),
    ]

    config: Config
    endpoints: Mapping[str, IStreamServerEndpoint]
    reread: Callable[[], Config]

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self._environ = environ
        self._listen: list[str] = []

    def opt_listen(self, endpoint: str) -> None:
        self._listen.append(endpoint)

    opt_listen.__doc__ = _help(next(item for item in SETTINGS if item.name == "listen"))

    def getUsage(self, width: int | None = None) -> str:  # noqa: N802  # Twisted's name
        """Describe all options but the deprecated ones, by the sections of the documentation."""
        if width is None:
            width = shutil.get_terminal_size().columns
        accepted, described = self.longOpt, self.longdesc
        sections = {
            heading: {option_name(name) for name in names} for heading, names in SECTIONS.items()
        }
        settings = set().union(*sections.values())
        deprecated = {option_name(name) for name in DEPRECATED_NAMES}
        general = {option.rstrip("=") for option in accepted} - settings - deprecated
        parts = [("Options", general), *sections.items()]
        try:
            text = ""
            for heading, names in parts:
                self.longOpt = [option for option in accepted if option.rstrip("=") in names]
                # Without a text of its own, Twisted takes that of the main module.
                self.longdesc = described if heading == parts[-1][0] else " "
                _, options = super().getUsage(width).split("\n", 1)
                text += f"{heading}:\n{options.rstrip()}\n\n"
            return text + _EXAMPLES
        finally:
            self.longOpt, self.longdesc = accepted, described

    def opt_version(self) -> None:
        """Print the version, and end."""
        sys.stdout.write(f"Nixery in Python, version {VERSION}\n")
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read the options, and the configuration.

        :raises usage.UsageError: an unknown option, or an unusable configuration.
        :raises SystemExit: the same, below twistd's own options: twistd would print pages of
            help before the reason, and end with the status of a fault that may pass.
        """
        try:
            self._parse(options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            sys.stderr.write(f"twistd nixery: {error}\n")
            raise SystemExit(PERMANENT) from None

    def _parse(self, options: Sequence[str] | None) -> None:
        self._refuse_missing_values(options or ())
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            name = str(error).removeprefix("option --").removesuffix(" not recognized")
            if name == str(error):
                raise
            known = ["config", *(setting.option for setting in SETTINGS)]
            raise usage.UsageError(
                f"there is no option --{name}: {suggest(name, known, '--')}"
            ) from None

    def _refuse_missing_values(self, options: Sequence[str]) -> None:
        """
        Refuse an option whose value would be the option behind it.

        :raises usage.UsageError: there is one.
        """
        wanting = {f"--{option[:-1]}" for option in self.longOpt if option.endswith("=")}
        for option, value in itertools.pairwise([*options, "--"]):
            if option in wanting and value.startswith("--"):
                raise usage.UsageError(f"{option} needs a value: write {option}=VALUE")

    def parseArgs(self, *words: str) -> None:
        """:raises usage.UsageError: there are words that belong to no option."""
        if words:
            raise usage.UsageError(
                f"unexpected argument {words[0]!r}: write settings as --OPTION=VALUE"
            )

    def postOptions(self) -> None:
        """:raises usage.UsageError: with all errors in the configuration."""
        from twisted.internet import reactor  # noqa: PLC0415  # twistd's --reactor chooses it

        # Before anything is made of it.
        use_monotonic_time(reactor)
        names = ("config", *(setting.name for setting in SETTINGS), *DEPRECATED_NAMES)
        given = {name: self[option_name(name)] for name in names if option_name(name) in self}
        given["listen"] = self._listen or None
        if given["config"] is not None:
            # twistd changes its directory when it starts.
            given["config"] = os.path.abspath(given["config"])
        passed = passed_endpoints()
        self.reread = lambda: load_config(given, self._environ, passed)
        try:
            self.config = self.reread()
            self.endpoints, problems = _parse_endpoints(reactor, self.config.http.listen)
            if problems:
                raise ConfigError(problems=problems)
        except ConfigError as error:
            lines = error.message.replace("\n", "\n  ")
            raise usage.UsageError(f"invalid configuration:\n  {lines}") from None


def makeService(options: Options) -> IService:
    """Make the daemon, ready to be started."""
    from twisted.internet import reactor  # noqa: PLC0415  # as above

    try:
        daemon = make_application(options.config, options.endpoints, reactor, reread=options.reread)
    except NixeryError as error:
        # There is no log yet.
        sys.stderr.write(f"twistd nixery: {error.message}\n")
        raise SystemExit(exit_status(error)) from None
    twistd: Mapping[str, Any] = options.parent or {}
    journal, foreground = to_journal(os.environ), in_foreground(twistd)
    if options.config.observability.log_format == "json":
        log = log_file(twistd, reactor)
        line = with_priority(json_line) if journal and log is sys.stdout else json_line
        return LoggedService(daemon, log, line)
    if not journal and not foreground:
        return daemon
    # Once: each call opens the file, and the first has it rotated.
    log = log_file(twistd, reactor)
    if journal and log is sys.stdout:
        return LoggedService(daemon, log, journal_line)
    return LoggedService(daemon, log, text_line) if foreground else daemon


def _parse_endpoints(
    reactor: Any,  # as in make_application
    texts: Sequence[str],
) -> tuple[dict[str, IStreamServerEndpoint], tuple[ConfigProblem, ...]]:
    """Parse the endpoints; return them by their strings, and the errors in the others."""
    endpoints: dict[str, IStreamServerEndpoint] = {}
    problems: list[ConfigProblem] = []
    adopted: dict[int, str] = {}
    for text in texts:
        try:
            endpoint = endpoints[text] = serverFromString(reactor, text.removeprefix(PLAIN))
        # Each kind of endpoint has a parser of its own, some of them from plugins, and their
        # exceptions are not documented.
        except Exception as error:  # noqa: BLE001
            problems.append(
                ConfigProblem(
                    setting="listen",
                    value=text,
                    layer="configuration",
                    expected=(
                        "give Twisted endpoint strings, as tcp:8080:interface=127.0.0.1"
                        f" ({type(error).__name__}: {error})"
                    ),
                )
            )
        else:
            if isinstance(endpoint, AdoptedStreamServerEndpoint):
                # A socket that was passed may be configured by its name as well, and counts as
                # it is configured, which is what comes last.
                endpoints.pop(adopted.get(endpoint.fileno, ""), None)
                adopted[endpoint.fileno] = text
                if endpoint.addressFamily == socket.AF_UNIX:
                    endpoints[text] = PassedUNIXEndpoint(reactor, endpoint.fileno)
    return endpoints, tuple(problems)
