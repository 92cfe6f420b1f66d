"""Flakes as package sources, with real repositories and real Nix."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.static import File

from nixery.image.errors import PackagesRefused
from nixery.image.names import PackageRequest
from nixery.nix import indexer
from nixery.nix.errors import EvaluationFailed, FlakeRefused
from nixery.nix.package_indexes import PackageIndexes
from nixery.sources.errors import SourceMissing, SourceUnavailable
from nixery.sources.resolver import Resolver
from nixery.testing.fakes import InlineWorkers
from tests.integration.nixenv import make_nix
from tests.integration.test_nix import Recorder
from tests.integration.test_sources import SYSTEM, Repository, SourceCase
from tests.integration.web_hosts import serve

# The packages tell what the flake was made of.
FLAKE = """
{
  inputs.words.url = "git+file://WORDS?ref=main";
  inputs.plain = { url = "git+file://PLAIN?ref=main"; flake = false; };
  inputs.below.url = "path:./below";
  inputs.below.inputs.words.follows = "words";
  outputs = { self, words, plain, below }:
    let
      make = text: derivation { name = text; system = "SYSTEM"; builder = "/bin/sh"; };
      word = builtins.readFile "${plain}/word";
    in
    {
      packages.SYSTEM = {
        default = make "default-NAME";
        inputs = make "${words.lib.word}-${word}-${below.lib.word}";
        self = make "self-${self.shortRev or "none"}";
        inBoth = make "packages";
        built = derivation {
          name = "built";
          system = "SYSTEM";
          builder = "/bin/sh";
          args = [ "-c" "echo NAME > $out" ];
        };
        _2fold = make "twofold";
      };
      legacyPackages.SYSTEM = {
        inBoth = make "legacy";
        nested.Deep = make "deep";
      };
    };
}
"""

SIMPLE = """
{
  outputs = { self }: {
    packages.SYSTEM.default = derivation { name = "NAME"; system = "SYSTEM"; builder = "/bin/sh"; };
  };
}
"""

WORDS = '{ outputs = { self }: { lib.word = "NAME"; }; }\n'
BELOW = (
    '{ inputs.words.url = "git+file://WORDS?ref=main";'
    ' outputs = { self, words }: { lib.word = "below-${words.lib.word}"; }; }\n'
)


class FlakeRepository(Repository):
    """A repository with a flake, whose lock file the tests make."""

    def write(self, name: str, text: str) -> None:
        file = self.work / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("SYSTEM", SYSTEM))
        self.git("add", ".")

    def lock(self, environ: dict[str, str], directory: str = ".") -> None:
        """Write the lock file, as people do."""
        # Nix 2.8 fails where there is no commit yet.
        self.git("commit", "--quiet", "--allow-empty", "--message", "to be locked")
        done = subprocess.run(
            [
                *("nix", "--extra-experimental-features", "nix-command flakes"),
                *("flake", "lock", f"git+file://{self.work}?dir={directory}"),
            ],
            env=environ,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        self.git("add", ".")

    def save(self, message: str = "x") -> str:
        self.git("add", "--all", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        self.push()
        return self.git("rev-parse", "HEAD")


class FlakeCase(SourceCase):
    def setUp(self) -> None:
        super().setUp()
        # Nix takes no letters that are not ASCII in the URL of a flake, nor their escapes.
        self.registry_directory = self.directory
        self.directory = Path(tempfile.mkdtemp(prefix="nixery-flakes-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.words = FlakeRepository(self.directory / "words.git")
        self.words.write("flake.nix", WORDS.replace("NAME", "one"))
        self.words.save()
        self.plain = FlakeRepository(self.directory / "plain.git")
        self.plain.write("word", "plain")
        self.plain.save()
        self.repository = FlakeRepository(self.directory / "flake.git")
        self.first = self.commit("first")

    def commit(self, name: str, *, lock: bool = True, directory: str = ".") -> str:
        """Commit a flake whose packages tell its name."""
        for file, text in (("flake.nix", FLAKE), ("below/flake.nix", BELOW)):
            self.repository.write(
                f"{directory}/{file}",
                text.replace("WORDS", str(self.words.path))
                .replace("PLAIN", str(self.plain.path))
                .replace("NAME", name),
            )
        if lock:
            self.repository.lock(self.environ, directory)
        return self.repository.save(name)

    def update_lock(self) -> None:
        """Lock the present commits of the inputs."""
        (self.repository.work / "flake.lock").unlink()
        self.repository.lock(self.environ)

    async def make(self, flake: str = "", **settings: object) -> Resolver:
        return await self.sources(
            flake=flake or f"git+file://{self.repository.path}", source_ttl=0, **settings
        )

    async def name(self, sources: Resolver, name: str, tag: str = "latest") -> str:
        return await self.evaluated(sources, tag, name)

    async def refusal(self, sources: Resolver, tag: str = "latest") -> FlakeRefused:
        with self.assertRaises(FlakeRefused) as caught:
            await self.name(sources, "default", tag)
        error: FlakeRefused = caught.exception
        return error


class FlakeTests(FlakeCase):
    """Flakes in git repositories."""

    async def test_packages_and_legacy_packages_by_every_rule_of_names(self) -> None:
        """A name is looked up in ``packages``, then in ``legacyPackages``."""
        package_set = await self.fetched(await self.make())
        for asked, name in (
            ("default", "default-first"),
            # Inputs that are flakes, or none, or a directory of this one, with what they follow.
            ("inputs", "one-plain-below-one"),
            ("self", f"self-{self.first[:7]}"),
            ("inboth", "packages"),
            ("2fold", "twofold"),
            ("nested.deep", "deep"),
        ):
            self.assertEqual((await self.package(package_set, asked)).name, name)
        with self.assertRaises(PackagesRefused) as caught:
            await self.package(package_set, "defualt")
        [problem] = caught.exception.problems
        assert problem.find_candidates is not None
        self.assertIn("default", problem.find_candidates(lambda: False))

    async def test_tags_are_revisions_with_the_locks_of_their_own(self) -> None:
        """Branches, tags and commits have the inputs of their lock files; others are refused."""
        self.repository.git("tag", "v1")
        self.words.write("flake.nix", WORDS.replace("NAME", "two"))
        self.words.save()
        second = self.commit("second", lock=True)
        sources = await self.make()
        for tag, name in (
            ("latest", "one-plain-below-one"),
            ("v1", "one-plain-below-one"),
            (self.first, "one-plain-below-one"),
        ):
            self.assertEqual(await self.name(sources, "inputs", tag), name)
        self.update_lock()
        third = self.repository.save("third")
        self.assertEqual(await self.name(sources, "inputs"), "two-plain-below-two")
        self.assertEqual(await self.name(sources, "inputs", second), "one-plain-below-one")
        revision = await self.revision(sources, third)
        self.assertTrue(revision.pinned)
        self.assertEqual(revision.identity, (await self.revision(sources)).identity)
        for tag in ("nope", "0" * 40):
            self.assertIn("branches", (await self.refused(sources, tag)).allowed)
        # A tag that is not allowed, and a commit that no ref has.
        self.repository.git("checkout", "--quiet", "--detach")
        evil = self.commit("evil", lock=False)
        await self.refused(sources, evil)
        await self.refused(await self.make(allowed_tags=["x*"]), "v1")

    async def test_latest_is_a_commit_and_never_the_working_tree(self) -> None:
        """Uncommitted files are not served; the URL may name a tag and a directory."""
        self.repository.write("sub/flake.nix", SIMPLE.replace("NAME", "sub"))
        self.repository.save()
        self.repository.git("tag", "v1")
        self.repository.write("flake.nix", "dirty")
        work = f"git+file://{self.repository.work}"
        self.assertEqual(await self.name(await self.make(work), "default"), "default-first")
        sources = await self.make(f"{work}?dir=sub&ref=v1")
        self.assertEqual(await self.name(sources, "default"), "sub")
        refused = await self.refusal(await self.make(f"{work}?dir=below/none"))
        self.assertIn("?dir=", refused.message)

    async def test_flake_in_a_directory(self) -> None:
        """A flake in a directory has its own lock file, and reaches the whole repository."""
        self.repository.write("word", "above")
        self.commit("below", directory="a/b")
        text = (self.repository.work / "a/b/flake.nix").read_text()
        self.repository.write(
            "a/b/flake.nix", text.replace('make "twofold"', "make (builtins.readFile ../../word)")
        )
        commit = self.repository.save()
        url = f"git+file://{self.repository.path}?dir=a/b"
        package_set = await self.fetched(await self.make(url))
        for asked, name in (
            ("default", "default-below"),
            ("inputs", "one-plain-below-one"),
            ("self", f"self-{commit[:7]}"),
            ("2fold", "above"),
        ):
            self.assertEqual((await self.package(package_set, asked)).name, name)
        text = text.replace("inputs.words.url", 'inputs.more.url = "path:/more"; inputs.words.url')
        self.repository.write("a/b/flake.nix", text.replace("plain, below", "plain, below, more"))
        self.repository.save()
        self.assertIn("nix flake lock", (await self.refusal(await self.make(url))).message)

    async def test_lock_file_that_does_not_fit_is_refused_unless_inputs_may_move(self) -> None:
        """Without a lock file that fits, there is an error with what to do; or inputs move."""
        (self.repository.work / "flake.lock").unlink()
        missing = self.commit("missing", lock=False)
        self.repository.git("checkout", "--quiet", self.first, "--", "flake.lock")
        text = (self.repository.work / "flake.nix").read_text()
        for old in ("inputs.plain", "words, plain", "${plain}"):
            text = text.replace(old, old.replace("plain", "other"))
        self.repository.write("flake.nix", text)
        stale = self.repository.save()
        sources = await self.make()
        for commit, name in ((missing, ""), (stale, "other")):
            refused = await self.refusal(sources, commit)
            for words in ("nix flake lock", "allow_unlocked_flake", name):
                self.assertIn(words, refused.message)
        sources = await self.make(allow_unlocked_flake=True)
        self.assertFalse((await self.revision(sources, missing)).pinned)
        for commit in (missing, stale):
            self.assertEqual(await self.name(sources, "inputs", commit), "one-plain-below-one")
        self.assertEqual(await self.name(sources, "self", missing), f"self-{missing[:7]}")
        self.words.write("flake.nix", WORDS.replace("NAME", "moved"))
        self.words.save()
        self.assertEqual(await self.name(sources, "inputs", missing), "moved-plain-below-moved")
        self.assertEqual(await self.name(sources, "inputs", self.first), "one-plain-below-one")
        self.assertEqual([*(self.registry_directory / "cache" / "nixery").glob("tmp*")], [])

    async def test_directory_of_a_lock_file_is_one_of_the_flake(self) -> None:
        """A lock file reads no directory that is outside of the flake, also not by a link."""
        outside = self.directory / "outside"
        outside.mkdir()
        lock = (self.repository.work / "flake.lock").read_text()
        (self.repository.work / "link").symlink_to(outside)
        data = json.loads(lock)
        data["nodes"]["below"]["locked"]["narHash"] = f"sha256-{'A' * 43}="
        for path in ("./../../outside", "./link", "./none"):
            data["nodes"]["below"]["locked"]["path"] = path
            self.repository.write("flake.lock", json.dumps(data))
            self.repository.save()
            with self.assertRaises(SourceUnavailable) as caught:
                await self.fetched(await self.make())
            self.assertIn("its input below", caught.exception.message)
            self.assertIn("of the flake", caught.exception.message)
            self.assertIn("nix flake lock", caught.exception.message)

    async def test_evaluation_is_pure(self) -> None:
        """Neither the machine's files nor what has no hash is read."""
        self.repository.write("flake.lock", "")
        (self.repository.work / "flake.lock").unlink()
        for number, (value, words) in enumerate(
            (
                ("builtins.readFile /etc/hostname", "pure"),
                ("builtins.currentSystem", "currentSystem"),
                ('builtins.fetchurl "http://127.0.0.1:1/x"', "pure"),
                ("<nixpkgs>", "nixpkgs"),
            )
        ):
            text = f"{{ outputs = _: {{ packages.SYSTEM = {{ default = {value}; }}; }}; }}"
            self.repository.write("flake.nix", text)
            self.repository.save(str(number))
            with self.assertRaises(PackagesRefused) as caught:
                await self.name(await self.make(), "default")
            self.assertIn(words, caught.exception.message)
        self.repository.write("flake.nix", "{ outputs = _: { packages.other = { }; }; }")
        self.repository.save()
        with self.assertRaises(EvaluationFailed) as failed:
            await self.name(await self.make(), "default")
        self.assertIn(f"no packages for {SYSTEM}", failed.exception.message)

    async def test_collection_at_any_moment_loses_no_input(self) -> None:
        """One root protects the tree and its inputs; what is taken before it is fetched again."""
        taken = self.collect_before_rooting()
        package_set = await self.fetched(await self.make())
        self.assertIn("1 store paths deleted", taken.read_text())
        [link] = (self.registry_directory / "state" / "nixery" / "src").iterdir()
        described = json.loads(link.read_text())
        self.assertEqual(described["path"], str(package_set.path))
        nodes = json.loads((package_set.path / "flake.lock").read_text())["nodes"].values()
        # Nix before 2.26 locks a directory of the flake as an input of its own.
        locked = [node for node in nodes if "narHash" in node.get("locked", {})]
        self.assertEqual(len(described["inputs"]), len(locked))
        for path in (described["path"], *(each["path"] for each in described["inputs"])):
            self.assertFalse(self.delete(Path(path)))
        # Without its root, and with inputs that are gone, it is fetched anew.
        link.unlink()
        self.delete(link.readlink() if link.is_symlink() else Path(described["path"]))
        sources = await self.make()
        self.assertEqual(await self.name(sources, "inputs"), "one-plain-below-one")

    async def test_derivations_that_a_collection_took_are_evaluated_and_built_at_once(self) -> None:
        """A flake is evaluated and built by one command, as other package sets are."""
        package_set = await self.fetched(await self.make())
        nix = make_nix(self.directory)
        requests = [PackageRequest(name="built")]
        evaluation = await nix.evaluate(package_set, SYSTEM, requests)
        realisation = await nix.reevaluate_and_realise(
            package_set, requests, evaluation, Recorder()
        )
        [built] = realisation.outputs
        self.assertEqual(_text(built), "first\n")
        await nix.release(realisation)

    async def test_flake_is_evaluated_where_package_sets_are_kept(self) -> None:
        """A flake is evaluated, again and again, by a daemon that keeps package sets in memory."""
        package_set = await self.fetched(await self.make())
        nix = make_nix(self.directory)
        nix.keep_evaluators()
        nix.prepare_evaluation(package_set, SYSTEM)
        self.addCleanup(lambda: Deferred.fromCoroutine(nix.stop()))
        for names in (["default", "self"], ["inputs"]):
            requests = [PackageRequest(name=name) for name in names]
            evaluation = await nix.evaluate(package_set, SYSTEM, requests)
            self.assertEqual(len(evaluation.packages), len(names))

    async def test_packages_are_listed(self) -> None:
        """The packages of a flake are listed, those that ``legacyPackages`` nests too."""
        self.patch(indexer, "START_DELAY_SECONDS", 0.0)
        package_set = await self.fetched(await self.make())
        nix = make_nix(self.directory)
        self.addCleanup(lambda: Deferred.fromCoroutine(nix.stop()))
        indexes = PackageIndexes(
            self.directory / "indexes", InlineWorkers(), nix.evaluation_identity()
        )
        nix.enable_indexing(indexes, lambda: False)
        await nix.evaluate(package_set, SYSTEM, [PackageRequest(name="default")])
        while (index := await indexes.get(package_set.revision, SYSTEM)) is None:
            await deferLater(reactor, 0.05)
        found = {entry.attribute: entry.pname for entry in index.entries}
        self.assertEqual("one-plain-below-one", found["inputs"])
        self.assertEqual("packages", found["inBoth"])

    async def test_repository_behind_a_password(self) -> None:
        """A password in the URL opens the repository; without one, the error says what to do."""
        self.repository.git("update-server-info", cwd=self.repository.path)
        host = serve(self, File(str(self.directory)), password="secret")
        sources = await self.make(f"git+http://user:secret@{host}/flake.git")
        self.assertEqual(await self.name(sources, "default"), "default-first")
        self.assertNotIn("secret", str((await self.revision(sources)).identity))
        with self.assertRaises(SourceUnavailable):
            await self.revision(await self.make(f"git+http://{host}/flake.git"), "other")
        # The same of an input.
        lock = (self.repository.work / "flake.lock").read_text()
        self.repository.write("flake.lock", _with_input(lock, f"http://{host}/none.git"))
        self.repository.save()
        with self.assertRaises(SourceUnavailable) as caught:
            await self.fetched(await self.make())
        for words in ("its input plain", "Private repositories"):
            self.assertIn(words, caught.exception.message)


