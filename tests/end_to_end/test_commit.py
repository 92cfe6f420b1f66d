"""A commit of a git repository, pulled from registries that share nothing but the Nix store."""

from __future__ import annotations

import hashlib
import shutil

from tests.end_to_end.case import EndToEndCase, docker
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.package_sets import ContentsSet
from tests.end_to_end.processes import private_directory
from tests.integration.test_git_parts import pointer
from tests.integration.test_sources import Repository

SET = """
{ system }:
let parts = import ./parts { inherit system; };
in parts // {
  data = derivation {
    name = "data-1.0";
    inherit system;
    builder = "${parts.tools}/bin/sh";
    args = [ "-euc" ''
      PATH=${parts.tools}/bin
      busybox mkdir -p $out/share
      busybox cp ${./large} $out/share/large
    '' ];
  };
}
"""


class CommitTests(EndToEndCase):
    """A repository with its package set in a submodule, and a file in Git LFS."""

    def test_commit_has_one_digest_on_two_registries(self) -> None:
        """
        A full commit is one image for registries with other caches, and for a daemon that was
        asked by a tag; the container has the content of the submodule and of the file.
        """
        directory = private_directory("commit")
        parts = Repository(directory / "parts.git")
        shutil.copytree(ContentsSet().path, parts.work, dirs_exist_ok=True)
        parts.commit("parts", (parts.work / "default.nix").read_text())
        main = Repository(directory / "main.git")
        main.submodule("../parts.git", "parts")
        (main.work / "large").write_text(pointer("large\n"))
        store(main, "large\n")
        main.git("tag", "--force", "v1", main.commit("main", SET))
        main.push()
        commit = main.git("rev-parse", "HEAD")
        options = ["--pkgs-repo", str(main.path), "--submodules", "true", "--lfs", "true"]
        digests = set()
        for name in ("one", "two"):
            registry = Daemon(directory, name=name, options=options).start()
            for tag in (commit, "v1"):
                answer = registry.registry.manifest("tools/data", tag)
                self.assertEqual(answer.status, 200, answer.body)
                digests.add(answer.headers["docker-content-digest"])
            if name == "one":
                registry.stop()
        self.assertEqual(len(digests), 1, digests)
        image = f"{registry.address}/tools/data:{commit}"
        docker().pull(image).checked()
        said = docker().run(image, "cat", "/share/large").checked().stdout
        self.assertEqual(said, "large\n")


def store(repository: Repository, content: str) -> None:
    """Put the content of a file into what a repository has in Git LFS."""
    oid = hashlib.sha256(content.encode()).hexdigest()
    directory = repository.path / "lfs" / "objects" / oid[:2] / oid[2:4]
    directory.mkdir(parents=True)
    (directory / oid).write_text(content)
