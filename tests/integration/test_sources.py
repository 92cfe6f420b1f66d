"""Package sources with real git repositories, a real channel host on loopback, and real Nix."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site
from twisted.web.static import File
from zope.interface import implementer

from nixery.config.load import load_config
from nixery.image.errors import PackagesRefused
from nixery.image.names import PackageRequest, Tag
from nixery.image.packages import Package
from nixery.runtime.deferreds import gather
from nixery.sources import ref_cache
from nixery.sources.errors import SourceUnavailable, UnknownRevision
from nixery.sources.resolver import Resolver
from nixery.sources.source import PackageSet, Revision
from nixery.testing.fakes import InlineWorkers
from nixery.wiring.nix import make_nix_context
from nixery.wiring.sources import make_sources
from tests.integration.nixenv import make_nix, nix_environment, nix_missing, try_to_delete

SYSTEM = f"{os.uname().machine}-linux"

# What nixpkgs is made of: a function of system, config and overlays, with packages
# that may be refused.
SET = """
{ system, config ? { }, overlays ? [ ] }:
let
  make = name: meta: derivation { inherit name system; builder = "/bin/sh"; } // { inherit meta; };
  set = {
    plain = make "plain-NAME" { };
    unfree = make "unfree-NAME" { license.free = false; };
    insecure = make "insecure-NAME" { knownVulnerabilities = [ "CVE-1" ]; };
  };
