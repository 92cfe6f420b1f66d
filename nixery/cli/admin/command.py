"""
``nixery-admin``: lists, verifies, removes and prewarms the images that are stored.

All commands are safe beside a running daemon, and beside several: the storage itself coordinates
them. Only ``estimate`` and ``warm`` speak to the daemon; ``check`` does its work without it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred

from nixery.artifacts.keys import KeyRing, load_keys
from nixery.cli.admin.arguments import read_image_list
from nixery.cli.admin.estimate import describe_estimate, estimate_path, fetch_estimate
from nixery.cli.admin.parser import make_parser
from nixery.cli.admin.prewarm import HttpPullClient, PrewarmResult, prewarm
from nixery.cli.admin.registry_client import make_client
from nixery.cli.admin.report import describe_image, format_table, to_plain_data
from nixery.cli.admin.sign import sign
from nixery.cli.admin.stored import find_images, named_images, with_platforms
from nixery.cli.admin.verify import verify
from nixery.cli.common import FAILURE, Command
from nixery.cli.console import print_note
from nixery.cli.errors import CommandRefused, WrongCall
from nixery.cli.progress_bar import progress_bar
from nixery.config.config import Config
from nixery.errors import NixeryError
from nixery.image.names import (
    parse_image_name,
    parse_single_image_name,
    parse_tag,
)
from nixery.runtime.reactor_time import run_reactor_and_return
from nixery.runtime.sizes import format_size
from nixery.storage.filesystem.garbage_collector import collect, purge, run_blocking, scan
from nixery.storage.filesystem.gc_policy import GRACE_SECONDS, Policy
from nixery.storage.filesystem.scan import TIMESTAMP_RESOLUTION_SECONDS, Inventory, StoredImage

__all__ = ["admin"]

_COMMAND = Command(name="nixery-admin")

MAX_VERIFY_ATTEMPTS = 3
"""Number of times that an image is checked again that is being made or pulled."""

BUCKET_MESSAGE = (
    "images are in the bucket {bucket}, which this command does not manage: use a lifecycle rule of"
    " the bucket to delete images (the documentation has one); the registry builds again what is"
    " missing"
)


def admin(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command; ends the process.

    See :meth:`nixery.cli.common.Command.main` for its exit status.
    """
    options = make_parser().parse_args(arguments)
    # Ends a collection between two steps, with its locks and files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    def run() -> int:
        given = {"config": options.config, "storage_path": options.storage_path}
        config = _COMMAND.load_config(given, os.environ)
        if (
            options.command not in ("check", "estimate", "warm")
            and config.storage.storage_backend != "filesystem"
        ):
            raise CommandRefused(reason=BUCKET_MESSAGE.format(bucket=config.gcs.gcs_bucket))
        return _COMMANDS[options.command](config, options)

    _COMMAND.main(run)


# -- the commands -----------------------------------------------------------------------


def _gc(config: Config, options: argparse.Namespace) -> int:
    def default(override: Any, configured: Any) -> Any:
        return configured if override is None else override

    policy = Policy(
        max_bytes=default(options.max_storage_size, config.retention.max_storage_size),
        max_age=default(options.max_image_age, config.retention.max_image_age),
        grace=default(options.grace, GRACE_SECONDS),
        dry_run=options.dry_run,
    )
    with progress_bar("collecting") as bar:
        collection = collect(str(_storage_root(config)), policy)
        report = run_blocking(collection, lambda: bar.update(0, None))
    _print(options, asdict(report), report.describe())
    return 0


