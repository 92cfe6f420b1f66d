"""The files for NixOS and for systemd: they parse, and know all settings."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from nixery.configuration.settings import SETTINGS, SYSTEMS
from nixery.version import VERSION

CHECKOUT = Path(__file__).resolve().parent.parent.parent

STUBS = """
let
  # As much of nixpkgs' library as the module needs to be evaluated.
  fake = name: { inherit name; __functor = self: _: self; };
  lib = {
    types = {
      nullOr = t: t; listOf = t: t; attrsOf = t: t; submodule = m: m;
      str = fake "str"; int = fake "int"; path = fake "path"; port = fake "port";
      bool = fake "bool"; anything = fake "anything"; package = fake "package";
      enum = values: { inherit values; };
      ints = { positive = fake "positive"; between = _: _: fake "between"; };
      numbers = { positive = fake "positive"; };
    };
    mkOption = x: x;
    mkEnableOption = x: { description = x; };
    mkIf = condition: x: { inherit condition x; };
    literalMD = x: x;
    filterAttrs = p: set: builtins.listToAttrs (builtins.filter (x: p x.name x.value)
      (map (name: { inherit name; value = set.${name}; }) (builtins.attrNames set)));
    optional = condition: x: if condition then [ x ] else [ ];
    licenses.mit = "MIT";
    platforms.linux = [ ];
    head = builtins.head;
    cleanSource = x: x;
  };
"""


class NixosTests(SynchronousTestCase):
    """The package and the module for NixOS, evaluated with a stand-in for nixpkgs."""

    def setUp(self) -> None:
        if shutil.which("nix-instantiate") is None:
            raise SkipTest("Nix is not installed")

    def evaluate(self, expression: str) -> object:
        """The value of an expression that may use ``lib``."""
        done = subprocess.run(
            ["nix-instantiate", "--eval", "--strict", "--json", "-E", f"{STUBS} in {expression}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertEqual(0, done.returncode, done.stderr)
        value: object = json.loads(done.stdout)
        return value

    def module(self, settings: str) -> str:
        """The module, applied to a configuration."""
        return f"""
          import {CHECKOUT}/nix/module.nix {{
            inherit lib;
            config = {{
              nix.package = "/nix";
              services.nixery = {{
                enable = true;
                openFirewall = true;
                environmentFile = null;
                package = {{
                  pythonModule.withPackages = _: "/python";
                  runtimePrograms = [ ];
                }};
                settings = {settings};
              }};
            }};
            pkgs.formats.yaml = _: {{ generate = name: builtins.toJSON; }};
          }}"""

    def test_options(self) -> None:
        """The module has an option for every setting, and no other."""
        options = self.evaluate(
            f"let m = {self.module('{ }')}; in"
            " builtins.attrNames m.options.services.nixery.settings.type.options"
        )
        self.assertEqual(sorted(setting.name for setting in SETTINGS), options)

    def test_systems(self) -> None:
        """The module accepts the same systems as the daemon."""
        systems = self.evaluate(
            f"let m = {self.module('{ }')}; in"
            " m.options.services.nixery.settings.type.options.system.type.values"
        )
        self.assertEqual(list(SYSTEMS), systems)

    def test_service(self) -> None:
        """The service runs twistd with the settings that were given, and only those."""
        module = self.module('{ port = 80; channel = null; system = "i686-linux"; }')
        command = self.evaluate(
            f"({module}).config.x.systemd.services.nixery.serviceConfig.ExecStart"
        )
        assert isinstance(command, str)
        program, settings = command.split(" --config ")
        self.assertTrue(program.startswith("/python/bin/twistd --nodaemon"))
        self.assertEqual({"port": 80, "system": "i686-linux"}, json.loads(settings))
        ports = self.evaluate(f"({module}).config.x.networking.firewall.allowedTCPPorts")
        self.assertEqual([80], ports)

    def test_package(self) -> None:
        """The package has the version of the checkout."""
        version = self.evaluate(
            f"""(import {CHECKOUT}/default.nix {{
              inherit lib;
              pkgs = {{ git = ""; nix = ""; openssh = ""; util-linux = ""; }};
              python3Packages = {{ buildPythonPackage = x: x; }};
            }}).version"""
        )
        self.assertEqual(VERSION, version)


class SystemdTests(SynchronousTestCase):
    """The unit for other systems."""

    def test_unit(self) -> None:
        """systemd finds nothing wrong with it."""
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("systemd is not installed")
        unit = Path(self.mktemp()).absolute()
        unit.mkdir()
        text = (CHECKOUT / "nixery.service").read_text()
        # It wants to see the program, which is installed by whoever uses the unit.
        (unit / "nixery.service").write_text(text.replace("/opt/nixery/bin/twistd", "/bin/true"))
        done = subprocess.run(
            ["systemd-analyze", "verify", str(unit / "nixery.service")],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertEqual((0, ""), (done.returncode, done.stderr))