in
builtins.foldl' (previous: overlay: previous // overlay previous previous) set overlays
"""

OVERLAY = 'final: previous: { added = previous.plain // { name = "added-NAME"; }; }\n'


@implementer(IReactorPluggableNameResolver)
class HastyReactor:
    """
    The reactor, with a clock of its own that stands still, and no pauses.

    What is to happen within three seconds happens at once, and everything else when the
    clock is advanced.
    """

    def __init__(self) -> None:
        self.clock = Clock()

    def seconds(self) -> float:
        return self.clock.seconds()

    def callLater(self, delay: float, function: Callable[..., object], *args: Any) -> Any:
        if delay <= 3:
            return cast(Any, reactor).callLater(0, function, *args)
        return self.clock.callLater(delay, function, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class SourceCase(TestCase):
    timeout = 120
    skip = nix_missing()

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.reactor = HastyReactor()
        # The clock of these tests would let no renewal end in time.
        self.patch(ref_cache, "RENEWAL_WAIT_SECONDS", 10)
        self.environ = nix_environment() | {
            "HOME": str(self.directory / "home"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        (self.directory / "home").mkdir()
        self.logged: list[LogEvent] = []
        observer: Any = self.logged.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    async def sources(self, **settings: object) -> Resolver:
        """The sources that a configuration file describes, started."""
        file = self.directory / f"{uuid4().hex}.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(settings))
        self.config = load_config({"config": str(file)}, self.environ)
        context = make_nix_context(self.config, InlineWorkers(), self.reactor, self.environ)
        sources = make_sources(self.config.sources, self.reactor, context).sources
        await sources.start()
        self.addCleanup(lambda: maybeDeferred(_discard, sources))
        return sources

    async def revision(self, sources: Resolver, tag: str = "latest") -> Revision:
        return await sources.resolve(Tag(tag))

    async def refused(self, sources: Resolver, tag: str) -> UnknownRevision:
        with self.assertRaises(UnknownRevision) as caught:
            await self.revision(sources, tag)
        error: UnknownRevision = caught.exception
        return error

    async def fetched(self, sources: Resolver, tag: str = "latest") -> PackageSet:
        return await sources.fetch(await self.revision(sources, tag))

    async def package(self, package_set: PackageSet, name: str = "plain") -> Package:
        nix = make_nix(self.directory, config=self.config.sources.nixpkgs_config)
        evaluation = await nix.evaluate(package_set, SYSTEM, [PackageRequest(name=name)])
        return evaluation.packages[0]

    async def evaluated(self, sources: Resolver, tag: str = "latest", name: str = "plain") -> str:
        """The name of a package at a revision: it tells the content."""
        return (await self.package(await self.fetched(sources, tag), name)).name

    def messages(self, text: str) -> list[LogEvent]:
        return [event for event in self.logged if text in (event.get("log_format") or "")]

    def store(self, path: Path) -> str:
        """The store path of a copy of a file."""
        command = ["nix-store", "--add", str(path)]
        return subprocess.run(
            command, env=self.environ, capture_output=True, check=True, text=True
        ).stdout.strip()

    def delete(self, path: Path) -> bool:
        """Delete a path if a garbage collection would, and tell whether it did."""
        return try_to_delete(path, self.environ) == 0

    def collect_before_rooting(self) -> Path:
        """
        From now on, take each path that is about to be rooted, where that is possible.

        :return: where it is told what was taken.
        """
        commands, taken = self.directory / "commands", self.directory / "taken"
        commands.mkdir()
        script, original = commands / "nix-store", shutil.which("nix-store")
        script.write_text(
            "#!/bin/sh\n"
            f'[ "$2" != --add-root ] || {original} --delete "$5" >> "{taken}" || true\n'
            f'exec {original} "$@"\n'
        )
        script.chmod(0o755)
        self.environ["PATH"] = f"{commands}:{self.environ['PATH']}"
        return taken


async def _discard(sources: Resolver) -> None:
    await sources.stop()


class Repository:
    """A git repository that a test changes."""

    def __init__(self, path: Path, *, bare: bool = True) -> None:
        self.path = path
        # What is edited; what is pulled from is beside it, unless it is the same.
        self.work = path.with_name(f"{path.name}.work") if bare else path
        self.work.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main", ".")
        if bare:
            self.git("init", "--quiet", "--bare", "--initial-branch=main", str(path))
            self.git("remote", "add", "origin", str(path))
        self.bare = bare

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            # Submodules may be on this machine.
            "GIT_ALLOW_PROTOCOL": "file",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "A",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "A",
            "GIT_COMMITTER_EMAIL": "a@example.org",
        }
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd or self.work,
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self, name: str, text: str = SET) -> str:
        """Commit a set whose packages tell its name; push everything."""
        (self.work / "default.nix").write_text(text.replace("NAME", name))
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", name)
        self.push()
        return self.git("rev-parse", "HEAD")

    def submodule(self, url: str, path: str) -> None:
        """Add a submodule; it is committed with what comes next."""
        self.git("submodule", "--quiet", "add", "--", url, path)

    def push(self) -> None:
        if self.bare:
            self.git("push", "--quiet", "--force", "--all", "origin")
            self.git("push", "--quiet", "--force", "--tags", "origin")


class GitTests(SourceCase):
    """Branches, tags and commits."""

    def setUp(self) -> None:
        super().setUp()
        self.repository = Repository(self.directory / "a b" / "pkgs.git")
        self.first = self.repository.commit("one")

    async def make(self, **settings: object) -> Resolver:
        return await self.sources(
            pkgs_repo=str(settings.pop("pkgs_repo", self.repository.path)),
            source_ttl=settings.pop("source_ttl", 0),
            **settings,
        )

    async def test_branches_and_tags(self) -> None:
        """A tag is a branch, a light or an annotated tag, at the commit that it is on."""
        git = self.repository.git
        git("tag", "light")
        git("tag", "--annotate", "--message=x", "annotated")
        git("tag", "--annotate", "--message=x", "both")
        git("checkout", "--quiet", "-b", "both")
        self.repository.commit("two")
        git("checkout", "--quiet", "-b", "feature/x")
        self.repository.commit("three")
        git("checkout", "--quiet", "main")
        self.repository.commit("four")
        sources = await self.make()
        for tag, name in (
            ("latest", "four"),
            ("main", "four"),
            ("light", "one"),
            ("annotated", "one"),
            ("both", "two"),
            ("feature--x", "three"),
        ):
            self.assertEqual(await self.evaluated(sources, tag), f"plain-{name}", tag)
        revision = await self.revision(sources, "annotated")
        self.assertEqual(revision.identity["commit"], self.first)
        self.assertTrue(revision.pinned)
        for tag in ("nope", "feature", "x", "feature-x", self.first[:12], "HEAD", "refs"):
            error = await self.refused(sources, tag)
            self.assertIn("branches", error.allowed)

    async def test_tag_latest_is_the_branch_tag_or_commit_that_is_configured(self) -> None:
        """The tag ``latest`` is the branch, tag or commit that is configured."""
        self.repository.git("checkout", "--quiet", "-b", "release/1")
        second = self.repository.commit("two")
        self.repository.git("checkout", "--quiet", "main")
        self.repository.git("tag", "v1")
        self.repository.commit("three")
        for ref, name in (("release/1", "two"), ("v1", "one"), (second, "two")):
            sources = await self.make(pkgs_ref=ref)
            self.assertEqual(await self.evaluated(sources), f"plain-{name}")

    async def test_forms_of_the_url(self) -> None:
        """A path, a URL, blanks in either, with a working tree or without."""
        plain = Repository(self.directory / "with tree", bare=False)
        plain.commit("tree")
        for url, name in (
            (str(self.repository.path), "one"),
            (f"file://{self.repository.path}", "one"),
            (self.repository.path.as_uri(), "one"),
            (str(plain.path), "tree"),
            (plain.path.as_uri(), "tree"),
        ):
            sources = await self.make(pkgs_repo=url)
            self.assertEqual(await self.evaluated(sources), f"plain-{name}")

    async def test_branch_that_is_rewritten_is_what_it_is_now_when_its_time_is_over(self) -> None:
        """A branch that is rewritten is what it is now, when its time is over."""
        await self.fetched(sources := await self.make(source_ttl=900))
        self.repository.git("commit", "--quiet", "--amend", "--message=rewritten")
        rewritten = self.repository.commit("two")
        self.assertEqual(await self.evaluated(sources), "plain-one")
        self.reactor.clock.advance(900)
        self.assertEqual((await self.revision(sources)).identity["commit"], rewritten)
        self.assertEqual(await self.evaluated(sources), "plain-two")

    async def test_any_commit_in_history_of_branch_or_tag_is_served_and_is_pinned(self) -> None:
        """Any commit in the history of a branch or a tag is served, and is pinned."""
        git = self.repository.git
        git("checkout", "--quiet", "-b", "side")
        below = self.repository.commit("below")
        tip = self.repository.commit("tip")
        git("checkout", "--quiet", "--detach")
        detached = self.repository.commit("tagged")
        above = self.repository.commit("above")
        git("tag", "--annotate", "--message=x", "only-a-tag")
        self.repository.push()
        sources = await self.make()
        for commit, name in (
            (self.first, "one"),
            (below, "below"),
            (tip, "tip"),
            (detached, "tagged"),
            (above, "above"),
        ):
            self.assertEqual(await self.evaluated(sources, commit), f"plain-{name}")
            self.assertTrue((await self.revision(sources, commit)).pinned)

    async def test_commit_that_no_branch_or_tag_has_is_refused(self) -> None:
        """
        A commit that only a pull request has, or no ref at all, is refused, though the
        server would hand it out; and so is an object that is no commit.
        """
        git = self.repository.git
        git("checkout", "--quiet", "--detach")
        (self.repository.work / "default.nix").write_text("evil")
        git("commit", "--quiet", "--all", "--message=evil")
        evil = git("rev-parse", "HEAD")
        git("push", "--quiet", "origin", f"{evil}:refs/pull/1/head")
        git("checkout", "--quiet", "main")
        git("tag", "--annotate", "--message=x", "annotated")
        self.repository.push()
        for filters in ("true", "false"):
            git("config", "uploadpack.allowFilter", filters, cwd=self.repository.path)
            git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=self.repository.path)
            sources = await self.make()
            for commit in (
                evil,
                git("rev-parse", "annotated"),
                git("rev-parse", "HEAD^{tree}"),
                git("rev-parse", "HEAD:default.nix"),
                "0" * 40,
            ):
                await self.refused(sources, commit)
            await self.revision(sources, self.first)
        # Unless the operator takes anything.
        sources = await self.make(allow_any_commit=True)
        self.assertEqual((await self.revision(sources, evil)).identity["commit"], evil)
        self.assertEqual(
            (await self.fetched(sources, evil)).path.joinpath("default.nix").read_text(), "evil"
        )
        self.assertTrue(self.messages("allow_any_commit is on"))
        await self.refused(await self.make(), evil)

    async def test_commits_that_are_pushed_away(self) -> None:
        """A commit that was served stays; one that was not is refused."""
        served = self.repository.commit("served")
        missed = self.repository.commit("missed")
        self.repository.commit("last")
        sources = await self.make()
        self.assertEqual(await self.evaluated(sources, served), "plain-served")
        self.repository.git("reset", "--quiet", "--hard", self.first)
        self.repository.commit("rewritten")
        self.assertEqual(await self.evaluated(sources, served), "plain-served")
        await self.refused(sources, missed)
        # After a restart, too.
        self.assertEqual(await self.evaluated(await self.make(), served), "plain-served")

    async def test_a_commit_that_was_just_pushed(self) -> None:
        """A commit that was unknown a moment ago is found when it is there."""
        sources = await self.make()
        await self.revision(sources, self.first)
        self.repository.commit("below")
        below = self.repository.git("rev-parse", "HEAD")
        tip = self.repository.commit("tip")
        for commit in (below, tip):
            await self.revision(sources, commit)

    async def test_a_mirror_that_was_left_locked(self) -> None:
        """Locks of a fetch that was killed are no obstacle."""
        commit = self.first
        self.repository.commit("two")
        await self.revision(await self.make(), commit)
        [mirror] = (self.directory / "cache" / "nixery" / "mirrors").iterdir()
        for path in ("packed-refs.lock", "refs/heads/main.lock", "config.lock"):
            (mirror / path).parent.mkdir(parents=True, exist_ok=True)
            (mirror / path).touch()
        (self.directory / "state" / "nixery" / "sources" / "git.json").unlink()
        self.repository.commit("three")
        await self.revision(await self.make(), commit)

    async def test_a_repository_that_vanishes(self) -> None:
        """Known commits go on being served, also after a restart; the log says so once."""
        sources = await self.make()
        self.assertEqual(await self.evaluated(sources), "plain-one")
        away = self.repository.path.with_name("away")
        self.repository.path.rename(away)
        for _ in range(3):
            self.assertEqual(await self.evaluated(sources), "plain-one")
            self.reactor.clock.advance(30)
        self.assertEqual(len(self.messages("is still served")), 1)
        with self.assertRaises(SourceUnavailable) as caught:
            await self.revision(sources, "other")
        self.assertIn(self.repository.path.as_uri(), caught.exception.message)
        restarted = await self.make()
        self.assertEqual(await self.evaluated(restarted), "plain-one")
        away.rename(self.repository.path)
        self.repository.commit("two")
        self.reactor.clock.advance(30)
        self.assertEqual(await self.evaluated(sources), "plain-two")
        self.assertEqual(len(self.messages("answers again")), 1)

    async def test_repository_that_is_not_there_or_is_empty_is_told_apart_from_bad_tag(
        self,
    ) -> None:
        """A repository that is not there, or is empty, is told apart from a bad tag."""
        empty = Repository(self.directory / "empty.git")
        for path in (self.directory / "none", empty.path):
            sources = await self.make(pkgs_repo=str(path))
            with self.assertRaises(SourceUnavailable) as caught:
                await self.revision(sources)
            self.assertIn("cannot be looked up", caught.exception.message)

    async def test_password_in_the_url_opens_the_repository_and_shows_nowhere(self) -> None:
        """A password in the URL opens the repository, and shows nowhere."""
        site = WatchingSite(self.authenticated(File(str(self.repository.path.parent))))
        self.repository.git("update-server-info", cwd=self.repository.path)
        url = f"{self.serve(site)}/pkgs.git"
        sources = await self.make(pkgs_repo=f"http://user:s%65cret@{url}")
        revision = await self.revision(sources)
        self.assertEqual(revision.identity["url"], f"http://{url}")
        self.assertEqual(await self.evaluated(sources), "plain-one")
        await self.revision(sources, self.first)
        # Nor do other users of the machine see it, in the arguments of git and its helpers.
        self.assertTrue(any("git-remote-http" in each for each in site.processes), site.processes)
        self.assertEqual([each for each in site.processes if "user" in each or "cret" in each], [])
        for settings in ({"pkgs_repo": f"http://{url}"}, {"pkgs_repo": f"http://user:no@{url}"}):
            with self.assertRaises(SourceUnavailable) as caught:
                await self.revision(await self.make(**settings), "other")
            self.assertNotIn("user", caught.exception.message)

    async def test_password_is_not_sent_to_a_host_that_the_repositorys_host_redirects_to(
        self,
    ) -> None:
        """A password is not sent to a host that the repository's host redirects to."""
        self.repository.git("update-server-info", cwd=self.repository.path)
        other = WatchingSite(File(str(self.repository.path.parent)))
        target = self.serve(other).replace("127.0.0.1", "localhost")
        first = WatchingSite(self.authenticated(_Redirecting(target)))
        url = f"http://user:secret@{self.serve(first)}/pkgs.git"
        sources = await self.make(pkgs_repo=url, pkgs_ref="main")
        self.assertEqual((await self.revision(sources)).identity["commit"], self.first)
        self.assertIn(b"Basic dXNlcjpzZWNyZXQ=", first.authorizations)
        self.assertEqual(set(other.authorizations), {None})

    def authenticated(self, resource: IResource) -> IResource:
        """A resource that only the user ``user`` with the password ``secret`` gets."""
        checker = InMemoryUsernamePasswordDatabaseDontUse(user=b"secret")
        portal = Portal(Realm(resource), [checker])
        wrapped: IResource = HTTPAuthSessionWrapper(portal, [BasicCredentialFactory(b"x")])
        return wrapped

    def serve(self, site: Site) -> str:
        """Serve a site, and return its host and port."""
        port = cast(Any, reactor).listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"127.0.0.1:{port.getHost().port}"

    # -- fetching -------------------------------------------------------------------

    async def test_concurrent_requests_fetch_a_commit_once(self) -> None:
        """Concurrent requests for a commit fetch it once, also by different names."""
        sources = await self.make()
        tags = ["latest", "main", self.first] * 7
        sets = await gather([self.fetched(sources, tag) for tag in tags])
        self.assertEqual(len({each.path for each in sets}), 1)
        self.assertEqual(len(self.messages("fetching {commit}")), 1)

    async def test_collection_takes_nothing_that_was_fetched(self) -> None:
        """A collection takes nothing that was fetched; what it takes otherwise comes back."""
        # Content that no other test has rooted.
        commit = self.repository.commit(uuid4().hex)
        sources = await self.make()
        path = (await self.fetched(sources)).path
        self.assertFalse(self.delete(path))
        [link] = (self.directory / "state" / "nixery" / "src").iterdir()
        self.assertEqual(link.readlink(), path)
        self.assertIn(commit, link.name)
        link.unlink()
        self.assertTrue(self.delete(path))
        self.assertEqual((await self.fetched(sources)).path, path)
        self.assertFalse(self.delete(path))

    async def test_collected_before_it_was_rooted(self) -> None:
        """A collection that comes as soon as a commit is there takes it only once."""
        commit = self.repository.commit(uuid4().hex)
        taken = self.collect_before_rooting()
        path = (await self.fetched(await self.make())).path
        self.assertTrue(path.is_dir())
        self.assertIn("1 store paths deleted", taken.read_text())
        [link] = (self.directory / "state" / "nixery" / "src").iterdir()
        self.assertIn(commit, link.name)
        self.assertEqual(len(self.messages("collection took {commit}")), 1)

    async def test_a_root_that_lost_its_place(self) -> None:
        """A state directory that was moved protects what it has again."""
        self.repository.commit(uuid4().hex)
        path = (await self.fetched(await self.make())).path
        (self.directory / "state").rename(self.directory / "moved")
        self.environ["XDG_STATE_HOME"] = str(self.directory / "moved")
        self.assertEqual((await self.fetched(await self.make())).path, path)
        self.assertEqual(len(self.messages("fetching {commit}")), 1)
        self.assertFalse(self.delete(path))

    async def test_without_the_network(self) -> None:
        """After a restart, what is rooted needs no repository."""
        await self.fetched(await self.make())
        self.repository.path.rename(self.directory / "away")
        for name in ("cache", "home"):
            (self.directory / name).rename(self.directory / f"{name} lost")
            (self.directory / name).mkdir()
        self.assertEqual(await self.evaluated(await self.make()), "plain-one")

    async def test_commit_is_one_content(self) -> None:
        """Files of a commit are as they were committed, whatever refs and attributes there are."""
        for repository in (
            self.repository,
            Repository(self.directory / "with tree", bare=False),
        ):
            files = {
                "version": "$Format:%H %D$\n",
                "lines": "a\nb\n",
                "id": "$Id$\n",
                "left-out": "",
                ".gitattributes": (
                    "version export-subst\nlines eol=crlf\nid ident\nleft-out export-ignore\n"
                ),
            }
            for name, text in files.items():
                (repository.work / name).write_text(text)
            commit = repository.commit(uuid4().hex)
            tree = self.directory / uuid4().hex / "source"
            shutil.copytree(
                repository.work, tree, ignore=shutil.ignore_patterns(".git", "left-out")
            )
            expected = Path(self.store(tree))
            for branch in ("one", "two"):
                repository.git("branch", branch)
                repository.push()
                for name in ("cache", "state"):
                    shutil.rmtree(self.directory / name, ignore_errors=True)
                sources = await self.make(pkgs_repo=str(repository.path))
                self.assertEqual((await self.fetched(sources, commit)).path, expected)

    async def test_rewritten_between_look_up_and_fetch(self) -> None:
        """A commit that is gone when it is fetched is an error, and the next pull succeeds."""
        sources = await self.make(source_ttl=900)
        revision = await self.revision(sources)
        self.repository.git("commit", "--quiet", "--amend", "--message=rewritten")
        self.repository.commit("two")
        self.repository.git("gc", "--quiet", "--prune=now", cwd=self.repository.path)
        self.repository.git("reflog", "expire", "--expire=now", "--all", cwd=self.repository.path)
        with self.assertRaises(SourceUnavailable):
            await sources.fetch(revision)
        self.assertEqual(await self.evaluated(sources), "plain-two")


