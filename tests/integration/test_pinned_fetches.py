"""Real Nix: what package sets fetch while they are evaluated, pinned and not pinned."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tarfile
from base64 import b64encode
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest, TestCase

from nixery.config.load import load_config
from nixery.image.errors import PackagesRefused
from nixery.image.names import PackageRequest
from nixery.nix.commands import NixCommands
from nixery.nix.errors import EvaluationFailed
from nixery.sources.errors import SourceUnavailable
from nixery.sources.resolver import Resolver
from nixery.sources.tag_policy import LATEST
from nixery.testing.fakes import InlineWorkers
from nixery.wiring.nix import make_nix_context
from nixery.wiring.sources import make_sources
from tests.integration.nixenv import (
    make_nix,
    nix_environment,
    nix_missing,
    nix_path,
    path_set,
)
from tests.support.http_files import FileHandler, serve_files

SYSTEM = "x86_64-linux"

PINNED_SET = """
{ system ? builtins.currentSystem, ... }:
{ tool = derivation { name = "tool"; inherit system; builder = "/bin/sh"; }; }
"""
"""The package set in the archive that the tests pin."""

NPINS = """
# The shape of what npins writes.
let
  data = builtins.fromJSON (builtins.readFile ./sources.json);
  make = spec:
    let
      path =
        if spec.type == "Git" then builtins.fetchGit { inherit (spec) url; rev = spec.revision; }
        else builtins.fetchTarball { inherit (spec) url; sha256 = spec.hash; };
    in
    spec // { outPath = path; };
in
if data.version == 5 then builtins.mapAttrs (_: make) data.pins else throw "another version"
"""

NIV = """
# The shape of what niv writes.
let
  data = builtins.fromJSON (builtins.readFile ./sources.json);
  fetch = name: spec:
    if spec.type == "tarball" then
      builtins_fetchTarball { inherit name; inherit (spec) url sha256; }
    else builtins.abort "another type";
  builtins_fetchTarball = { url, name ? null, sha256 }@attrs:
    let inherit (builtins) lessThan nixVersion fetchTarball; in
    if lessThan nixVersion "1.12" then fetchTarball { inherit url; } else fetchTarball attrs;