class MovingTests(FlakeCase):
    """Flakes that have no revisions."""

    async def test_path_is_what_it_is_now(self) -> None:
        """A flake at a path is read at each pull, and ``latest`` is its only tag."""
        path = self.directory / "at a path"
        shutil.copytree(self.repository.work, path, ignore=shutil.ignore_patterns(".git"))
        sources = await self.make(f"path:{quote(str(path))}")
        self.assertEqual(await self.name(sources, "inputs"), "one-plain-below-one")
        revision = await self.revision(sources)
        self.assertFalse(revision.pinned)
        text = (path / "flake.nix").read_text()
        (path / "flake.nix").write_text(text.replace("first", "changed"))
        self.assertEqual(await self.name(sources, "default"), "default-changed")
        self.assertEqual((await self.refused(sources, "main")).allowed, ("latest",))
        path.rename(path.with_name("away"))
        with self.assertRaises(SourceMissing) as caught:
            await self.revision(sources)
        self.assertIn("NIXERY_FLAKE", caught.exception.message)

    async def test_path_in_the_store_never_changes(self) -> None:
        """A flake in the Nix store is pinned."""
        tree = self.directory / "tree"
        tree.mkdir()
        (tree / "flake.nix").write_text(SIMPLE.replace("NAME", "s").replace("SYSTEM", SYSTEM))
        sources = await self.make(f"path:{self.store(tree)}")
        self.assertTrue((await self.revision(sources)).pinned)
        self.assertEqual(await self.name(sources, "default"), "s")

    async def test_archive_is_what_its_host_has_now(self) -> None:
        """An archive is asked for anew when its time is over; one with a hash never changes."""
        archives = self.directory / "archives"
        archives.mkdir()
        url = f"http://{serve(self, File(str(archives)))}/flake.tar.gz"

        def publish(name: str) -> None:
            data = io.BytesIO(SIMPLE.replace("NAME", name).replace("SYSTEM", SYSTEM).encode())
            with tarfile.open(archives / "flake.tar.gz", "w:gz") as archive:
                member = tarfile.TarInfo("top/flake.nix")
                member.size = len(data.getvalue())
                archive.addfile(member, data)

        publish("one")
        sources = await self.make(url)
        package_set = await self.fetched(sources)
        self.assertEqual((await self.package(package_set, "default")).name, "one")
        nar_hash = json.loads(package_set.flake)["tree"]["narHash"]
        publish("second")
        self.assertEqual(await self.name(sources, "default"), "second")
        await self.refused(sources, "main")
        publish("one")
        pinned = await self.make(f"{url}?narHash={quote(nar_hash)}")
        self.assertTrue((await self.revision(pinned)).pinned)
        self.assertEqual(await self.name(pinned, "default"), "one")


def _text(path: str) -> str:
    return Path(path).read_text()


def _with_input(lock: str, url: str) -> str:
    """A lock file whose input ``plain`` is at a URL, and has never been fetched from there."""
    data = json.loads(lock)
    data["nodes"]["plain"]["locked"] |= {
        "url": url,
        "rev": uuid4().hex + "00000000",
        "narHash": f"sha256-{'A' * 43}=",
    }
    return json.dumps(data)