@implementer(IRealm)
class Realm:
    """Gives every user the same resource."""

    def __init__(self, resource: IResource) -> None:
        self._resource = resource

    def requestAvatar(self, _id: object, _mind: object, *interfaces: object) -> Any:  # noqa: N802  # the interface's name
        return IResource, self._resource, lambda: None


class _Redirecting(Resource):
    """Redirects every path to the same one of another host."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self, host: str) -> None:
        super().__init__()
        self._host = host

    def render_GET(self, request: Request) -> bytes:  # noqa: N802  # Twisted's name
        request.redirect(f"http://{self._host}".encode() + request.uri)
        return b"moved"


class WatchingSite(Site):
    """Notes what its clients send, and the arguments of all processes of git meanwhile."""

    def __init__(self, resource: IResource) -> None:
        super().__init__(resource)
        self.authorizations: list[bytes | None] = []
        self.processes: set[str] = set()

    def getResourceFor(self, request: Request) -> IResource:  # noqa: N802  # Twisted's name
        self.authorizations.append(request.getHeader(b"authorization"))
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                arguments = each.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                # The client waits for its answer: it is among them.
                if "git" in arguments and str(request.getHost().port) in arguments:
                    self.processes.add(arguments)
        found: IResource = super().getResourceFor(request)
        return found


class ChannelHost(Resource):
    """Plays the channel host and the host of the archives."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self) -> None:
        super().__init__()
        self.channels: dict[str, str] = {}
        self.archives: dict[str, bytes] = {}
        self.asked: list[str] = []

    def publish(self, channel: str, name: str) -> str:
        """Move a channel to a new commit."""
        commit = uuid4().hex + "00000000"
        self.channels[channel] = commit
        self.archives[commit] = archive(f"nixpkgs-{commit}", SET.replace("NAME", name))
        return commit

    def render_GET(self, request: Request) -> bytes:  # noqa: N802  # Twisted's name
        parts = request.path.decode().strip("/").split("/")
        self.asked.append(request.path.decode())
        match parts:
            case [name, "git-revision"] if name in self.channels:
                request.redirect(f"/releases/{name}".encode())
                return b"moved"
            case ["releases", name]:
                return self.channels[name].encode()
            case ["archive", file] if file.removesuffix(".tar.gz") in self.archives:
                return self.archives[file.removesuffix(".tar.gz")]
        request.setResponseCode(404)
        return b"no such thing"


