"""Tests of a flake in a git repository, with an input in another one, up to the container."""

from __future__ import annotations

import os
from pathlib import Path

from tests.end_to_end.case import EndToEndCase, docker
from tests.end_to_end.daemon import Daemon, private_environment, single_user_nix
from tests.end_to_end.package_sets import ContentsSet
from tests.end_to_end.processes import private_directory, run

FLAKE = """
{
  inputs.tools = { url = "git+file://TOOLS?ref=main"; flake = false; };
  outputs = { self, tools }:
    let
      system = "SYSTEM";
      set = import tools { inherit system; };
    in
    {
      packages.${system}.default = derivation {
        name = "greeting-1.0";
        inherit system;
        builder = "${set.tools}/bin/sh";
        args = [ "-c" ''
          PATH=${set.tools}/bin
          busybox mkdir -p $out/share
          echo "WORD ${self.shortRev}" > $out/share/text
        '' ];
      };
      legacyPackages.${system} = set;
    };
}
"""


class FlakeTests(EndToEndCase):
    def test_container_of_a_flake_at_two_tags(self) -> None:
        """Containers have the packages of a branch and of a tag; others are told what to do."""
        directory = private_directory("flake")
        tools, flake = directory / "tools", directory / "flake"
        ContentsSet().path.rename(tools)
        flake.mkdir()
        for repository in (tools, flake):
            self.git(repository, "init", "--quiet", "--initial-branch=main")
        self.commit(tools)
        revisions = {}
        for word, tag in (("first", "v1"), ("second", "v2")):
            text = FLAKE.replace("TOOLS", str(tools)).replace("WORD", word)
            system = f"{os.uname().machine}-linux"
            (flake / "flake.nix").write_text(text.replace("SYSTEM", system))
            self.commit(flake)
            self.lock(flake)
            revisions[word] = self.commit(flake)
            self.git(flake, "tag", tag)
        registry = Daemon(
            directory, name="flake-registry", options=["--flake", f"git+file://{flake}"]
        ).start()
        for tag, word in (("v1", "first"), ("latest", "second"), (revisions["first"], "first")):
            image = f"{registry.address}/default/tools:{tag}"
            docker().pull(image).checked()
            said = docker().run(image, "cat", "/share/text").checked().stdout
            self.assertEqual(said, f"{word} {revisions[word][:7]}\n")
        shown = registry.registry.get("/images/default/tools:v1/provenance.json").json()
        materials = shown["predicate"]["buildDefinition"]["resolvedDependencies"]
        commit = self.git(tools, "rev-parse", "HEAD").strip()
        self.assertEqual(
            [
                {"uri": f"git+file://{flake}", "digest": {"gitCommit": revisions["first"]}},
                {"uri": f"git+file://{tools}", "digest": {"gitCommit": commit}},
            ],
            materials[:2],
        )
        unknown = registry.registry.manifest("default", "nope")
        self.assertEqual(unknown.status, 404)
        (flake / "flake.lock").unlink()
        self.commit(flake)
        stale = self.git(flake, "rev-parse", "HEAD").strip()
        refused = registry.registry.manifest("default", stale)
        self.assertEqual(refused.status, 422)
        self.assertIn("nix flake lock", refused.message)

    def lock(self, flake: Path) -> None:
        """Write the lock file, as people do."""
        environ = {**private_environment(flake.parent), **single_user_nix()}
        features = ("--extra-experimental-features", "nix-command flakes")
        run(["nix", *features, "flake", "lock", f"git+file://{flake}"], environ=environ).checked()

    def commit(self, repository: Path) -> str:
        self.git(repository, "add", "--all")
        self.git(repository, "commit", "--quiet", "--allow-empty", "--message=x")
        return self.git(repository, "rev-parse", "HEAD").strip()

    def git(self, repository: Path, *arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        environ = private_environment(repository.parent)
        return run(["git", *identity, *arguments], environ=environ, cwd=repository).checked().stdout
