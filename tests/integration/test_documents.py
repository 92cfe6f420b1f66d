"""Real Nix: what packages declare, and where store paths came from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from nixery.artifacts.image_documents import make_documents
from nixery.artifacts.provenance import Provenance
from nixery.image.closure import RuntimeGraph
from nixery.image.declarations import License
from nixery.image.packages import Evaluation, Package
from nixery.nix.commands import NixCommands
from nixery.nix.interface import Realisation
from tests.integration.nixenv import nix_environment, path_set
from tests.integration.test_nix import SYSTEM, NixTestCase, Recorder
from tests.support.sboms import cyclonedx_problems, spdx_problems

DECLARED = Path(__file__).resolve().parent / "sets" / "declared"


class DeclarationTests(NixTestCase):
    """Tests of licences and identifiers in ``meta``."""

    async def evaluated(self, *names: str) -> dict[str, Package]:
        evaluation = await self.evaluate(*names, package_set=path_set(DECLARED))
        return {package.attribute: package for package in evaluation.packages}

    async def test_every_form_is_read_and_nothing_that_throws_does_harm(self) -> None:
        """Licences are read in every form, with those that throw beside them in one image."""
        expected: dict[str, list[tuple[str, bool]]] = {
            "nothing": [],
            "one": [("MIT", True)],
            "several": [("Apache-2.0", True), ("MIT", True)],
            "text": [("GPL-2.0-only", True)],
            "name": [("Unfree redistributable", False)],
            "compound": [("MIT OR Apache-2.0", True)],
            "nested": [("MIT AND (MIT OR Apache-2.0)", True)],
            "exception": [("Apache-2.0 WITH LLVM-exception", True)],
            "later": [("EUPL-1.1+", True)],
            "throwing": [("A licence", False)],
            "throwingAll": [],
            "wrong": [],
            "cpeless": [],
            "withoutEnd": [],
            "long": [],
        }
        # Each is evaluated for itself: packages of one derivation are one.
        for name, licenses in expected.items():
            package = (await self.evaluated(name))[name]
            self.assertEqual(
                [License(text=text, is_spdx=is_spdx) for text, is_spdx in licenses],
                [*package.licenses],
                name,
            )
            cpe = "cpe:2.3:a:vendor:package:1.0:*:*:*:*:*:*:*" if name == "one" else ""
            self.assertEqual(cpe, package.cpe, name)

    async def test_other_outputs_are_told(self) -> None:
        """Outputs that are not chosen are told beside those that are."""
        package = (await self.evaluated("outputs"))["outputs"]
        self.assertEqual([output.name for output in package.outputs], ["out"])
        self.assertEqual([output.name for output in package.other_outputs], ["dev", "lib"])
        package = (await self.evaluated("outputs.dev"))["outputs"]
        self.assertEqual([output.name for output in package.outputs], ["dev"])
        self.assertEqual([output.name for output in package.other_outputs], ["lib", "out"])


class OriginTests(NixTestCase):
    """Tests of where store paths came from."""

    async def realised(self, nix: NixCommands, *names: str) -> tuple[Evaluation, Realisation]:
        evaluation = await self.evaluate(*names, package_set=path_set(DECLARED))
        return evaluation, await nix.realise(evaluation.packages, Recorder())

    def run_nix(self, *command: str | Path) -> None:
        subprocess.run(command, check=True, env=nix_environment(), capture_output=True)

    async def test_builds_and_downloads_are_told_apart(self) -> None:
        """Builds are told from downloads, and from paths that were there already."""
        evaluation, realisation = await self.realised(self.nix, "middle")
        lowest_and_middle = (await self.nix.closure(realisation.outputs)).paths
        self.assertEqual(
            [each.rpartition("/")[2][33:] for each in realisation.origins.built],
            ["lowest-1.0.drv", "middle-2.0.drv"],
        )
        self.assertEqual({}, realisation.origins.substituted)
        [middle] = realisation.outputs
        cache = (self.directory.resolve() / "cache").as_uri()
        enabled = ("--extra-experimental-features", "nix-command")
        self.run_nix("nix", *enabled, "copy", "--to", cache, middle)

        again = await self.nix.realise(evaluation.packages, Recorder())
        self.assertEqual(((), {}), (again.origins.built, again.origins.substituted))
        await self.nix.release(again)
        await self.nix.release(realisation)
        self.run_nix("nix-store", "--delete", *(path.path for path in lowest_and_middle))

        environment = nix_environment()
        environment["NIX_CONFIG"] += (
            f"\nsubstitute = true\nsubstituters = {cache}\nrequire-sigs = false"
        )
        nix = self.make(environ=environment)
        evaluation, realisation = await self.realised(nix, "upper")
        self.addCleanup(nix.release, realisation)
        origins = realisation.origins
        self.assertEqual(
            [each.rpartition("/")[2][33:] for each in origins.built], ["upper-3.0.drv"]
        )
        self.assertEqual({path.path: cache for path in lowest_and_middle}, origins.substituted)
        graph = await nix.closure(realisation.outputs)
        self.check_documents(graph, evaluation, realisation, await nix.check())

    def check_documents(
        self, graph: RuntimeGraph, evaluation: Evaluation, realisation: Realisation, version: str
    ) -> None:
        """Check that documents of a real closure are sound."""
        cyclonedx, spdx, provenance = make_documents(
            graph,
            evaluation,
            Provenance(
                builder="urn:x",
                image="upper",
                system=SYSTEM,
                sources=(),
                derivations=[each.derivation for each in evaluation.packages],
                evaluation=self.nix.evaluation_identity(),
                nix_version=version,
                graph=graph,
                origins=realisation.origins,
            ),
        )
        self.assertEqual([], cyclonedx_problems(cyclonedx.data))
        self.assertEqual([], spdx_problems(spdx.data))
        paths: Any = json.loads(provenance.data)["buildDefinition"]["internalParameters"]
        [substituted] = paths["storePaths"]["substituted"].values()
        self.assertEqual(2, len(substituted))
        self.assertEqual(3, paths["storePaths"]["closure"])
