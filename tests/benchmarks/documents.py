"""
Measure what the documents about an image cost: bills of materials, provenance, signatures.

    python -m tests.benchmarks.documents [--rounds N] [--quick] [--json]

They are made of a generated closure of 1,000 store paths, and signed for both manifests of an
image. The processor's time counts: documents are made on one thread of the CPU pool. The size is
that of all blobs that are stored for them. Then the first pull of an image of the demo set is
measured with documents and a key that signs them, and without, by turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nixery.artifacts.attachment import NewAttachment, attach_document
from nixery.artifacts.bundle import attach_bundle
from nixery.artifacts.document import Document
from nixery.artifacts.image_documents import make_documents
from nixery.artifacts.provenance import Origins, Provenance
from nixery.artifacts.signing_key import SigningKey, load_signing_key
from nixery.artifacts.statement import SIGNATURE_PREDICATE, make_statement
from nixery.image.closure import RuntimeGraph, parse_db_dump
from nixery.image.declarations import License
from nixery.image.manifests import DOCKER_MANIFEST, OCI_MANIFEST, Manifest, digest_of
from nixery.image.packages import Evaluation, Output, Package
from tests.benchmarks.client import fetch
from tests.benchmarks.measure import Figure, Options, median_ratio, run, timed
from tests.benchmarks.peers import Daemon, manifest_request, settle
from tests.benchmarks.scale import generate_dump
from tests.end_to_end.package_sets import demo_set

__all__ = ["measure"]

PATHS = 1000

MAX_MILLISECONDS = 60.0


NAME = "shell/git/htop"

MAX_RATIO = 1.05


def measure(options: Options) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        key = Path(directory, "key.pem")
        key.write_bytes(
            generate_private_key(SECP256R1()).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
        )
        figures = _made(options, load_signing_key(key))
        return figures if options.quick else [*figures, *_pulled(options, key)]


def _made(options: Options, key: SigningKey) -> list[Figure]:
    graph = parse_db_dump(generate_dump(100 if options.quick else PATHS))
    evaluation = _evaluation(graph)
    manifests = [
        Manifest(media_type=kind, digest=digest_of(kind.encode()), body=kind.encode())
        for kind in (OCI_MANIFEST, DOCKER_MANIFEST)
    ]
    making: list[float] = []
    attaching: list[float] = []
    attached: list[NewAttachment] = []
    for _ in range(10 * options.rounds):
        begun = time.process_time()
        documents = make_documents(graph, evaluation, _provenance(graph, evaluation))
        making.append(time.process_time() - begun)
        begun = time.process_time()
        attached = [each for one in manifests for each in _attached(one, documents, key)]
        attaching.append(time.process_time() - begun)
    blobs = {data for each in attached for data, _ in each.blobs}
    return [
        Figure(name="made", value=1e3 * statistics.median(making), unit="ms"),
        Figure(name="attached and signed", value=1e3 * statistics.median(attaching), unit="ms"),
        Figure(
            name="together",
            value=1e3 * statistics.median(map(sum, zip(making, attaching, strict=True))),
            unit="ms",
            at_most=MAX_MILLISECONDS,
        ),
        Figure(name="stored", value=sum(map(len, blobs)) / 1e6, unit="MB"),
    ]


def _attached(
    manifest: Manifest, documents: tuple[Document, ...], key: SigningKey
) -> list[NewAttachment]:
    predicates = [
        (SIGNATURE_PREDICATE, b"{}"),
        *((each.predicate_type, each.data) for each in documents),
    ]
    return [
        *(attach_document(manifest, document) for document in documents),
        *(
            attach_bundle(manifest, kind, make_statement(manifest.digest, kind, predicate), key)
            for kind, predicate in predicates
        ),
    ]


class _Nothing:
    """Is written into the code that starts a daemon, which then makes no documents."""

    def __repr__(self) -> str:
        return "lambda **_: None"


def _pulled(options: Options, key: Path) -> list[Figure]:
    signed = ["--signing-key", str(key), "--public-url", "https://registry.example"]
    daemons = [
        Daemon(demo_set(), name="signed", options=signed),
        Daemon(
            demo_set(), name="bare", constants={"nixery.wiring.builds.DocumentMaker": _Nothing()}
        ),
    ]
    request = manifest_request(NAME, "latest")
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(-1, 5 * options.rounds):
        for daemon, each in zip(daemons, seconds, strict=True):
            daemon.start()
            settle(daemon.pid)
            taken = timed(partial(fetch, daemon.registry.port, request))
            # The first pull may build what is not built yet.
            if number >= 0:
                each.append(taken)
            daemon.stop()
            daemon.storage.rename(daemon.directory / f"storage{number}")
    return [
        Figure(name=f"{NAME}: cold manifest", value=1e3 * statistics.median(seconds[0]), unit="ms"),
        Figure(
            name=f"{NAME}: cold manifest, with documents and signatures / without",
            value=median_ratio(*seconds),
            unit="times",
            at_most=MAX_RATIO,
        ),
    ]


def _evaluation(graph: RuntimeGraph) -> Evaluation:
    """Eight packages that declare what a package of nixpkgs does."""
    return Evaluation(
        packages=tuple(
            Package(
                requested=(path.name,),
                attribute=path.name,
                name=path.name,
                pname=path.name,
                version="1.0",
                description="A package of a generated closure",
                priority=5,
                derivation=f"{path}.drv",
                outputs=(Output(name="out", path=path.path),),
                licenses=(License(text="GPL-3.0-or-later", is_spdx=True),),
                cpe="cpe:2.3:a:vendor:product:1.0:*:*:*:*:*:*:*",
            )
            for path in [*graph.paths][:8]
        ),
        missing_optional=(),
        system="x86_64-linux",
    )


def _provenance(graph: RuntimeGraph, evaluation: Evaluation) -> Provenance:
    return Provenance(
        builder="https://registry.example",
        image="shell/git/htop",
        system=evaluation.system,
        sources=(),
        derivations=[package.derivation for package in evaluation.packages],
        evaluation={},
        nix_version="2.24.0",
        graph=graph,
        origins=Origins(
            substituted=dict.fromkeys(map(str, graph.paths), "https://cache.nixos.org")
        ),
    )


if __name__ == "__main__":
    run({"documents": measure}, "tests.benchmarks.documents", sys.argv[1:])
