"""The files for NixOS and for systemd: they parse, and know all settings."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from nixery.config.declarations.removed import REMOVED_SETTINGS
from nixery.config.declarations.sources import SYSTEMS
from nixery.config.layer import DEPRECATED_NAMES
from nixery.config.load import load_config
from nixery.config.settings import SETTINGS
from nixery.version import VERSION
from tests.integration.nixenv import nix_path
from tests.integration.test_install import installation, run
from tests.support.config import FORMER_NAMES

CHECKOUT = Path(__file__).resolve().parent.parent.parent

STUB = nix_path(CHECKOUT / "tests" / "integration" / "nixpkgs_stub")

STUB_NIXOS = nix_path(CHECKOUT / "tests" / "integration" / "nixpkgs_stub" / "nixos.nix")

DEFAULT = nix_path(CHECKOUT / "default.nix")

MODULE = nix_path(CHECKOUT / "nix" / "module.nix")


class NixTests(SynchronousTestCase):
    """Expressions, evaluated with a stand-in for nixpkgs that checks what it is given."""

    def setUp(self) -> None:
        if shutil.which("nix-instantiate") is None:
            raise SkipTest("Nix is not installed")

    def nix(self, expression: str) -> subprocess.CompletedProcess[str]:
        """Evaluate an expression that may use ``pkgs``, ``parts`` and ``system``."""
        text = f"""
          let
            pkgs = import {STUB} {{ }};
            parts = import {DEFAULT} {{ inherit pkgs; }};
            system = module: (pkgs.lib.evalModules {{
              specialArgs = {{ inherit pkgs; }};
              modules = [ {STUB_NIXOS} module ];
            }}).config;
          in {expression}"""
        return subprocess.run(
            ["nix-instantiate", "--eval", "--strict", "--json", "-E", text],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def evaluate(self, expression: str) -> Any:
        """The value of an expression."""
        done = self.nix(expression)
        self.assertEqual(0, done.returncode, done.stderr)
        return json.loads(done.stdout)

    def refuse(self, expression: str, reason: str) -> None:
        """See that an expression cannot be evaluated, for that reason."""
        done = self.nix(expression)
        self.assertNotEqual(0, done.returncode, done.stdout)
        self.assertIn(reason, done.stderr)


class PackageTests(NixTests):
    """``default.nix``: the package and what else is made of it."""

    def test_all_components_can_be_evaluated_down_to_the_scripts_that_make_them(self) -> None:
        """All components can be evaluated, down to the scripts that make them."""
        found = self.evaluate("builtins.mapAttrs (_: part: part.script or part.name) parts")
        self.assertEqual(
            {"nixery", "nixery-prepare", "nixery-popcount", "nixery-docs", "nixery-image"},
            set(found),
        )
        self.assertIn("bin/nixery-popcount", found["nixery-popcount"])
        for file in re.findall(r"_nix/([a-z]+\.nix)", found["nixery-prepare"]):
            self.assertTrue((CHECKOUT / "nix" / file).is_file(), file)

    def test_package_has_the_version_of_the_checkout(self) -> None:
        """The package has the version of the checkout."""
        self.assertEqual(VERSION, self.evaluate("parts.nixery.arguments.version"))

    def test_package_has_the_dependencies_of_setup_py(self) -> None:
        """It has the dependencies of setup.py, the extras of those included."""
        extras = {"pyjwt": {"cryptography"}, "twisted": {"pyopenssl", "service-identity", "idna"}}
        expected = set()
        for request in _setup_requires():
            name = re.match(r"[A-Za-z0-9_.-]+", request)
            assert name is not None
            plain = re.sub(r"[-_.]+", "-", name[0]).lower()
            expected.add(plain)
            if "[" in request:
                expected |= extras[plain]
        found = self.evaluate("map (item: item.name) parts.nixery.arguments.dependencies")
        self.assertEqual(sorted(expected), sorted(found))

    def test_built_with_what_pyproject_asks_for(self) -> None:
        """It is built with what pyproject.toml asks for."""
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
        names = [re.split("[>=]", item)[0].lower() for item in project["build-system"]["requires"]]
        found = self.evaluate("map (item: item.name) parts.nixery.arguments.build-system")
        self.assertEqual(sorted(names), sorted(found))

    def test_source_has_all_that_a_source_distribution_has(self) -> None:
        """Its source has all that a source distribution has, and no more."""
        found = {
            Path(path).name
            for path in self.evaluate("parts.nixery.arguments.src.fileset")
            if Path(path).parent == CHECKOUT
        }
        manifest = (CHECKOUT / "MANIFEST.in").read_text("utf-8")
        listed = set()
        for line in manifest.splitlines():
            command, *names = line.split()
            if command in {"include", "graft"}:
                listed |= set(names)
        self.assertEqual(listed | {"MANIFEST.in", "setup.py", "nixery", "twisted"}, found)

    def test_command_nixery_starts_twistds_plugin(self) -> None:
        """The command ``nixery`` that is made after the installation starts twistd's plugin."""
        directory, python = installation()
        environment = python.parent.parent
        script = self.evaluate("parts.nixery.arguments.postInstall")
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            env={"PATH": os.environ["PATH"], "out": str(environment)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertEqual(0, done.returncode, done.stderr)
        command = environment / "bin" / "nixery"
        self.assertTrue(os.access(command, os.X_OK))
        done = run(directory, str(python), str(command), "--version")
        self.assertEqual((0, True), (done.returncode, VERSION in done.stdout), done.stderr)

    def test_flake_has_the_components_as_packages_and_the_module(self) -> None:
        """The flake has the components as packages, and the module."""
        names = self.evaluate(
            f"""let
              flake = import {nix_path(CHECKOUT / "nix" / "flake.nix")};
              outputs = flake.outputs {{
                self = {{ }};
                nixpkgs = {{ inherit (pkgs) lib; legacyPackages.x86_64-linux = pkgs; }};
              }};
            in {{
              packages = builtins.attrNames outputs.packages.x86_64-linux;
              modules = builtins.attrNames outputs.nixosModules;
            }}"""
        )
        self.assertIn("default", names["packages"])
        self.assertIn("nixery-image", names["packages"])
        self.assertEqual(["default"], names["modules"])


class ImageTests(NixTests):
    """``nix/image.nix``: the container image that Nix makes."""

    def test_configuration_starts_the_daemon_under_an_init(self) -> None:
        """It starts the daemon under an init, knows its CA certificates, and listens."""
        image = self.evaluate("{ inherit (parts.nixery-image) name tag config; }")
        self.assertEqual(("nixery", VERSION), (image["name"], image["tag"]))
        config = image["config"]
        self.assertTrue(config["Entrypoint"][0].endswith("/bin/tini"))
        self.assertTrue(config["Entrypoint"][-1].endswith("/bin/nixery"))
        environ = dict(item.split("=", 1) for item in config["Env"])
        self.assertEqual("8080", environ["PORT"])
        self.assertTrue(environ["NIX_SSL_CERT_FILE"].endswith("/etc/ssl/certs/ca-bundle.crt"))
        self.assertEqual(
            {environ["STATE_DIRECTORY"], environ["CACHE_DIRECTORY"]}, set(config["Volumes"])
        )

    def test_named_paths_are_contained(self) -> None:
        """Each store path that its configuration names is among its contents: registered."""
        image = self.evaluate("{ inherit (parts.nixery-image) contents config; }")
        named = set(re.findall(r"/nix/store/[^/\"]+", json.dumps(image["config"])))
        self.assertTrue(named)
        self.assertEqual(set(), named - set(image["contents"]))

    def test_nix_finds_its_build_users(self) -> None:
        """Nix finds its build users: they are members of the group that nix.conf names."""
        files = self.evaluate(
            """builtins.listToAttrs (map (item: { name = item.path; value = item.text; })
              (builtins.filter (item: item ? path) parts.nixery-image.contents))"""
        )
        users = [line.split(":") for line in files["etc/passwd"].splitlines()]
        self.assertEqual({7}, {len(fields) for fields in users})
        groups = {line.split(":")[0]: line.split(":") for line in files["etc/group"].splitlines()}
        members = groups["nixbld"][3].split(",")
        builders = [fields for fields in users if fields[3] == groups["nixbld"][2]]
        self.assertEqual([fields[0] for fields in builders], members)
        self.assertEqual(32, len({fields[2] for fields in builders}))
        self.assertIn("build-users-group = nixbld\n", files["etc/nix/nix.conf"])
        self.assertIn("sandbox = false\n", files["etc/nix/nix.conf"])

    def test_commands_register_store_paths_in_the_nix_database(self) -> None:
        """Its commands register the store paths in a Nix database, and root its contents."""
        work = Path(self.mktemp()).absolute()
        tools, closure, root = work / "tools", work / "closure", work / "root"
        for directory in (tools / "bin", closure, root):
            directory.mkdir(parents=True)
        program = shutil.which("nix-store")
        assert program is not None
        (tools / "bin" / "nix-store").symlink_to(program)
        sqlite = tools / "bin" / "sqlite3"
        sqlite.write_text(
            f"#!{sys.executable}\nimport sqlite3, sys\n"
            "with sqlite3.connect(sys.argv[1]) as db: db.execute(sys.argv[2])\n"
        )
        sqlite.chmod(0o755)
        path = f"/nix/store/{'0' * 32}-thing"
        (closure / "registration").write_text(f"{path}\n{'0' * 64}\n120\n\n1\n{path}\n")
        script = self.evaluate(
            f"""(import {DEFAULT} {{
              pkgs = import {STUB} {{ tools = "{tools}"; closure = "{closure}"; }};
            }}).nixery-image.extraCommands"""
        )
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=root,
            env={**os.environ, "NIX_CONFIG": "build-users-group =", "HOME": str(work)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertEqual(0, done.returncode, done.stderr)
        database = sqlite3.connect(root / "nix" / "var" / "nix" / "db" / "db.sqlite")
        self.addCleanup(database.close)
        rows = database.execute("SELECT path, registrationTime FROM ValidPaths").fetchall()
        self.assertEqual([(path, 1)], rows)
        self.assertEqual(0o1777, (root / "tmp").stat().st_mode & 0o7777)
        self.assertTrue((root / "var" / "lib" / "nixery").is_dir())
        roots = {str(link.readlink()) for link in (root / "nix/var/nix/gcroots/image").iterdir()}
        self.assertEqual(set(self.evaluate("parts.nixery-image.contents")), roots)


class ModuleTests(NixTests):
    """``nix/module.nix``: the service of NixOS."""

    def nixery(self, options: str, then: str) -> Any:
        """Evaluate an attribute, or an expression of ``found``: a machine with these options."""
        if not then.startswith("{"):
            then = f"found.{then}"
        return self.evaluate(f"let found = system {self.machine(options)}; in {then}")

    def machine(self, options: str) -> str:
        """A module with these options of the registry."""
        return (
            f"{{ imports = [ {MODULE} ];"
            f" services.nixery = {{ enable = true; }} // {{ {options} }}; }}"
        )

    def service(self, options: str) -> Any:
        """The directives of the service."""
        return self.nixery(options, "systemd.services.nixery.serviceConfig")

    def written(self, options: str) -> dict[str, object]:
        """The content of the configuration file that the service is given."""
        _, _, settings = self.service(options)["ExecStart"].partition("nixery.yaml-")
        value: dict[str, object] = json.loads(settings)
        return value

    def test_examples_of_the_documentation_are_machines_whose_configuration_is_accepted(
        self,
    ) -> None:
        """Each example of the documentation is a machine, and the daemon takes its settings."""
        text = (CHECKOUT / "web" / "docs" / "running" / "nixos.md").read_text("utf-8")
        examples = re.findall(r"^```nix\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        self.assertGreaterEqual(len(examples), 4)
        file = Path(self.mktemp())
        for example in examples:
            # The stand-in for NixOS does not merge two imports of one file.
            module = re.sub(r"imports = \[ \./nixery/nix/module\.nix \];", "", example)
            machine = f"{{ imports = [ {MODULE} ({module}) ]; services.nixery.enable = true; }}"
            found = self.evaluate(
                f"(system {machine}).systemd.services.nixery.serviceConfig.ExecStart"
            )
            file.write_text(found.partition("nixery.yaml-")[2])
            has_source = "channel" in example or "pkgs_path" in example
            load_config(
                {"config": str(file)}, {} if has_source else {"NIXERY_CHANNEL": "nixos-25.05"}
            )

    def test_module_has_an_option_for_every_setting(self) -> None:
        """The module has an option for every setting and deprecated name, and no other."""
        options = self.nixery("", "services.nixery.settings")
        names = {*(setting.name for setting in SETTINGS), *DEPRECATED_NAMES}
        self.assertEqual(dict.fromkeys(names), options)

    def test_deprecated_names_reach_daemon_and_are_warned_of_with_present_ones(self) -> None:
        """Deprecated names reach the daemon, and are warned of with the present ones."""
        given: dict[str, object] = {
            old: yaml.safe_load(value) for old, (_, value) in FORMER_NAMES.items()
        }
        given["revisions"] = ["v7.*"]
        given |= dict.fromkeys(REMOVED_SETTINGS, 1)
        options = f"settings = builtins.fromJSON {json.dumps(json.dumps(given))};"
        self.assertEqual(given, self.written(options))
        expected = {
            f"nixery: settings.{old} is now called settings.{new}"
            for old, (new, _) in FORMER_NAMES.items()
            if old != "gcs_proxy"
        }
        expected.add(
            "nixery: settings.gcs_proxy is now settings.gcs_redirect, with the opposite value"
        )
        expected |= {
            f"nixery: settings.{name} was removed and has no effect" for name in REMOVED_SETTINGS
        }
        self.assertEqual(sorted(expected), sorted(self.nixery(options, "warnings")))

    def test_module_accepts_the_same_systems_as_the_daemon(self) -> None:
        """The module accepts the same systems as the daemon."""
        text = (CHECKOUT / "nix" / "module.nix").read_text("utf-8")
        listed = re.search(r"    system = setting \(types.enum \[(.*?)]\)", text, re.DOTALL)
        assert listed is not None
        self.assertEqual(list(SYSTEMS), re.findall(r'"([^"]+)"', listed[1]))

    def test_each_setting_may_be_given_its_own_default(self) -> None:
        """Each setting may be given its own default, and the daemon understands the file."""
        values = {
            setting.name: setting.default
            for setting in SETTINGS
            if isinstance(setting.default, bool | int | float | str)
            and setting.requires is None
            and setting.name != "port"
        }
        self.assertGreater(len(values), 30)
        text = json.dumps(json.dumps(values)).replace("$", "\\$")
        written = self.written(f"settings = builtins.fromJSON {text};")
        self.assertEqual(values, written)
        file = Path(self.mktemp()).absolute()
        file.write_text(json.dumps(written))
        load_config({"config": str(file)}, {})

    def test_setting_that_daemon_would_refuse_is_refused_by_module_and_named(self) -> None:
        """A setting that the daemon would refuse is refused by the module, and named."""
        for setting in ('port = "80"', 'system = "vax"', "max_builds = 0", 'prot = "x"'):
            name = setting.split(" ", maxsplit=1)[0]
            expression = f"(system {self.machine(f'settings.{setting};')}).services.nixery.settings"
            self.refuse(expression, f"services.nixery.settings.{name}'")

    def test_machine_that_imports_module_and_does_not_enable_it_has_none_of_it(self) -> None:
        """A machine that imports the module and does not enable it has none of it."""
        found = self.evaluate(f"(system {{ imports = [ {MODULE} ]; }}).systemd.services")
        self.assertEqual({}, found)

    def test_service_runs_daemon_with_settings_that_were_given_and_only_those(self) -> None:
        """The service runs the daemon with the settings that were given, and only those."""
        options = 'settings = { port = 8080; channel = null; system = "i686-linux"; };'
        self.assertEqual({"port": 8080, "system": "i686-linux"}, self.written(options))
        self.assertRegex(self.service(options)["ExecStart"], r"^\S+/bin/nixery --config /")

    def test_service_has_a_user_of_its_own(self) -> None:
        """It has a user of its own, who may use the Nix daemon."""
        self.assertEqual(["nixery"], self.nixery("", "nix.settings.extra-allowed-users"))
        service = self.service("")
        self.assertEqual(("nixery", "nixery"), (service["User"], service["Group"]))
        self.assertTrue(self.nixery("", "users.users.nixery")["isSystemUser"])

    def test_firewall_is_opened_when_that_is_asked_for_for_a_port_that_is_given(self) -> None:
        """The firewall is opened when that is asked for, for a port that is given."""
        self.assertEqual(
            [8080],
            self.nixery(
                "openFirewall = true; settings.port = 8080;", "networking.firewall.allowedTCPPorts"
            ),
        )
        self.assertEqual(
            [], self.nixery("settings.port = 8080;", "networking.firewall.allowedTCPPorts")
        )
        failed = self.nixery("openFirewall = true; socket.enable = true;", "assertions")
        self.assertEqual(
            ["nixery: openFirewall needs settings.port"],
            [item["message"] for item in failed if not item["assertion"]],
        )

    def test_only_for_a_port_below_1024_the_service_gets_a_capability(self) -> None:
        """Only for a port below 1024 the service gets a capability."""
        self.assertEqual(
            "CAP_NET_BIND_SERVICE", self.service("settings.port = 80;")["AmbientCapabilities"]
        )
        self.assertNotEqual(
            "CAP_NET_BIND_SERVICE",
            self.service("settings.port = 8080;").get("AmbientCapabilities"),
        )

    def test_credential_is_loaded_by_systemd(self) -> None:
        """A credential is loaded by systemd, and one called as a setting becomes its value."""
        options = 'credentials = { gcs_signing_key = "/secret/key"; "tls.pem" = "/secret/pem"; };'
        self.assertEqual(
            {"gcs_signing_key": "/run/credentials/nixery.service/gcs_signing_key"},
            self.written(options),
        )
        self.assertEqual(
            ["gcs_signing_key:/secret/key", "tls.pem:/secret/pem"],
            self.service(options)["LoadCredential"],
        )
        self.assertEqual(
            {"gcs_signing_key": "/else"},
            self.written(options + ' settings.gcs_signing_key = "/else";'),
        )

    def test_no_secret_goes_into_the_store(self) -> None:
        """Files that would be copied there, and secrets that would be written there, are named."""
        harmless = (
            'environmentFile = "/run/e"; credentials.k = "/run/k"; settings = {'
            ' tls_key = "/run/key"; nix_options.cores = 2; nix_options_file = "/run/o";'
            ' pkgs_repo = "https://u@h/p"; };'
        )
        self.assertEqual([], self.failed_assertions(harmless))
        for options, name in (
            ("settings.tls_key = ./secret;", "tls_key"),
            ('settings.htpasswd_file = "${builtins.storeDir}/x/secret";', "htpasswd_file"),
            ("credentials.k = ./secret;", "credentials.k"),
            ("environmentFile = ./secret;", "environmentFile"),
            ('settings.nix_options.access-tokens = "h=x";', "nix_options"),
            ('settings.pkgs_repo = "https://u:p@h/p";', "pkgs_repo"),
        ):
            [message] = self.failed_assertions(options)
            self.assertIn(name, message)
            self.assertIn("Nix store", message)

    def failed_assertions(self, options: str) -> list[str]:
        """The messages of the assertions that do not hold."""
        found = self.nixery(options, "assertions")
        return [item["message"] for item in found if not item["assertion"]]

    def test_with_socket_activation_systemd_listens(self) -> None:
        """With socket activation systemd listens, and the daemon takes its sockets over."""
        options = (
            'socket = { enable = true; addresses = [ "127.0.0.1:80" "443" "/run/x" "[::1]:81" ]; };'
        )
        self.assertEqual(
            [
                "systemd:domain=INET:index=0",
                "systemd:domain=INET6:index=1",
                "systemd:domain=UNIX:index=2",
                "systemd:domain=INET6:index=3",
            ],
            self.written(options)["listen"],
        )
        self.assertEqual(
            ["127.0.0.1:80", "443", "/run/x", "[::1]:81"],
            self.nixery(options, "systemd.sockets.nixery.listenStreams"),
        )
        self.assertEqual([], self.nixery(options, "systemd.services.nixery.wantedBy"))

    def test_directories_of_the_operators_own_can_be_written_to(self) -> None:
        """Directories of the operator's own can be written to."""
        self.assertEqual(
            ["/big/images"],
            self.service('settings.storage_path = "/big/images";')["ReadWritePaths"],
        )

    def test_same_as_the_unit(self) -> None:
        """The directives of the unit for other systems hold here as well."""
        unit = configparser.RawConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have case
        unit.read_string((CHECKOUT / "nixery.service").read_text("utf-8"))
        service = self.service("")
        other = {"EnvironmentFile", "LoadCredential"}
        compared = 0
        for name, value in unit["Service"].items():
            if name not in other and not name.startswith("Exec"):
                found = service[name]
                self.assertEqual(value, found[-1] if isinstance(found, list) else found, name)
                compared += 1
        self.assertGreater(compared, 5)
        limits = self.nixery("", "systemd.services.nixery.unitConfig")
        self.assertIn("StartLimitBurst", limits)
        for name, text in limits.items():
            self.assertEqual(text, unit["Unit"][name])

    def test_service_starts_after_clock_network_and_nix_daemon(self) -> None:
        """It is started when the clock is set, and the network and the Nix daemon are there."""
        self.assertEqual(
            ["network-online.target", "nix-daemon.socket", "time-sync.target"],
            sorted(self.nixery("", "systemd.services.nixery.after")),
        )

    def test_commands_of_the_registry_are_on_the_path_of_the_machine(self) -> None:
        """The commands of the registry are on the path of the machine."""
        (found,) = self.nixery("", "environment.systemPackages")
        self.assertTrue(found.endswith(f"-nixery-{VERSION}"), found)

    def test_instances_have_services_users_directories_and_settings_of_their_own(self) -> None:
        """Instances have services, users, directories and settings of their own."""
        options = (
            "instances = { blue = { settings.port = 8081;"
            ' credentials.token_key = "/secret/blue"; };'
            ' green = { socket = { enable = true; addresses = [ "443" ]; };'
            ' settings.storage_path = "/big/green"; }; off.enable = false; };'
        )
        names = ["nixery", "nixery-blue", "nixery-green"]
        machine = self.nixery(
            options,
            "{ services = found.systemd.services; sockets = found.systemd.sockets;"
            " users = found.users; allowed = found.nix.settings.extra-allowed-users;"
            " wrong = builtins.filter (item: !item.assertion) found.assertions; }",
        )
        self.assertEqual([], machine["wrong"])
        self.assertEqual(names, sorted(machine["services"]))
        self.assertEqual(names, sorted(machine["allowed"]))
        self.assertEqual(names, sorted(machine["users"]["users"]))
        self.assertEqual(names, sorted(machine["users"]["groups"]))
        self.assertEqual(["443"], machine["sockets"]["nixery-green"]["listenStreams"])
        self.assertEqual(["nixery-green"], sorted(machine["sockets"]))
        blue, green = (
            machine["services"][name]["serviceConfig"] for name in ("nixery-blue", "nixery-green")
        )
        self.assertEqual(
            {"port": 8081, "token_key": "/run/credentials/nixery-blue.service/token_key"},
            json.loads(blue["ExecStart"].partition("nixery-blue.yaml-")[2]),
        )
        self.assertEqual(["token_key:/secret/blue"], blue["LoadCredential"])
        self.assertEqual(["/big/green"], green["ReadWritePaths"])
        alone = self.service("")
        for name, value in alone.items():
            if "nixery" in str(value) and name not in {"ExecStart", "LoadCredential"}:
                self.assertEqual(value.replace("nixery", "nixery-blue"), blue[name], name)
            elif not name.startswith("Exec") and name != "LoadCredential":
                self.assertEqual(value, blue[name], name)

    def test_instances_need_no_main_registry_and_may_not_share_an_address(self) -> None:
        """Instances need no registry beside them, and may not be where another one is."""
        machine = f"(system {{ imports = [ {MODULE} ]; services.nixery"
        self.assertEqual(
            ["nixery-blue"],
            self.evaluate(
                f"builtins.attrNames {machine}.instances.blue = {{ }}; }}).systemd.services"
            ),
        )
        found = self.evaluate(f"{machine}.instances = {{ a = {{ }}; b = {{ }}; }}; }}).assertions")
        self.assertEqual(
            [
                f"nixery-{name}: another registry of services.nixery listens on the same address"
                for name in "ab"
            ],
            [item["message"] for item in found if not item["assertion"]],
        )

    def test_example_has_proxy_that_does_not_collect_and_whose_word_daemon_takes(self) -> None:
        """The example has a proxy that does not collect, and whose word the daemon takes."""
        found = self.evaluate(
            f"""let machine = system {nix_path(CHECKOUT / "nix" / "nginx.nix")}; in {{
              inherit (machine.services.nixery) settings;
              inherit (machine.services.nginx) virtualHosts;
              ports = machine.networking.firewall.allowedTCPPorts;
            }}"""
        )
        ((name, host),) = found["virtualHosts"].items()
        location = host["locations"]["/"]
        for line in ("proxy_buffering off;", "proxy_request_buffering off;", "X-Forwarded-For"):
            self.assertIn(line, location["extraConfig"])
        settings = found["settings"]
        self.assertEqual(f"https://{name}", settings["public_url"])
        (endpoint,) = settings["listen"]
        port, address = re.fullmatch(r"tcp:(\d+):interface=(.+)", endpoint).groups()  # type: ignore[union-attr]  # it matches
        self.assertEqual(f"http://{address}:{port}", location["proxyPass"])
        self.assertEqual([address], settings["trusted_proxies"])
        self.assertEqual([80, 443], found["ports"])


def _setup_requires() -> list[str]:
    """The requirements of setup.py."""
    tree = ast.parse((CHECKOUT / "setup.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            required: list[str] = ast.literal_eval(node.value)
            return required
    raise AssertionError("setup.py has no install_requires")