def archive(directory: str, text: str) -> bytes:
    data = text.encode()
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            member = tarfile.TarInfo(f"{directory}/default.nix")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        return buffer.getvalue()


class ChannelCase(SourceCase):
    def setUp(self) -> None:
        super().setUp()
        self.host = ChannelHost()
        self.listen()
        self.first = self.host.publish("nixos-unstable", "one")

    def listen(self, port: int = 0) -> None:
        self.port = cast(Any, reactor).listenTCP(port, Site(self.host), interface="127.0.0.1")
        self.number = self.port.getHost().port
        self.addCleanup(self.port.stopListening)

    async def make(self, **settings: object) -> Resolver:
        host = f"http://127.0.0.1:{self.number}"
        return await self.sources(
            channel_url=host, nixpkgs_url=f"{host}/archive/{{commit}}.tar.gz", **settings
        )


class ChannelTests(ChannelCase):
    """Channels and commits of nixpkgs."""

    async def test_configured_channel_and_others_by_their_names(self) -> None:
        """The configured channel, and others by their names."""
        self.host.publish("nixos-25.05", "stable")
        sources = await self.make()
        self.assertEqual(await self.evaluated(sources), "plain-one")
        self.assertEqual(await self.evaluated(sources, "nixos-25.05"), "plain-stable")
        revision = await self.revision(sources)
        self.assertEqual(revision.identity["commit"], self.first)
        self.assertTrue(revision.pinned)
        for tag in ("nixos-24.05", "main", self.first, "sha256-" + "0" * 64):
            await self.refused(sources, tag)

    async def test_time_to_live(self) -> None:
        """A channel is asked about once in its time, by however many, and moves then."""
        sources = await self.make()
        await gather([self.fetched(sources) for _ in range(20)])
        self.assertEqual(len(self.host.asked), 3)
        second = self.host.publish("nixos-unstable", "two")
        self.assertEqual(await self.evaluated(sources), "plain-one")
        self.reactor.clock.advance(900)
        self.assertEqual((await self.revision(sources)).identity["commit"], second)
        self.assertEqual(await self.evaluated(sources), "plain-two")

    async def test_configured_commit_asks_no_channel(self) -> None:
        """A configured commit asks no channel; any other commit is a decision."""
        older = self.first
        self.host.publish("nixos-unstable", "two")
        sources = await self.make(channel=older)
        self.assertEqual(await self.evaluated(sources), "plain-one")
        self.assertEqual(self.host.asked, [f"/archive/{older}.tar.gz"])
        other = self.host.channels["nixos-unstable"]
        await self.refused(sources, other)
        sources = await self.make(allow_any_commit=True)
        self.assertEqual(await self.evaluated(sources, other), "plain-two")
        with self.assertRaises(UnknownRevision):
            await self.fetched(sources, "0" * 40)

    async def test_collected_before_it_was_rooted(self) -> None:
        """A collection that comes as soon as an archive is there takes it only once."""
        self.host.publish("nixos-unstable", uuid4().hex)
        self.collect_before_rooting()
        self.assertTrue((await self.fetched(await self.make())).path.is_dir())
        self.assertEqual(len(self.messages("collection took {commit}")), 1)

    async def test_a_host_that_is_away(self) -> None:
        """Known sources go on being served, also after a restart."""
        sources = await self.make(source_ttl=0)
        await self.fetched(sources)
        await self.port.stopListening()
        for each in (sources, await self.make(source_ttl=0)):
            self.assertEqual(await self.evaluated(each), "plain-one")
        self.assertEqual(len(self.messages("is still served")), 2)
        with self.assertRaises(SourceUnavailable) as caught:
            await self.revision(sources, "nixos-25.05")
        self.assertIn("nixos-25.05", caught.exception.message)
        self.listen(self.number)
        self.host.publish("nixos-unstable", "two")
        self.reactor.clock.advance(30)
        self.assertEqual(await self.evaluated(sources), "plain-two")


