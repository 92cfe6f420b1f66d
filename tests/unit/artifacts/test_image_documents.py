"""The documents about an image: what they say, and that others can read them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.licenses import canonicalize_license_expression
from twisted.trial.unittest import SynchronousTestCase

from nixery.artifacts.components import image_components, split_name
from nixery.artifacts.document import Document
from nixery.artifacts.image_documents import make_documents
from nixery.artifacts.provenance import Material, Origins, Provenance
from nixery.image.canonical_json import canonical_json
from nixery.image.closure import PathInfo, RuntimeGraph, parse_db_dump
from nixery.image.declarations import License
from nixery.image.packages import Evaluation, Output, Package
from tests.support.sboms import cyclonedx_problems, spdx_problems
from tests.support.strategies import evaluations, graphs, store_path

CPE = "cpe:2.3:a:git-scm:git:2.47.0:*:*:*:*:*:*:*"
NOTHING = Provenance(
    builder="https://registry.example",
    image="git",
    system="x86_64-linux",
    sources=(),
    derivations=(),
    evaluation={},
    nix_version="2.8.0",
    graph=RuntimeGraph(paths={}),
    origins=Origins(),
)


def spdx(*texts: str) -> tuple[License, ...]:
    return tuple(License(text=text, is_spdx=True) for text in texts)


def package(name: str, *paths: str, **fields: Any) -> Package:
    """A package whose first output is ``out`` and whose others are called by their numbers."""
    made = Package(
        requested=(name,),
        attribute=name,
        name=f"{name}-1",
        pname=name,
        version="1",
        description="",
        priority=5,
        derivation=f"{store_path(name)}.drv",
        outputs=(Output(name="out", path=paths[0]),),
        other_outputs=tuple(
            Output(name=f"o{number}", path=path) for number, path in enumerate(paths[1:])
        ),
    )
    return evolve(made, **fields)


def evaluation(*packages: Package) -> Evaluation:
    return Evaluation(packages=packages, missing_optional=(), system="x86_64-linux")


def closure(references: Mapping[str, Sequence[str]]) -> RuntimeGraph:
    """A closure of paths that are called by their names, each with another hash."""
    digits = {name: f"{number:032d}" for number, name in enumerate(references)}
    return RuntimeGraph(
        paths={
            store_path(name, digits[name]): PathInfo(
                path=store_path(name, digits[name]),
                nar_hash=f"{number:064x}",
                nar_size=1000 + number,
                references=[store_path(other, digits[other]) for other in others],
            )
            for number, (name, others) in enumerate(references.items())
        }
    )


def documents(graph: RuntimeGraph, *packages: Package) -> tuple[Any, Any]:
    """The two bills of materials, decoded."""
    first, second, _ = make_documents(graph, evaluation(*packages), NOTHING)
    return json.loads(first.data), json.loads(second.data)


DEMO = closure(
    {
        "glibc-2.39-52": [],
        "openssl-3.0.14": ["glibc-2.39-52"],
        "openssl-3.0.14-bin": ["glibc-2.39-52", "openssl-3.0.14"],
        "bash-interactive-5.2p37": ["glibc-2.39-52"],
        "git-2.47.0": ["glibc-2.39-52", "openssl-3.0.14", "bash-interactive-5.2p37"],
        "libsigc++-2.12.1": ["glibc-2.39-52"],
        "nss-cacert-3.101": [],
    }
)
GIT, BASH, GLIBC = (
    next(path.path for path in DEMO.paths if path.name.startswith(name))
    for name in ("git", "bash", "glibc")
)


class BillOfMaterialsTests(SynchronousTestCase):
    """Tests of both bills of materials."""

    def check(self, documents: Sequence[Document]) -> None:
        self.assertEqual(cyclonedx_problems(documents[0].data), [])
        self.assertEqual(spdx_problems(documents[1].data), [])

    def test_a_closure_of_the_demo_shape(self) -> None:
        """Both tell all that is known of a package, and both are valid."""
        packages = (
            package(
                "git",
                GIT,
                pname="git",
                version="2.47.0",
                description="Distributed version control",
                licenses=spdx("GPL-2.0-only"),
                cpe=CPE,
            ),
            package("bashInteractive", BASH, pname="bash-interactive", version="5.2p37"),
        )
        self.check(make_documents(DEMO, evaluation(*packages), NOTHING))
        cyclonedx, spdx_ = documents(DEMO, *packages)
        [git] = [each for each in cyclonedx["components"] if each["bom-ref"] == GIT]
        self.assertEqual(
            git,
            {
                "bom-ref": GIT,
                "type": "library",
                "name": "git",
                "version": "2.47.0",
                "description": "Distributed version control",
                "purl": f"pkg:nix/git@2.47.0?output=out&outputhash={GIT[11:43]}",
                "cpe": CPE,
                "licenses": [{"license": {"id": "GPL-2.0-only"}}],
                "hashes": [{"alg": "SHA-256", "content": f"{4:064x}"}],
                "properties": [
                    {"name": "nix:output_path", "value": GIT},
                    {"name": "nix:output", "value": "out"},
                    {"name": "nix:nar_size", "value": "1004"},
                    {"name": "nix:attribute", "value": "git"},
                ],
            },
        )
        self.assertEqual(
            cyclonedx["metadata"]["component"],
            {"bom-ref": "image", "type": "container", "name": "bashInteractive/git"},
        )
        needs = {each["ref"]: each["dependsOn"] for each in cyclonedx["dependencies"]}
        self.assertEqual(needs["image"], [path.path for path in DEMO.paths])
        self.assertEqual(needs[BASH], [GLIBC])
        self.assertEqual(needs[GLIBC], [])
        [git] = [each for each in spdx_["packages"] if each["SPDXID"] == f"SPDXRef-{GIT[11:43]}"]
        self.assertEqual(git["versionInfo"], "2.47.0")
        self.assertEqual(git["licenseDeclared"], "GPL-2.0-only")
        self.assertEqual(git["licenseConcluded"], "NOASSERTION")
        self.assertEqual([each["referenceLocator"] for each in git["externalRefs"]][1], CPE)
        relations = [
            (each["spdxElementId"], each["relationshipType"], each["relatedSpdxElement"])
            for each in spdx_["relationships"]
        ]
        self.assertEqual(relations[0], ("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"))
        contained = [target for _, kind, target in relations if kind == "CONTAINS"]
        self.assertEqual(contained, [f"SPDXRef-{path.hash}" for path in DEMO.paths])
        self.assertIn(
            (f"SPDXRef-{BASH[11:43]}", "DEPENDS_ON", f"SPDXRef-{GLIBC[11:43]}"), relations
        )

    def test_what_is_not_known_is_not_guessed(self) -> None:
        """A path that was not evaluated has a name and a version, and neither licence nor CPE."""
        cyclonedx, spdx_ = documents(DEMO)
        for each in cyclonedx["components"]:
            self.assertFalse({"licenses", "cpe", "description"} & each.keys())
        for each in spdx_["packages"]:
            self.assertEqual(each["licenseDeclared"], "NOASSERTION")
        self.assertNotIn("hasExtractedLicensingInfos", spdx_)

    def test_other_outputs_of_an_evaluated_package_are_described_too(self) -> None:
        """The library beside the program that was asked for has the licence of its package."""
        library, program = (path.path for path in DEMO.paths if path.name.startswith("openssl"))
        openssl = package("openssl", program, library, licenses=spdx("Apache-2.0"))
        cyclonedx, _ = documents(DEMO, openssl)
        licensed = {each["bom-ref"] for each in cyclonedx["components"] if "licenses" in each}
        self.assertEqual(licensed, {library, program})

    def test_licences_of_every_form(self) -> None:
        """Ids, expressions, names and mixtures of them are valid, each in its own place."""
        named = License(text='Unfree, "redistributable" ©', is_spdx=False)
        for licenses, cyclonedx_form, spdx_form in (
            (spdx("MIT"), [{"license": {"id": "MIT"}}], "MIT"),
            (
                spdx("Apache-2.0", "MIT"),
                [{"license": {"id": "Apache-2.0"}}, {"license": {"id": "MIT"}}],
                "Apache-2.0 AND MIT",
            ),
            (spdx("MIT OR ISC"), [{"expression": "MIT OR ISC"}], "MIT OR ISC"),
            (spdx("EUPL-1.1+"), [{"expression": "EUPL-1.1+"}], "EUPL-1.1+"),
            (
                spdx("MIT", "GPL-2.0-only OR ISC"),
                [{"license": {"id": "MIT"}}, {"license": {"name": "GPL-2.0-only OR ISC"}}],
                "MIT AND (GPL-2.0-only OR ISC)",
            ),
            ((named,), [{"license": {"name": named.text}}], None),
            (
                (*spdx("MIT"), named),
                [{"license": {"id": "MIT"}}, {"license": {"name": named.text}}],
                None,
            ),
        ):
            git = package("git", GIT, licenses=licenses)
            made = make_documents(DEMO, evaluation(git), NOTHING)
            self.assertEqual(cyclonedx_problems(made[0].data), [])
            # spdx-tools does not know the plus of the specification's annex D.
            if spdx_form != "EUPL-1.1+":
                self.assertEqual(spdx_problems(made[1].data), [])
            cyclonedx, spdx_ = documents(DEMO, git)
            [found] = [each["licenses"] for each in cyclonedx["components"] if "licenses" in each]
            self.assertEqual(found, cyclonedx_form)
            [declared] = [
                each["licenseDeclared"]
                for each in spdx_["packages"]
                if each["licenseDeclared"] != "NOASSERTION"
            ]
            if spdx_form is None:
                [info] = spdx_["hasExtractedLicensingInfos"]
                self.assertEqual(info["name"], named.text)
                self.assertEqual(declared.rpartition(" ")[2], info["licenseId"])
            else:
                self.assertEqual(declared, spdx_form)
                self.assertEqual(canonicalize_license_expression(declared), spdx_form)

    def test_odd_names(self) -> None:
        """Names with every character that store paths may have, and long ones, are valid."""
        names = ["a+b-1.0+c", "x_y?z=1", "-1.0", ".hidden", "n" * 211, "p-2024-01-01-lib"]
        graph = closure({name: names[:number] for number, name in enumerate(names)})
        odd = package(
            "odd",
            next(iter(graph.paths)).path,
            pname="naïve+@/ %?#",
            version="1:2 ~β",
            description='quoted "text" \\ \u2028 \U0001f600 "serialNumber":"urn:uuid:',
        )
        self.check(make_documents(graph, evaluation(odd), NOTHING))
        cyclonedx, _ = documents(graph, odd)
        purls = [each["purl"] for each in cyclonedx["components"]]
        self.assertTrue(
            any(
                "pkg:nix/na%C3%AFve%2B%40%2F%20%25%3F%23@1%3A2%20~%CE%B2?" in purl for purl in purls
            )
        )
        self.assertEqual(len(set(purls)), len(names))

    def test_an_image_of_nothing(self) -> None:
        """An image without packages has valid documents."""
        self.check(make_documents(RuntimeGraph(paths={}), evaluation(), NOTHING))

    def test_a_thousand_paths(self) -> None:
        """A closure of a thousand paths is valid, and has all of them."""
        names = [f"package{number}-{number % 7}.{number}" for number in range(1000)]
        graph = closure({name: names[max(0, at - 1) : at] for at, name in enumerate(names)})
        made = make_documents(graph, evaluation(), NOTHING)
        self.check(made)
        self.assertEqual(len(json.loads(made[0].data)["components"]), 1000)

    def test_registered_data_decide_and_not_their_order(self) -> None:
        """The same closure registered in another order, with self references, is the same."""
        dump = [
            (path.path, info.nar_hash, info.nar_size, [*map(str, info.references), path.path])
            for path, info in DEMO.paths.items()
        ]
        bodies = set()
        for seed in range(5):
            shuffled = random.Random(seed).sample(dump, len(dump))
            text = "".join(
                "\n".join(
                    [
                        path,
                        nar_hash,
                        str(size),
                        # The derivation that made it, which another machine may not have.
                        f"/nix/store/{'0' * 32}-{seed}.drv" if seed % 2 else "",
                        str(len(others)),
                        *random.Random(seed).sample(others, len(others)),
                        "",
                    ]
                )
                for path, nar_hash, size, others in shuffled
            )
            git = package("git", GIT, requested=(str(seed),), derivation=f"/nix/store/{seed}.drv")
            made = make_documents(parse_db_dump(text), evaluation(git), NOTHING)
            bodies.add((made[0].data, made[1].data))
        self.assertEqual(len(bodies), 1)

    def test_other_contents_have_another_identifier(self) -> None:
        """The serial number and the namespace change with the contents, and with nothing else."""
        git = package("git", GIT)
        texts = [
            documents(DEMO, each)
            for each in (git, git, evolve(git, licenses=spdx("MIT")), evolve(git, description="d"))
        ]
        for key, at in (("serialNumber", 0), ("documentNamespace", 1)):
            identifiers = [each[at][key] for each in texts]
            self.assertEqual(identifiers[0], identifiers[1])
            self.assertEqual(len(set(identifiers)), 3)

    @given(graph=graphs(), evaluated=evaluations(), data=st.data())
    @settings(deadline=None, max_examples=30)
    def test_whatever_the_closure_is(
        self, graph: RuntimeGraph, evaluated: Evaluation, data: st.DataObject
    ) -> None:
        """Documents are canonical JSON, and depend on no order."""
        paths = [path.path for path in graph.paths]
        if paths:
            chosen = st.builds(Output, name=st.just("out"), path=st.sampled_from(paths))
            evaluated = evolve(
                evaluated,
                packages=tuple(
                    evolve(each, outputs=(data.draw(chosen),)) for each in evaluated.packages
                ),
            )
        made = make_documents(graph, evaluated, NOTHING)
        for each in made:
            self.assertEqual(canonical_json(json.loads(each.data)), each.data)
        items = data.draw(st.permutations([*graph.paths.items()]))
        again = make_documents(RuntimeGraph(paths=dict(items)), evaluated, NOTHING)
        self.assertEqual(made, again)
        self.assertEqual(len(image_components(graph, evaluated)), len(graph))


class SplitNameTests(SynchronousTestCase):
    """Tests of what the name of a store path says."""

    def test_name_version_and_output(self) -> None:
        """They are split as Nix joins them, for the usual names of outputs."""
        for name, expected in (
            ("glibc-2.39-52", ("glibc", "2.39-52", "out")),
            ("glibc-2.39-52-bin", ("glibc", "2.39-52", "bin")),
            ("curl-8.5.0-dev", ("curl", "8.5.0", "dev")),
            ("nss-cacert-3.101", ("nss-cacert", "3.101", "out")),
            ("source", ("source", "", "out")),
            ("zlib-lib", ("zlib", "", "lib")),
            ("python3.11-six-1.16.0-dist", ("python3.11-six", "1.16.0", "dist")),
            ("hello-2.12-nightly", ("hello", "2.12-nightly", "out")),
            ("lib", ("lib", "", "out")),
            ("-1.0", ("-1.0", "", "out")),
        ):
            self.assertEqual(split_name(name), expected, name)


class ProvenanceTests(SynchronousTestCase):
    """Tests of the predicate of SLSA."""

    def encode(self, **fields: Any) -> Any:
        return json.loads(evolve(NOTHING, **fields).encode())

    def test_it_says_who_made_what_of_what(self) -> None:
        """Builder, name, sources, derivations, versions and origins are where SLSA has them."""
        commit = "0" * 40
        value = self.encode(
            sources=[
                Material(uri="git+https://git.example/set", digest={"gitCommit": commit}),
                Material(uri="file:///overlay"),
            ],
            derivations=["/nix/store/b.drv", "/nix/store/a.drv", "/nix/store/b.drv"],
            evaluation={"config": "{}"},
            graph=DEMO,
            origins=Origins(
                built=("/nix/store/b.drv",),
                substituted={GLIBC: "https://cache.example", "/nix/store/only-to-build": "x"},
            ),
        )
        self.assertEqual(
            value["buildDefinition"],
            {
                "buildType": "urn:x-nixery:image:v1",
                "externalParameters": {"image": "git", "system": "x86_64-linux"},
                "internalParameters": {
                    "evaluation": {"config": "{}"},
                    "storePaths": {
                        "closure": 7,
                        "built": ["/nix/store/b.drv"],
                        "substituted": {"https://cache.example": [GLIBC]},
                    },
                },
                "resolvedDependencies": [
                    {"uri": "git+https://git.example/set", "digest": {"gitCommit": commit}},
                    {"uri": "file:///overlay"},
                    {"name": "/nix/store/a.drv", "uri": "nix:/nix/store/a.drv"},
                    {"name": "/nix/store/b.drv", "uri": "nix:/nix/store/b.drv"},
                ],
            },
        )
        builder = value["runDetails"]["builder"]
        self.assertEqual(builder["id"], "https://registry.example")
        self.assertEqual(builder["version"]["nix"], "2.8.0")
        self.assertNotIn("metadata", value["runDetails"])

    def test_it_has_a_time_only_if_one_is_given(self) -> None:
        """The time is left out unless it is given."""
        value = self.encode(finished_on="2026-01-01T00:00:00Z")
        self.assertEqual(value["runDetails"]["metadata"], {"finishedOn": "2026-01-01T00:00:00Z"})

    def test_origins_that_are_not_known_are_not_told(self) -> None:
        """After a failed download it does not say where paths came from."""
        value = self.encode(origins=Origins(substituted=None, omitted_builds=3))
        paths = value["buildDefinition"]["internalParameters"]["storePaths"]
        self.assertEqual(paths, {"closure": 0, "built": [], "builtAndNotListed": 3})