def _verify(config: Config, options: argparse.Namespace) -> int:
    inventory = _scan(config)
    lock, done = Lock(), 0
    with progress_bar("verifying", unit="B") as bar:

        def progress(size: int) -> None:
            nonlocal done
            with lock:
                done += size
                bar.update(done, inventory.total)

        verification = verify(
            str(_storage_root(config)),
            repair=options.repair,
            threads=options.jobs,
            progress=progress,
            keys=_keys(config).verifying if config.signing.signing_key is not None else (),
        )
    lines = [f"{each.kind}: {each.what}: {each.detail}" for each in verification.findings]
    summary = f"{verification.blobs} blobs, {format_size(verification.size)}: "
    summary += (
        f"{len(verification.findings)} things are wrong" if verification.findings else "all is well"
    )
    if options.repair:
        summary += f"; {verification.repaired} were moved aside, and are built again when needed"
    _print(options, asdict(verification), "\n".join([*lines, summary]))
    return FAILURE if verification.findings else 0


def _list(config: Config, options: argparse.Namespace) -> int:
    inventory = _scan(config)
    images = named_images(inventory)
    _print(options, to_plain_data(inventory, images), format_table(inventory, images))
    return 0


def _inspect(config: Config, options: argparse.Namespace) -> int:
    inventory = _scan(config)
    found = [
        describe_image(inventory, stored)
        for stored in find_images(inventory, options.image, config.sources)
    ]
    text = json.dumps(found, indent=2)
    _print(options, found, text)
    return 0


def _purge(config: Config, options: argparse.Namespace) -> int:
    inventory, found = _find_all(config, options.images)
    chosen = with_platforms(inventory, found)
    for _ in range(MAX_VERIFY_ATTEMPTS):
        digests = {digest for stored in chosen for digest in stored.needs}
        if not any(inventory.files[each].fresh for each in digests & inventory.files.keys()):
            break
        # Recently built: one second later it is known whether the image is in use.
        time.sleep(TIMESTAMP_RESOLUTION_SECONDS)
        inventory, found = _find_all(config, options.images)
        chosen = with_platforms(inventory, found)
    with progress_bar("deleting") as bar:
        removal = purge(str(_storage_root(config)), chosen, inventory, dry_run=options.dry_run)
        report = run_blocking(removal, lambda: bar.update(0, None))
    _print(options, asdict(report), report.describe())
    return FAILURE if report.images < len(chosen) else 0


def _sign(config: Config, options: argparse.Namespace) -> int:
    keys = _keys(config)
    chosen: Sequence[StoredImage]
    if options.images:
        inventory, chosen = _find_all(config, options.images)
    else:
        inventory = _scan(config)
        chosen = named_images(inventory)
    host = config.http.public_host
    with progress_bar("signing") as bar:
        signed = sign(
            inventory,
            chosen,
            keys,
            host,
            config.sources.system,
            on_signed=lambda: bar.advance(len(chosen)),
        )
    lines = [
        f"{each.image}: {f'{each.added} signatures added' if each.added else 'signed before'}"
        for each in signed
    ]
    _print(options, [asdict(each) for each in signed], "\n".join(lines) or "nothing to sign")
    return 0


def _sbom(config: Config, options: argparse.Namespace) -> int:
    # It takes half of the time in which the others are done.
    from nixery.cli.admin.sbom import describe_contents  # noqa: PLC0415

    inventory, chosen = _find_all(config, options.images)
    described = describe_contents(config, inventory, chosen, os.environ)
    lines = [
        f"{each.image}: {each.problem or ('made' if each.added else 'there already')}"
        for each in described
    ]
    _print(options, [asdict(each) for each in described], "\n".join(lines))
    return FAILURE if any(each.problem for each in described) else 0


def _find_all(config: Config, images: Sequence[str]) -> tuple[Inventory, Sequence[StoredImage]]:
    """:raises CommandRefused: one of the images is not stored."""
    inventory = _scan(config)
    found = [stored for image in images for stored in find_images(inventory, image, config.sources)]
    return inventory, list({stored.manifests: stored for stored in found}.values())