class ConfigurationTests(ChannelCase):
    """Overlays and the configuration of nixpkgs, for every kind of source."""

    async def each_source(self, **settings: object) -> dict[str, Resolver]:
        path = self.directory / "set"
        path.mkdir(exist_ok=True)
        (path / "default.nix").write_text(SET.replace("NAME", "one"))
        repository = Repository(self.directory / f"{uuid4().hex}.git")
        repository.commit("one")
        return {
            "channel": await self.make(**settings),
            "git": await self.make(pkgs_repo=str(repository.path), **settings),
            "path": await self.make(pkgs_path=str(path), **settings),
        }

    async def test_unfree_and_insecure_packages_are_refused(self) -> None:
        """Unfree and insecure packages are refused, until the configuration allows them."""
        for kind, sources in (await self.each_source()).items():
            for name in ("unfree", "insecure"):
                with self.assertRaises(PackagesRefused, msg=kind):
                    await self.evaluated(sources, name=name)
        allowed = {"allowUnfree": True, "permittedInsecurePackages": ["insecure-one"]}
        for sources in (await self.each_source(nixpkgs_config=allowed)).values():
            for name in ("unfree", "insecure"):
                self.assertEqual(await self.evaluated(sources, name=name), f"{name}-one")

    async def test_overlays_of_configuration_extend_every_kind_of_source_and_unpin_it(self) -> None:
        """Overlays of the configuration extend every kind of source, and unpin it."""
        overlay = self.directory / "overlay.nix"
        overlay.write_text(OVERLAY.replace("NAME", "mine"))
        for sources in (await self.each_source(overlays=[str(overlay)])).values():
            self.assertEqual(await self.evaluated(sources, name="added"), "added-mine")
            self.assertFalse((await self.revision(sources)).pinned)

    async def test_overlays_in_the_store(self) -> None:
        """An overlay in the Nix store is as good as a commit."""
        overlay = self.directory / "overlay.nix"
        overlay.write_text(OVERLAY.replace("NAME", "mine"))
        (self.directory / "link").symlink_to(self.store(overlay))
        sources = await self.make(overlays=[str(self.directory / "link")])
        self.assertEqual(await self.evaluated(sources, name="added"), "added-mine")
        self.assertTrue((await self.revision(sources)).pinned)

    async def test_a_repository_with_an_overlay(self) -> None:
        """A repository may be an overlay on a channel: both are part of its revision."""
        repository = Repository(self.directory / "overlay.git")
        repository.commit("one", OVERLAY)
        repository.git("tag", "v1")
        mine = self.directory / "mine.nix"
        mine.write_text('final: previous: { mine = previous.added // { name = "mine"; }; }')
        sources = await self.make(
            pkgs_repo=str(repository.path),
            pkgs_repo_kind="overlay",
            source_ttl=0,
            overlays=[str(mine)],
        )
        self.assertEqual(await self.evaluated(sources), "plain-one")
        self.assertEqual(await self.evaluated(sources, name="added"), "added-one")
        self.assertEqual(await self.evaluated(sources, name="mine"), "mine")
        before = await self.revision(sources)
        self.host.publish("nixos-unstable", "two")
        self.assertNotEqual(await self.revision(sources), before)
        repository.commit("three", OVERLAY)
        self.assertEqual(await self.evaluated(sources), "plain-two")
        self.assertEqual(await self.evaluated(sources, name="added"), "added-three")
        self.assertEqual(await self.evaluated(sources, "v1", "added"), "added-one")
