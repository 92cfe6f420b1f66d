"""Submodules and files in Git LFS, of real git repositories on loopback, with the real Nix."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from nixery.image.errors import PackagesRefused
from nixery.image.names import PackageRequest
from nixery.nix.errors import EvaluationFailed
from nixery.process.errors import CommandMissing
from nixery.sources.errors import SourceUnavailable
from nixery.sources.resolver import Resolver
from tests.integration.nixenv import make_nix
from tests.integration.test_sources import Repository, SourceCase
from tests.integration.web_hosts import serve

# A set whose package tells what is in another file.
READER = """
{ system }: {
  plain = derivation {
    name = "plain-${builtins.readFile ./FILE}";
    inherit system;
    builder = "/bin/sh";
  };
}
"""


WHOLE = "/nix/store/sfk1kc7hci49vh3dlf7nr9c2q2diwh9i-source"
DERIVATION = "/nix/store/fz1ag36dpy3iiyw0hd8pg189351mbsjd-plain-inner-inner.drv"


# Plays ssh: runs the command, which comes after the host, in a home directory.
SSH = """#!/bin/sh
while [ "$1" != git@host ]; do shift; done
cd HOME && shift && exec sh -c "$*"
"""


class PartsCase(SourceCase):
    """A repository with a submodule that has a submodule, each at a relative URL."""

    def setUp(self) -> None:
        super().setUp()
        self.git_config = self.directory / "home" / ".gitconfig"
        self.root = self.directory / "repositories"
        self.inner = Repository(self.root / "inner.git")
        self.inner.commit("inner", "inner-NAME")
        self.outer = Repository(self.root / "outer.git")
        self.outer.submodule("../inner.git", "deep/inner")
        self.outer.commit("outer", "outer-NAME")
        self.main = Repository(self.root / "main.git")
        self.main.submodule("../outer.git", "parts/outer")
        self.first = self.main.commit("one", self.reader("parts/outer/deep/inner/default.nix"))

    def reader(self, file: str) -> str:
        return READER.replace("FILE", file)

    async def make(self, **settings: object) -> Resolver:
        return await self.sources(
            pkgs_repo=str(settings.pop("pkgs_repo", self.main.path)), source_ttl=0, **settings
        )

    def move(self, text: str) -> str:
        """Commit in the innermost repository, and move all others there."""
        self.inner.commit(text, "inner-NAME")
        for repository, path in ((self.outer, "deep/inner"), (self.main, "parts/outer")):
            repository.git("submodule", "--quiet", "update", "--init", "--remote", path)
            repository.git("commit", "--quiet", "--all", "--message", text)
            repository.push()
        return self.main.git("rev-parse", "HEAD")

    def serve(self, resource: IResource, *, password: str | None = None) -> str:
        """Serve a resource, and return its host and port."""
        return serve(self, resource, password=password)

    def serve_repositories(self, *, password: str | None = None) -> str:
        for repository in (self.inner, self.outer, self.main):
            repository.git("update-server-info", cwd=repository.path)
        return self.serve(GitHost(self.root), password=password)

    def checkouts(self) -> list[Path]:
        """Return the checkouts that are left in the cache directory."""
        return list((self.directory / "cache" / "nixery" / "checkouts").iterdir())


class SubmoduleTests(PartsCase):
    async def test_submodules_are_fetched_at_the_recorded_commits(self) -> None:
        """Submodules, and theirs, are fetched at the commits that the commit records."""
        self.main.git("tag", "v1")
        self.main.push()
        second = self.move("moved")
        self.inner.commit("unrecorded", "inner-NAME")
        sources = await self.make(submodules=True)
        for tag, name in (("latest", "moved"), (second, "moved"), ("v1", "inner")):
            self.assertEqual(await self.evaluated(sources, tag), f"plain-inner-{name}", tag)
        path = (await self.fetched(sources)).path
        self.assertEqual((path / "parts/outer/default.nix").read_text(), "outer-outer")
        self.assertEqual(list(path.rglob(".git")), [])
        self.assertEqual(self.checkouts(), [])
        self.assertFalse(self.delete(path))

    async def test_setting_is_part_of_the_identity(self) -> None:
        """A commit with its submodules is another revision than without, which is as it was."""
        without = await self.revision(await self.make())
        self.assertEqual(
            without.identity,
            {"commit": self.first, "kind": "git", "url": self.main.path.as_uri()},
        )
        revisions = [
            without,
            await self.revision(await self.make(submodules=True)),
            await self.revision(await self.make(lfs=True)),
            await self.revision(await self.make(submodules=True, lfs=True)),
        ]
        identities = {json.dumps(dict(each.identity), sort_keys=True) for each in revisions}
        self.assertEqual(len(identities), 4)
        self.assertTrue(all(each.pinned for each in revisions))

    async def test_without_the_setting_they_are_left_out_and_warned_of_once(self) -> None:
        sources = await self.make()
        for text in ("two", "three"):
            path = (await self.fetched(sources)).path
            self.assertEqual(list((path / "parts/outer").iterdir()), [])
            self.move(text)
        [warning] = self.messages("to have them")
        self.assertEqual(warning["setting"], "submodules")
        self.assertIn("submodules", warning["what"])

    async def test_repository_without_any_is_the_same_tree(self) -> None:
        """The settings change nothing of a repository that has neither."""
        plain = Repository(self.root / "plain.git")
        (plain.work / "run").write_text("#!/bin/sh\n")
        (plain.work / "run").chmod(0o755)
        (plain.work / "link").symlink_to("run")
        (plain.work / ".gitattributes").write_text("* text eol=crlf ident\nrun filter=evil\n")
        (plain.work / "lines").write_text("a\n$Id$\n")
        plain.commit(uuid4().hex)
        self.git_config.write_text(
            '[filter "evil"]\n smudge = echo evil\n[core]\n autocrlf = true\n'
            f" hooksPath = {self.directory}\n"
        )
        hook = self.directory / "post-checkout"
        hook.write_text(f"#!/bin/sh\ntouch {self.directory}/hook-ran\n")
        hook.chmod(0o755)
        paths = {
            (await self.fetched(await self.make(pkgs_repo=plain.path, **settings))).path
            for settings in ({}, {"submodules": True}, {"lfs": True})
        }
        self.assertEqual(len(paths), 1)
        self.assertFalse((self.directory / "hook-ran").exists())
        self.assertEqual(self.messages("to have them"), [])

    async def test_plain_files_over_http_and_a_password(self) -> None:
        """
        Submodules come from servers of plain files too, and those of the same host open with
        the password of the URL; without one, the error says what to do.
        """
        host = self.serve_repositories(password="secret")
        sources = await self.make(pkgs_repo=f"http://user:secret@{host}/main.git", submodules=True)
        self.assertEqual(await self.evaluated(sources), "plain-inner-inner")
        netrc = self.directory / "home" / ".netrc"
        netrc.write_text("machine 127.0.0.1 login user password secret\n")
        netrc.chmod(0o600)
        self.forget()
        sources = await self.make(pkgs_repo=f"http://{host}/main.git", submodules=True)
        self.assertEqual(await self.evaluated(sources), "plain-inner-inner")
        netrc.unlink()
        self.forget()
        with self.assertRaises(SourceUnavailable) as caught:
            await self.fetched(await self.make(pkgs_repo=f"http://{host}/main.git"))
        self.assertIn("SSH key", caught.exception.advice)
        # Of a submodule, too.
        other = self.serve(GitHost(self.root), password="other")
        self.main.git(
            "config",
            "--file",
            ".gitmodules",
            "submodule.parts/outer.url",
            f"http://{other}/outer.git",
        )
        self.main.git("commit", "--quiet", "--all", "--message=elsewhere")
        self.main.push()
        with self.assertRaises(SourceUnavailable) as caught:
            await self.fetched(await self.make(submodules=True))
        self.assertIn("SSH key", caught.exception.advice)
        self.assertIn(other, caught.exception.reason)
        self.assertEqual(self.checkouts(), [])

    async def test_submodule_of_a_remote_repository_does_not_lead_to_this_machine(self) -> None:
        secret = Repository(self.directory / "secret.git")
        secret.commit("secret", "inner-NAME")
        url = secret.path.as_uri()
        self.main.git("config", "--file", ".gitmodules", "submodule.parts/outer.url", url)
        self.main.git("commit", "--quiet", "--all", "--message=evil")
        self.main.push()
        host = self.serve_repositories()
        sources = await self.make(pkgs_repo=f"http://{host}/main.git", submodules=True)
        with self.assertRaises(SourceUnavailable) as caught:
            await self.fetched(sources)
        self.assertIn("'file' not allowed", caught.exception.reason)

    async def test_paths_of_ssh_are_relative_to_the_home_directory(self) -> None:
        """
        A URL as ``git@host:path`` is a path in the home directory there, and relative URLs of
        submodules begin at it; a key that is refused, and a host that is unknown, are told.
        """
        ssh = self.directory / "ssh"
        ssh.write_text(SSH.replace("HOME", str(self.root)))
        ssh.chmod(0o755)
        self.environ["GIT_SSH_COMMAND"] = str(ssh)
        sources = await self.make(pkgs_repo="git@host:main.git", submodules=True)
        self.assertEqual(await self.evaluated(sources), "plain-inner-inner")
        for text, told in (
            ("git@host: Permission denied (publickey).", "SSH key"),
            ("Host key verification failed.", "known_hosts"),
        ):
            ssh.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit 255\n")
            self.forget()
            with self.assertRaises(SourceUnavailable) as caught:
                await self.fetched(await self.make(pkgs_repo="git@host:main.git"))
            self.assertIn(told, caught.exception.advice)

    async def test_two_hosts_have_one_tree(self) -> None:
        """A commit is one store path for two registries that share no directory."""
        paths = set()
        packages = set()
        for name in ("one", "two"):
            self.environ |= {
                "XDG_STATE_HOME": str(self.directory / name / "state"),
                "XDG_CACHE_HOME": str(self.directory / name / "cache"),
            }
            for settings in ({}, {"submodules": True, "lfs": True}):
                sources = await self.make(**settings)
                paths.add((len(settings), (await self.fetched(sources, self.first)).path))
                if not settings:
                    continue
                # What the first one has kept is of no use to the second.
                fetched = await self.fetched(sources, self.first)
                nix = make_nix(self.directory)
                evaluated = await nix.evaluate(
                    fetched, "x86_64-linux", [PackageRequest(name="plain")]
                )
                packages.add(evaluated.packages[0].derivation)
        self.assertEqual(len(paths), 2)
        # These are the same on every machine, and for every version of Nix and of git.
        self.assertEqual({WHOLE}, {str(path) for count, path in paths if count})
        self.assertEqual({DERIVATION}, packages)

    def forget(self) -> None:
        """Forget all that was looked up and fetched."""
        for name in ("state", "cache"):
            shutil.rmtree(self.directory / name, ignore_errors=True)


class LfsTests(PartsCase):
    def setUp(self) -> None:
        super().setUp()
        self.content = uuid4().hex
        self.store_object(self.outer, self.content)
        (self.outer.work / "tool").write_text(pointer(self.content))
        (self.outer.work / "tool").chmod(0o755)
        self.outer.commit("outer", "outer-NAME")
        self.main.git("submodule", "--quiet", "update", "--init", "--remote", "parts/outer")
        self.store_object(self.main, self.content)
        (self.main.work / "data").mkdir()
        (self.main.work / "data" / "big file").write_text(pointer(self.content))
        self.main.commit("lfs", self.reader("data/big file"))

    def reader(self, file: str) -> str:
        return READER.replace("./FILE", f'(./. + "/{file}")')

    def store_object(self, repository: Repository, content: str) -> None:
        """Put the content of a file into the storage of a repository."""
        oid = hashlib.sha256(content.encode()).hexdigest()
        directory = repository.path / "lfs" / "objects" / oid[:2] / oid[2:4]
        directory.mkdir(parents=True)
        (directory / oid).write_text(content)

    async def test_content_takes_the_place_of_pointers(self) -> None:
        """Files have their content, in submodules too, and stay executable."""
        sources = await self.make(submodules=True, lfs=True)
        self.assertEqual(await self.evaluated(sources), f"plain-{self.content}")
        path = (await self.fetched(sources)).path
        self.assertEqual((path / "parts/outer/tool").read_text(), self.content)
        self.assertTrue((path / "parts/outer/tool").stat().st_mode & 0o100)
        self.assertEqual(self.checkouts(), [])
        self.assertEqual(self.messages("to have them"), [])

    async def test_without_the_setting_pointers_are_left_out_and_warned_of_once(self) -> None:
        """No package gets a pointer for content, with submodules or without."""
        for settings, warned in ({}, {"submodules", "lfs"}), ({"submodules": True}, {"lfs"}):
            self.logged.clear()
            sources = await self.make(**settings)
            path = (await self.fetched(sources)).path
            self.assertEqual(list((path / "data").iterdir()), [])
            self.assertFalse((path / "parts/outer/tool").exists())
            self.assertTrue((path / "default.nix").is_file())
            with self.assertRaises((EvaluationFailed, PackagesRefused)):
                await self.evaluated(sources)
            warnings = self.messages("to have them")
            self.assertEqual({each["setting"] for each in warnings}, warned)
            self.assertEqual(len(warnings), len(warned))
            self.assertFalse(self.delete(path))

    async def test_root_of_a_former_version_that_has_pointers_is_replaced(self) -> None:
        fetched = await self.fetched(await self.make())
        [link] = (self.directory / "state" / "nixery" / "src").iterdir()
        tree = self.directory / "former" / "source"
        shutil.copytree(self.main.work, tree, ignore=shutil.ignore_patterns(".git"))
        link.unlink()
        link.symlink_to(self.store(tree))
        self.assertEqual((await self.fetched(await self.make())).path, fetched.path)
        self.assertEqual(link.readlink(), fetched.path)

    async def test_content_that_was_never_pushed(self) -> None:
        shutil.rmtree(self.main.path / "lfs")
        with self.assertRaises(SourceUnavailable) as caught:
            await self.fetched(await self.make(lfs=True))
        self.assertIn("remote missing object", caught.exception.reason)
        self.assertEqual(self.checkouts(), [])

    async def test_server_with_a_password(self) -> None:
        """The password of the URL opens the server of Git LFS; without one, the error says it."""
        host = self.serve_repositories(password="secret")
        sources = await self.make(pkgs_repo=f"http://user:secret@{host}/main.git", lfs=True)
        self.assertEqual(await self.evaluated(sources), f"plain-{self.content}")
        config = self.main.work / ".lfsconfig"
        other = self.serve(GitHost(self.root), password="other")
        config.write_text(f"[lfs]\n url = http://{other}/main.git/info/lfs\n fetchexclude = *\n")
        self.main.git("add", ".")
        self.main.git("commit", "--quiet", "--message=elsewhere")
        self.main.push()
        self.main.git("update-server-info", cwd=self.main.path)
        with self.assertRaises(SourceUnavailable) as caught:
            await self.fetched(sources)
        self.assertIn("SSH key", caught.exception.advice)

    async def test_server_of_a_remote_repository_is_not_on_this_machine(self) -> None:
        config = self.main.work / ".lfsconfig"
        config.write_text(f"[lfs]\n url = {self.outer.path.as_uri()}\n")
        self.main.git("add", ".")
        self.main.git("commit", "--quiet", "--message=evil")
        self.main.push()
        host = self.serve_repositories()
        sources = await self.make(pkgs_repo=f"http://{host}/main.git", lfs=True)
        with self.assertRaises(SourceUnavailable) as caught:
            await self.fetched(sources)
        self.assertIn(self.outer.path.as_uri(), caught.exception.reason)

    async def test_program_is_missed_at_the_start(self) -> None:
        programs = self.directory / "programs"
        programs.mkdir()
        for name in ("git", "setsid"):
            found = shutil.which(name)
            assert found is not None
            (programs / name).symlink_to(found)
        self.environ["PATH"] = str(programs)
        await self.make()
        with self.assertRaises(CommandMissing) as caught:
            await self.make(lfs=True)
        self.assertEqual(caught.exception.command, "git-lfs")


def pointer(content: str) -> str:
    """The file that a repository has in place of some content."""
    oid = hashlib.sha256(content.encode()).hexdigest()
    return (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{oid}\nsize {len(content.encode())}\n"
    )


class GitHost(Resource):
    """Serves the files of repositories, and what they have in Git LFS."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def render_GET(self, request: Request) -> bytes:  # noqa: N802  # Twisted's name
        path = self._root / request.path.decode().strip("/")
        if not path.is_file():
            request.setResponseCode(404)
            return b"no such thing"
        return path.read_bytes()

    def render_POST(self, request: Request) -> bytes:  # noqa: N802  # Twisted's name
        repository, _, rest = request.path.decode().partition("/info/lfs/")
        assert rest == "objects/batch", rest
        asked = json.loads(cast(Any, request.content).read())
        host = request.getHeader("host")
        objects = []
        for each in asked["objects"]:
            oid = each["oid"]
            href = f"http://{host}{repository}/lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}"
            objects.append({**each, "actions": {"download": {"href": href}}})
        request.setHeader("content-type", "application/vnd.git-lfs+json")
        return json.dumps({"transfer": "basic", "objects": objects}).encode()