def _prewarm(config: Config, options: argparse.Namespace) -> int:
    images = [*options.images, *read_image_list(options.file)]
    if not images:
        raise WrongCall(reason="no images given: name some, or give --from FILE")
    for image in images:
        # Checked before anything is built, not after hours.
        name, _, tag = image.partition(":")
        parse_image_name(name.strip("/"), config.sources.system)
        parse_tag(tag or "latest")
    client = HttpPullClient(make_client(config, options))
    results: list[PrewarmResult] = []

    def main(reactor: Any) -> Deferred[None]:  # the global reactor has no type
        return Deferred.fromCoroutine(prewarm_images(reactor))

    async def prewarm_images(reactor: Any) -> None:
        with progress_bar("warming") as bar:
            bar.update(0, len(set(images)))

            def on_result(warmed: PrewarmResult) -> None:
                print_note(f"{warmed.image}: {warmed.digest or warmed.error}")
                bar.advance(len(set(images)))

            results.extend(
                await prewarm(
                    images,
                    client=client,
                    clock=reactor,
                    jobs=options.jobs,
                    deadline=options.timeout,
                    on_result=on_result,
                )
            )

    run_reactor_and_return(main)
    failed = [each for each in results if each.error]
    _print(
        options,
        [asdict(each) for each in results],
        f"{len(results) - len(failed)} of {len(results)} images are ready",
    )
    return FAILURE if failed or not results else 0


def _check(config: Config, options: argparse.Namespace) -> int:
    # It takes half of the time in which the others are done.
    from nixery.cli.admin.check import check_source, without_packages  # noqa: PLC0415

    tag = parse_tag(options.tag)
    name = without_packages(config.sources.system)
    if options.names:
        name = parse_single_image_name("/".join(options.names), config.sources.system)
    report = check_source(config, name, tag, os.environ, count=not options.no_count)
    _print(options, report.to_plain_data(), report.describe())
    return 0 if report.problem is None else FAILURE


def _estimate(config: Config, options: argparse.Namespace) -> int:
    path = estimate_path(options.image, options.having, config.sources.system)
    client = make_client(config, options)
    found: list[Mapping[str, Any]] = []

    failures: list[NixeryError] = []

    async def ask() -> None:
        try:
            found.append(await fetch_estimate(client, path, options.timeout))
        except NixeryError as error:
            # The reactor's runner would print it as a fault of the program.
            failures.append(error)

    run_reactor_and_return(lambda _reactor: Deferred.fromCoroutine(ask()))
    for error in failures:
        raise error
    for estimate in found:
        _print(options, estimate, describe_estimate(estimate))
    return 0 if found else FAILURE


_COMMANDS: Mapping[str, Callable[[Config, argparse.Namespace], int]] = {
    "check": _check,
    "estimate": _estimate,
    "gc": _gc,
    "inspect": _inspect,
    "list": _list,
    "purge": _purge,
    "sbom": _sbom,
    "sign": _sign,
    "verify": _verify,
    "warm": _prewarm,
}
"""Run the commands; each returns the exit status."""


# -- common to the commands -------------------------------------------------------------


def _keys(config: Config) -> KeyRing:
    """
    :raises CommandRefused: no key is configured.
    :raises SigningKeyUnusable: one cannot be read.
    """
    if config.signing.signing_key is None:
        raise CommandRefused(reason="no key is configured: name one in signing_key")
    return load_keys(config.signing.signing_key, config.signing.signing_key_previous)


def _storage_root(config: Config) -> Path:
    """:raises CommandRefused: there is no storage."""
    root = config.storage.storage_path
    if not (root / "blobs" / "sha256").is_dir():
        raise CommandRefused(
            reason=f"there is no storage in {root}: give --storage-path, or --config"
        )
    return root


def _scan(config: Config) -> Inventory:
    inventory = Inventory(root=str(_storage_root(config)))
    run_blocking(scan(inventory))
    return inventory


def _print(options: argparse.Namespace, data: object, text: str) -> None:
    sys.stdout.write((json.dumps(data, indent=2) if options.json else text) + "\n")
    sys.stdout.flush()