in
builtins.mapAttrs (name: spec: spec // { outPath = fetch name spec; }) data
"""

FLAKE_COMPAT = """
# The shape of flake-compat.
{ src, system ? builtins.currentSystem or "unknown-system" }:
let
  lock = builtins.fromJSON (builtins.readFile (src + "/flake.lock"));
  fetchTree = info:
    if info.type == "tarball" then
      {
        outPath = fetchTarball { inherit (info) url; sha256 = info.narHash; };
        inherit (info) narHash;
      }
    else if info.type == "git" then
      builtins.fetchGit { inherit (info) url rev; }
    else throw "another type";
  nodes = builtins.mapAttrs
    (key: node:
      let
        source =
          if key == lock.root then { outPath = src; } else fetchTree (node.info // node.locked);
      in if node.flake or true then call source (inputs node) // source else source)
    (builtins.mapAttrs (_: node: { info = { }; } // node) lock.nodes);
  inputs = node: builtins.mapAttrs (_: name: nodes.${name}) (node.inputs or { });
  call = source: given:
    let
      flake = import (source.outPath + "/flake.nix");
      outputs = flake.outputs (given // { self = outputs // source; });
    in
    outputs;
in
{ defaultNix = nodes.${lock.root}; }
"""

ESCAPES = {
    "by its name": "import (fetchTarball URL)",
    "as an attribute": "import (builtins.fetchTarball URL)",
    "with": "with builtins; import (fetchTarball URL)",
    "inherited": "let inherit (builtins) fetchTarball; in import (fetchTarball URL)",
    "of builtins in builtins": "import (builtins.builtins.builtins.fetchTarball URL)",
    "with underscores": "import (__fetchTarball URL)",
    "without a scheme": 'import (fetchTarball (builtins.replaceStrings [ "http:" ] [ "" ] URL))',
    "chosen by a name": 'import (builtins.getAttr ("fetch" + "Tarball") builtins URL)',
    "an empty hash": 'import (fetchTarball { url = URL; sha256 = ""; })',
    "a short hash": 'import (fetchTarball { url = URL; sha256 = "0000"; })',
    "one file": "import (builtins.fetchurl URL)",
    "one file with underscores": "import (__fetchurl { url = URL; })",
    "git": "import (builtins.fetchGit URL)",
    "git of a branch": 'import (fetchGit { url = URL; ref = "main"; })',
    "git of a short commit": 'import (fetchGit { url = URL; rev = "0123456789ab"; })',
    "git over ssh": 'import (fetchGit "git@127.0.0.1:repository")',
    "mercurial": "import (builtins.fetchMercurial URL)",
    "a search path": 'import (builtins.findFile [ { prefix = "a"; path = URL; } ] "a")',
    "angle brackets": 'let __nixPath = [ { prefix = "a"; path = URL; } ]; in import <a>',
    "caught": "(builtins.tryEval (import (fetchTarball URL))).value",
    "an import": "import ./fetches.nix",
    "an import with underscores": "__import ./fetches.nix",
    "an import as a value": "builtins.head (map import [ ./fetches.nix ])",
    "an import of a directory": "import ./directory",
    "an import of text": 'import (toString ./. + "/fetches.nix")',
    "an import of a path through another": 'import (./directory + "/../fetches.nix")',
    "an import of a set": "import { outPath = ./fetches.nix; }",
    "an import of a set that makes its text": (
        "import { __toString = _: toString ./fetches.nix; }"
    ),
    "an import of a copy": 'import "${./.}/fetches.nix"',
    "an import of a link": "import ./link.nix",
    "an import with a scope": "scopedImport { } ./fetches.nix",
    "an import with a scope with underscores": "__scopedImport { } ./fetches.nix",
    "an import with a scope of a scope": (
        "builtins.scopedImport { import = builtins.scopedImport { }; } ./imports.nix"
    ),
    "an import with the function of a package": "import ./calls.nix { inherit import; }",
    "a file of what is pinned": 'import (PINNED + "/unpinned.nix")',
}
"""Ways to fetch the archive without a hash, which all have to be refused."""


class PinnedFetchesTests(TestCase):
    """A package set that fetches from a server on this machine."""

    timeout = 300
    skip = nix_missing()

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.served = self.directory / "served"
        self.set = self.directory / "set"
        for directory in (self.served, self.set):
            directory.mkdir(parents=True)
        self.url = serve_files(self, self.served, _Handler)
        self.archive = self.pack("set", {"default.nix": PINNED_SET})
        self.hash = self.hash_of(self.archive)
        self.nix = self.make()

    def make(self, **settings: Any) -> NixCommands:
        # The addresses of former runs may be the same, and Nix remembers what it fetched.
        environment = nix_environment() | {"NIX_PATH": f"nixpkgs={self.set}"}
        environment["NIX_CONFIG"] += "\ntarball-ttl = 0\ndownload-attempts = 1"
        nix = make_nix(self.directory, environ=environment, **settings)
        self.addCleanup(lambda: Deferred.fromCoroutine(nix.stop()))
        return nix

    def pack(self, name: str, files: dict[str, str]) -> str:
        """Make an archive on the server; return its URL."""
        top = self.directory / "packed" / name
        for file, text in files.items():
            (top / file).parent.mkdir(parents=True, exist_ok=True)
            (top / file).write_text(text)
        with tarfile.open(self.served / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(top, arcname="top")
        return f"{self.url}/{name}.tar.gz"

    def hash_of(self, url: str) -> str:
        """Return the hash of an archive, in the form that lock files have."""
        name = url.rpartition("/")[2].removesuffix(".tar.gz")
        command = ("nix-hash", "--type", "sha256", "--base32", self.directory / "packed" / name)
        return self.run_command(*command)

    def fetch(self, archive: str) -> str:
        """Return an expression that fetches an archive by its hash."""
        return f'(fetchTarball {{ url = "{archive}"; sha256 = "{self.hash_of(archive)}"; }})'

    def run_command(self, *command: str | Path) -> str:
        done = subprocess.run(
            command, env=nix_environment(), capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        (self.set / name).parent.mkdir(parents=True, exist_ok=True)
        (self.set / name).write_text(text)

    async def evaluate(
        self,
        *overlays: Path,
        nix: NixCommands | None = None,
        search_path: tuple[tuple[str, Path], ...] = (),
    ) -> str:
        """Return the store path of the derivation of the package ``tool``."""
        package_set = evolve(path_set(self.set, *overlays), search_path=search_path)
        evaluation = await (nix or self.nix).evaluate(
            package_set, SYSTEM, [PackageRequest(name="tool")]
        )
        return evaluation.packages[0].derivation

    async def refusal(self, **other: Any) -> str:
        """Return the text of an evaluation that is refused."""
        try:
            derivation = await self.evaluate(**other)
        except EvaluationFailed as error:
            return error.message
        except PackagesRefused as error:
            return str(error.problems[0])
        raise AssertionError(f"it was evaluated to {derivation}")

    # -- pinned -------------------------------------------------------------------

    async def test_pinned_archive(self) -> None:
        """A package of an archive with a hash is the same as one of a set that fetches nothing."""
        self.write("default.nix", f"import {self.fetch(self.archive)}")
        derivation = await self.evaluate()
        self.assertEqual(derivation, await self.evaluate())
        self.write("default.nix", PINNED_SET)
        self.assertEqual(derivation, await self.evaluate())
        self.assertEqual(derivation, await self.evaluate(nix=self.make()))

    async def test_archive_is_kept_from_collections(self) -> None:
        """An archive is kept from collections, and fetched again after one that took it."""
        fetch = self.fetch(self.pack("own", {"default.nix": f"{PINNED_SET} # {self.directory}"}))
        self.write("default.nix", f"import {fetch}")
        derivation = await self.evaluate()
        [root] = (self.directory / "state/src").iterdir()
        path = root.readlink()
        with self.assertRaises(subprocess.CalledProcessError) as caught:
            self.run_command("nix-store", "--delete", path)
        self.assertIn("still alive", caught.exception.stderr)
        root.unlink()
        self.run_command("nix-store", "--delete", path)
        self.assertEqual(derivation, await self.evaluate(nix=self.make()))

    async def test_package_set_that_is_kept_in_memory(self) -> None:
        """A package set that is kept in memory has the same guard, and its archives are kept."""
        self.nix.keep_evaluators()
        fetch = self.fetch(self.pack("own", {"default.nix": f"{PINNED_SET} # {self.directory}"}))
        self.write("default.nix", f"import {fetch}")
        derivation = await self.evaluate()
        [root] = (self.directory / "state/src").iterdir()
        self.assertTrue(root.is_symlink())
        self.assertEqual(derivation, await self.evaluate())
        self.assertEqual(derivation, await self.evaluate(nix=self.make()))
        for nix in (self.nix, self.make()):
            index = await nix.list_packages(path_set(self.set), SYSTEM)
            self.assertEqual([entry.attribute for entry in index.entries], ["tool"])
        self.write("fetches.nix", f'import (fetchTarball "{self.archive}")')
        self.write("default.nix", f"builtins.seq (import {fetch}) (import ./fetches.nix)")
        self.assertIn("allow_unpinned_fetches", await self.refusal())

    async def test_wrong_hash(self) -> None:
        """A hash that does not fit is refused with the one that does."""
        self.write("default.nix", f"import {self.fetch(self.archive)}".replace(self.hash, "0" * 52))
        refusal = await self.refusal()
        self.assertIn("hash mismatch", refusal)
        self.assertIn(self.archive, refusal)

    async def test_host_that_does_not_answer(self) -> None:
        """A host that does not answer may do so later, and a file that is not there may not."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{closed.getsockname()[1]}/set.tar.gz"
            fetch = self.fetch(self.archive).replace(self.archive, url).replace(self.hash, "0" * 52)
            self.write("default.nix", f"import {fetch}")
            with self.assertRaises(SourceUnavailable) as caught:
                await self.evaluate()
        self.assertIn(url, caught.exception.message)
        self.write("default.nix", f"import {fetch}".replace(url, f"{self.url}/none.tar.gz"))
        self.assertIn("404", await self.refusal())

    async def test_pinned_file(self) -> None:
        """A file with a hash is fetched."""
        file = self.served / "set.nix"
        file.write_text(PINNED_SET)
        digest = self.run_command("nix-hash", "--flat", "--type", "sha256", file)
        self.write(
            "default.nix",
            f'import (builtins.fetchurl {{ url = "{self.url}/set.nix"; sha256 = "{digest}"; }})',
        )
        self.assertIn("-tool.drv", await self.evaluate())

    async def test_pinned_archive_behind_a_password(self) -> None:
        """An archive behind a password is fetched with the netrc file of Nix's options."""
        url = self.pack("private", {"default.nix": f"{PINNED_SET} # {self.directory}"})
        self.write("default.nix", f"import {self.fetch(url)}")
        refusal = await self.refusal()
        self.assertIn("401", refusal)
        netrc, options = self.directory / "netrc", self.directory / "options.conf"
        netrc.write_text("machine 127.0.0.1 login alice password secret\n")
        options.write_text(f"netrc-file = {netrc}\n")
        nix = self.make(options_file=options)
        self.assertIn("-tool.drv", await self.evaluate(nix=nix))

    async def test_pinned_commit(self) -> None:
        """A full commit is fetched, by both functions, and by the text that names a tree."""
        repository = self.directory / "repository"
        git = ("git", "-C", repository, "-c", "user.name=a", "-c", "user.email=a@example.org")
        self.run_command("git", "init", "-q", repository)
        (repository / "default.nix").write_text(PINNED_SET)
        self.run_command(*git, "add", ".")
        self.run_command(*git, "commit", "-q", "-m", "first")
        commit = self.run_command(*git, "rev-parse", "HEAD")
        self.run_command("git", "clone", "-q", "--bare", repository, self.served / "r.git")
        self.run_command("git", "-C", self.served / "r.git", "update-server-info")
        url = f"{self.url}/r.git"
        tree = f'type = "git"; url = "{url}"; rev = "{commit}";'
        for fetch in (
            f'builtins.fetchGit {{ url = "{url}"; rev = "{commit}"; }}',
            # Newer versions leave the history out, which a server of files cannot.
            f"builtins.fetchTree {{ shallow = false; {tree} }}",
            f'builtins.fetchTree "git+{url}?rev={commit}&shallow=0"',
        ):
            self.write("default.nix", f"import ({fetch})")
            self.assertIn("-tool.drv", await self.evaluate(nix=self.make()), fetch)
        for fetch, advice in (
            (f'builtins.fetchTree {{ type = "git"; url = "{url}"; }}', "narHash"),
            (f'builtins.fetchTree "git+{url}"', "narHash"),
            ('builtins.fetchTree { type = "indirect"; id = "a"; }', "another type"),
            (f'builtins.getFlake "git+{url}?rev={commit}"', "getFlake is not available"),
        ):
            self.write("default.nix", f"builtins.seq {self.fetch(self.archive)} (import ({fetch}))")
            self.assertIn(advice, await self.refusal(nix=self.make()))

    async def test_npins(self) -> None:
        """Pins in the shape of npins are fetched for a package set and for an overlay."""
        other = self.pack("other", {"default.nix": PINNED_SET.replace('"tool"', '"other"')})
        for directory, archive in ((self.set, self.archive), (self.directory / "overlay", other)):
            pins = {"packages": {"type": "Channel", "url": archive, "hash": self.hash_of(archive)}}
            (directory / "npins").mkdir(parents=True)
            (directory / "npins/sources.json").write_text(json.dumps({"version": 5, "pins": pins}))
            (directory / "npins/default.nix").write_text(NPINS)
        self.write(
            "default.nix",
            "{ system, overlays }: let set = import (import ./npins).packages { inherit system; };"
            " in builtins.foldl' (set: overlay: set // overlay set set) set overlays",
        )
        self.assertIn("-tool.drv", await self.evaluate())
        overlay = self.directory / "overlay"
        (overlay / "default.nix").write_text(
            f'final: prev: import (import ./npins).packages {{ system = "{SYSTEM}"; }}'
        )
        self.assertIn("-other.drv", await self.evaluate(overlay))

    async def test_niv(self) -> None:
        """Pins in the shape of niv are fetched for a single package of a set."""
        pin = {"type": "tarball", "url": self.archive, "sha256": self.hash}
        self.write("nix/sources.json", json.dumps({"packages": pin}))
        self.write("nix/sources.nix", NIV)
        self.write(
            "default.nix", "{ inherit (import (import ./nix/sources.nix).packages { }) tool; }"
        )
        self.assertIn("-tool.drv", await self.evaluate())

    async def test_flake_compat(self) -> None:
        """A flake is evaluated by a function in the shape of flake-compat, which is pinned too."""
        digest = self.run_command("nix-hash", "--type", "sha256", self.directory / "packed/set")
        nar_hash = f"sha256-{b64encode(bytes.fromhex(digest)).decode()}"
        nodes = {
            "root": {"inputs": {"packages": "packages"}},
            "packages": {
                "locked": {"type": "tarball", "url": self.archive, "narHash": nar_hash},
                "flake": False,
            },
        }
        self.write("flake.lock", json.dumps({"version": 7, "root": "root", "nodes": nodes}))
        self.write(
            "flake.nix",
            "{ outputs = { self, packages }: {"
            f' packages.{SYSTEM} = import packages {{ system = "{SYSTEM}"; }}; }}; }}',
        )
        compat = self.fetch(self.pack("compat", {"default.nix": FLAKE_COMPAT}))
        self.write(
            "default.nix",
            f"{{ system }}: (import {compat} {{ src = ./.; }}).defaultNix.packages.${{system}}",
        )
        self.assertIn("-tool.drv", await self.evaluate())

    # -- not pinned ---------------------------------------------------------------

    async def test_each_way_to_fetch_what_is_not_pinned_is_refused(self) -> None:
        """Each way to fetch what is not pinned is refused with the setting that allows it."""
        tree = self.pack("nested", {"unpinned.nix": f'import (fetchTarball "{self.archive}")'})
        pinned = self.fetch(tree)
        self.write("fetches.nix", f'import (builtins.fetchTarball "{self.archive}")')
        self.write("imports.nix", "import ./fetches.nix")
        self.write("directory/default.nix", "import ../fetches.nix")
        self.write("calls.nix", "{ import }: import ./fetches.nix")
        os.symlink("fetches.nix", self.set / "link.nix")
        for name, expression in ESCAPES.items():
            text = expression.replace("URL", f'"{self.archive}"').replace("PINNED", pinned)
            with self.subTest(name):
                # The pinned fetch makes sure that fetches are allowed to this evaluation.
                self.write("default.nix", f"builtins.seq (builtins.readDir {pinned}) ({text})")
                self.assertIn("allow_unpinned_fetches", await self.refusal(), name)

    async def test_what_is_imported_from_elsewhere_has_the_guard(self) -> None:
        """A file that is built, and one of the search path, fetch under the guard as well."""
        named = self.directory / "named"
        named.mkdir()
        (named / "default.nix").write_text(f'import (fetchTarball "{self.archive}")')
        built = (
            f'derivation {{ name = "built.nix"; system = "{SYSTEM}"; builder = "/bin/sh";'
            ' args = [ "-c" "echo $text > $out" ];'
            f" text = ''import (fetchTarball \"{self.archive}\")''; }}"
        )
        nix = self.make(allow_import_from_derivation=True)
        for text in (f"import ({built})", f"import (toString ({built}))", "import <named>"):
            self.write("default.nix", f"builtins.seq {self.fetch(self.archive)} ({text})")
            refusal = await self.refusal(nix=nix, search_path=(("named", named),))
            self.assertIn("allow_unpinned_fetches", refusal)

    async def test_password_of_a_url_is_not_shown(self) -> None:
        """The refusal of a fetch shows no password."""
        url = self.archive.replace("http://", "http://alice:secret@")
        self.write("default.nix", f'import (fetchTarball "{url}")')
        refusal = await self.refusal()
        self.assertIn("127.0.0.1", refusal)
        self.assertNotIn("secret", refusal)

    async def test_unpinned_fetches_are_allowed_by_the_setting(self) -> None:
        """The setting allows what is not pinned."""
        self.write("default.nix", f'import (fetchTarball "{self.archive}")')
        self.assertIn("-tool.drv", await self.evaluate(nix=self.make(allow_unpinned_fetches=True)))

    async def test_fetch_of_one_package(self) -> None:
        """A package that fetches what is not pinned is refused alone."""
        self.write(
            "default.nix",
            f'{{ system }}: {{ wild = import (fetchTarball "{self.archive}") {{ }};'
            f" inherit (import {self.fetch(self.archive)} {{ inherit system; }}) tool; }}",
        )
        requests = [PackageRequest(name="tool"), PackageRequest(name="wild")]
        with self.assertRaises(PackagesRefused) as caught:
            await self.nix.evaluate(path_set(self.set), SYSTEM, requests)
        problems = caught.exception.problems
        self.assertEqual([problem.name for problem in problems], ["wild"])
        self.assertIn("allow_unpinned_fetches", str(problems[0]))

    # -- files ----------------------------------------------------------------------

    async def test_files_are_read_where_evaluations_may_read(self) -> None:
        """An archive of a file URL is a file: it may be read in the set, and not beside it."""
        if not str(self.directory).isascii():
            raise SkipTest("Nix takes no letters in file URLs that are not ASCII")
        archive = self.served / "set.tar.gz"
        for place, words in ((archive, "extra_paths"), (self.set / archive.name, "")):
            (self.set / archive.name).write_bytes(archive.read_bytes())
            pinned = self.fetch(self.archive).replace(self.archive, f"file://{place}")
            for fetch in (pinned, f'(fetchTarball "file://{place}")'):
                self.write("default.nix", f"import {fetch}")
                if words:
                    self.assertIn(words, await self.refusal())
                else:
                    self.assertIn("-tool.drv", await self.evaluate())

    async def test_search_path(self) -> None:
        """A name means the same in both ways of evaluating, and further paths may be read."""
        named, extra = self.directory / "named", self.directory / "extra"
        for directory in (named, extra):
            directory.mkdir()
        (named / "default.nix").write_text(PINNED_SET)
        (extra / "system.nix").write_text(f'"{SYSTEM}"')
        search_path = (("nixpkgs", named), ("nixery-extra-0", extra))
        imported = nix_path(extra / "system.nix")
        expression = f"(import <nixpkgs> {{ system = import {imported}; }})"
        for text in (expression, f"builtins.seq {self.fetch(self.archive)} {expression}"):
            self.write("default.nix", text)
            self.assertIn("-tool.drv", await self.evaluate(search_path=search_path))
            refusal = await self.refusal(search_path=search_path[:1])
            # Some versions name the directory that the file is in.
            self.assertIn(f"access to absolute path '{extra}", refusal)
            self.assertIn("extra_paths", refusal)

    async def test_search_path_of_the_configuration(self) -> None:
        """An archive of the configuration is fetched, kept from collections, and readable."""
        archive = self.pack("own", {"default.nix": f"{PINNED_SET} # {self.directory}"})
        self.write("default.nix", "import <nixpkgs>")
        sources = await self.sources(nix_path={"nixpkgs": f"{archive}#{self.hash_of(archive)}"})
        package_set = await sources.fetch(await sources.resolve(LATEST))
        evaluation = await self.nix.evaluate(package_set, SYSTEM, [PackageRequest(name="tool")])
        self.assertEqual(evaluation.packages[0].name, "tool")
        [(name, path)] = package_set.search_path
        self.assertEqual(name, "nixpkgs")
        with self.assertRaises(subprocess.CalledProcessError) as caught:
            self.run_command("nix-store", "--delete", path)
        self.assertIn("still alive", caught.exception.stderr)
        sources = await self.sources(nix_path={"nixpkgs": f"{archive}#{'0' * 64}"})
        with self.assertRaises(SourceUnavailable) as wrong:
            await sources.fetch(await sources.resolve(LATEST))
        self.assertIn("hash mismatch", wrong.exception.message)
        self.assertIn("nix_path", wrong.exception.message)

    async def sources(self, **settings: Any) -> Resolver:
        """Return the sources of a configuration whose package set is at the path."""
        file = self.directory / "nixery.yaml"
        # JSON is YAML.
        file.write_text(json.dumps({"pkgs_path": str(self.set), **settings}))
        environment = nix_environment() | {
            "NIXERY_STATE_DIRECTORY": str(self.directory / "state"),
            "NIXERY_CACHE_DIRECTORY": str(self.directory / "cache"),
        }
        config = load_config({"config": str(file)}, environment)
        context = make_nix_context(config, InlineWorkers(), reactor, environment)
        sources = make_sources(config.sources, reactor, context).sources
        await sources.start()
        return sources

    async def test_name_that_the_search_path_does_not_have(self) -> None:
        """A name in angle brackets never means what the machine says, in either way."""
        fetch = self.fetch(self.archive)
        for text in ("import <nixpkgs> { }", f"builtins.seq {fetch} (import <nixpkgs> {{ }})"):
            self.write("default.nix", text)
            refusal = await self.refusal()
            self.assertIn("<nixpkgs>", refusal)
            self.assertIn("nix_path", refusal)


class _Handler(FileHandler):
    """Serves one of the files to Alice alone."""

    def do_GET(self) -> None:  # noqa: N802  # the base class's name
        alice = f"Basic {b64encode(b'alice:secret').decode()}"
        if "private" in self.path and self.headers["Authorization"] != alice:
            self.send_error(401)
        else:
            super().do_GET()
