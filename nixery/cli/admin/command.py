"""
``nixery-admin``: lists, verifies, removes and prewarms the images that are stored.

All commands are safe beside a running daemon, and beside several: the storage itself coordinates
them. Only ``warm`` speaks to the daemon.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from attrs import asdict
from tqdm import tqdm
from twisted.internet.defer import Deferred

from nixery.cli.admin.prewarm import HttpPullClient, Warmed, address_of, warm
from nixery.cli.admin.report import as_data, details, table
from nixery.cli.admin.verify import verify
from nixery.cli.errors import AdminRefused
from nixery.config.config import Config, load_config
from nixery.config.errors import ConfigError
from nixery.errors import NixeryError
from nixery.image.names import Tag, parse_digest, parse_image_name, parse_tag
from nixery.pulls.images import tag_record_key
from nixery.runtime.reactor_time import run_reactor
from nixery.runtime.sizes import parse_size
from nixery.runtime.tls.endpoint_strings import PLAIN
from nixery.storage.filesystem.garbage_collector import collect, purge, run_blocking, survey
from nixery.storage.filesystem.gc_policy import Policy
from nixery.storage.filesystem.scan import TIMESTAMP_RESOLUTION_SECONDS, Inventory, StoredImage

__all__ = ["admin"]

FAILURE = 1
USAGE = 2
INTERRUPTED = 130

MAX_VERIFY_ATTEMPTS = 3
"""Number of times that an image is checked again that is being made or pulled."""

BUCKET = (
    "images are in the bucket {bucket}, where this command does not reach: what it should forget"
    " is told by a lifecycle rule of the bucket, and the registry makes again what it then finds"
    " missing. The documentation has such a rule"
)


def admin(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command; ends the process.

    Exits with 0; with 1 and a message if something is wrong or could not be done; with 2
    if it was called wrongly.
    """
    options = _parser().parse_args(arguments)
    # Ends a collection between two steps, with its locks and files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        config = load_config(
            {"config": options.config, "storage_path": options.storage_path}, os.environ
        )
        if options.command != "warm" and config.storage_backend != "filesystem":
            raise AdminRefused(reason=BUCKET.format(bucket=config.gcs_bucket))
        status = options.run(config, options)
    except ConfigError as error:
        _complain(error)
        sys.exit(USAGE)
    except NixeryError as error:
        _complain(error)
        sys.exit(FAILURE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has closed the pipe; the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILURE)
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", help="the configuration file (default: $NIXERY_CONFIG)")
    common.add_argument("--storage-path", help="the directory of the storage")
    common.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(
        prog="nixery-admin", description="Takes care of the images that a registry has stored."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name, parents=[common], help=text, description=text
        )
        made.set_defaults(run=run)
        return made

    gc = command("gc", _gc, "Remove what the limits do not keep, and what nothing names.")
    gc.add_argument("--max-bytes", type=_size, help="instead of the setting: 200GiB")
    gc.add_argument("--max-age", type=_seconds, help="instead of the setting, in seconds")
    gc.add_argument("--grace", type=_seconds, help="instead of retention_grace, in seconds")
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")

    check = command("verify", _verify, "Hash everything, and look for what is missing.")
    check.add_argument(
        "--repair",
        action="store_true",
        help="move what is damaged aside, so that the next pull makes it again",
    )
    check.add_argument("--jobs", type=_count, default=4, help="files hashed at once")

    command("list", _list, "List the images, with their sizes and when they were pulled last.")

    look = command("inspect", _inspect, "Show all that is known of an image.")
    look.add_argument("image", metavar="IMAGE", help="a name, NAME:TAG, or a digest")

    drop = command("purge", _purge, "Remove images now; the next pull makes them again.")
    drop.add_argument("images", metavar="IMAGE", nargs="+", help="a name, NAME:TAG, or a digest")
    drop.add_argument("--dry-run", action="store_true", help="only say what would be removed")

    ahead = command("warm", _warm, "Have a running registry make images ahead of their use.")
    ahead.add_argument("images", metavar="IMAGE", nargs="*", help="a name, or NAME:TAG")
    ahead.add_argument("--from", dest="file", help="a file with an image a line; - is stdin")
    ahead.add_argument("--url", help="of the registry (default: as it is configured)")
    ahead.add_argument("--user", help="for a registry that asks who you are")
    ahead.add_argument("--password-file", help="the file with that user's password")
    ahead.add_argument("--jobs", type=_count, default=4, help="how many at once")
    ahead.add_argument(
        "--timeout", type=_seconds, default=14400.0, help="seconds that one image may take"
    )
    return parser


# -- the commands -----------------------------------------------------------------------


def _gc(config: Config, options: argparse.Namespace) -> int:
    def chosen(given: Any, configured: Any) -> Any:
        return configured if given is None else given

    policy = Policy(
        max_bytes=chosen(options.max_bytes, config.max_storage_size),
        max_age=chosen(options.max_age, config.max_image_age),
        grace=chosen(options.grace, config.retention_grace),
        dry_run=options.dry_run,
    )
    done = run_blocking(collect(str(_root(config)), policy))
    _print(options, asdict(done), done.describe())
    return 0


def _verify(config: Config, options: argparse.Namespace) -> int:
    inventory = _survey(config)
    lock = Lock()
    with tqdm(
        total=inventory.total,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as bar:

        def progress(size: int) -> None:
            with lock:
                bar.update(size)

        done = verify(
            str(_root(config)), repair=options.repair, threads=options.jobs, progress=progress
        )
    lines = [f"{each.kind}: {each.what}: {each.detail}" for each in done.findings]
    end = f"{done.blobs} blobs, {done.size / 2**20:.1f} MiB: "
    end += f"{len(done.findings)} things are wrong" if done.findings else "all is well"
    if options.repair:
        end += f"; {done.repaired} were put out of the way, and are made again when needed"
    _print(options, asdict(done), "\n".join([*lines, end]))
    return FAILURE if done.findings else 0


def _list(config: Config, options: argparse.Namespace) -> int:
    inventory = _survey(config)
    units = inventory.units()
    _print(options, as_data(inventory, units), table(inventory, units))
    return 0


def _inspect(config: Config, options: argparse.Namespace) -> int:
    inventory = _survey(config)
    found = [details(inventory, unit) for unit in _find(inventory, options.image, config.system)]
    text = json.dumps(found, indent=2)
    _print(options, found, text)
    return 0


def _purge(config: Config, options: argparse.Namespace) -> int:
    inventory, chosen = _choose(config, options.images)
    for _ in range(MAX_VERIFY_ATTEMPTS):
        parts = {digest for unit in chosen for digest in unit.needs}
        if not any(inventory.files[each].fresh for each in parts & inventory.files.keys()):
            break
        # Recently built: one second later it is known whether the image is in use.
        time.sleep(TIMESTAMP_RESOLUTION_SECONDS)
        inventory, chosen = _choose(config, options.images)
    done = run_blocking(purge(str(_root(config)), chosen, inventory, dry_run=options.dry_run))
    _print(options, asdict(done), done.describe())
    return FAILURE if done.images < len(chosen) else 0


def _choose(config: Config, images: Sequence[str]) -> tuple[Inventory, Sequence[StoredImage]]:
    """:raises AdminRefused: one of the images is not stored."""
    inventory = _survey(config)
    found = [unit for image in images for unit in _find(inventory, image, config.system)]
    return inventory, list({unit.manifests: unit for unit in found}.values())


def _warm(config: Config, options: argparse.Namespace) -> int:
    images = [*options.images, *_listed(options.file)]
    listen = [
        text.removeprefix(PLAIN)
        for text in config.listen
        # A certificate is valid for the name in the public URL.
        if config.tls_certificate is None or text.startswith(PLAIN)
    ]
    base = options.url or address_of(listen, config.public_url)
    if not images:
        raise AdminRefused(reason="there is nothing to make: name images, or give --from FILE")
    if base is None:
        raise AdminRefused(reason="where the registry is reached is not configured: give --url")
    for image in images:
        # Checked before anything is built, not after hours.
        name, _, tag = image.partition(":")
        parse_image_name(name.strip("/"), config.system)
        parse_tag(tag or "latest")
    auth = None
    if options.user is not None:
        auth = options.user, _password(options.password_file)
    results: list[Warmed] = []

    def main(reactor: Any) -> Deferred[None]:  # the global reactor has no type
        return Deferred.fromCoroutine(work(reactor))

    async def work(reactor: Any) -> None:
        quiet = not sys.stderr.isatty()
        with tqdm(total=len(set(images)), unit="image", leave=False, disable=quiet) as bar:

            def told(warmed: Warmed) -> None:
                line = f"{warmed.image}: {warmed.digest or warmed.error}"
                tqdm.write(line, file=sys.stderr)
                bar.update()

            results.extend(
                await warm(
                    images,
                    ask=HttpPullClient(base, auth),
                    clock=reactor,
                    jobs=options.jobs,
                    deadline=options.timeout,
                    told=told,
                )
            )

    try:
        run_reactor(main)
    except SystemExit as end:
        # The command has ended; its errors were reported already.
        if end.code:
            raise
    failed = [each for each in results if each.error]
    _print(
        options,
        [asdict(each) for each in results],
        f"{len(results) - len(failed)} of {len(results)} images are ready",
    )
    return FAILURE if failed or not results else 0


# -- common to the commands -------------------------------------------------------------


def _root(config: Config) -> Path:
    """:raises AdminRefused: there is no storage."""
    root = config.storage_path
    if not (root / "blobs" / "sha256").is_dir():
        raise AdminRefused(
            reason=f"there is no storage in {root}: give --storage-path, or --config"
        )
    return root


def _survey(config: Config) -> Inventory:
    inventory = Inventory(root=str(_root(config)))
    run_blocking(survey(inventory))
    return inventory


def _find(inventory: Inventory, image: str, system: str) -> list[StoredImage]:
    """
    Return the images that an argument means.

    :raises AdminRefused: there is no such image.
    """
    units = inventory.units()
    if "@" in image or image.startswith("sha256:"):
        digest = parse_digest(image.rpartition("@")[2])
        found = [unit for unit in units if digest in unit.manifests]
    else:
        text, _, tag = image.partition(":")
        name = parse_image_name(text.strip("/"), system)
        place = tag_record_key(name, Tag(parse_tag(tag) if tag else "latest"))
        prefix = place if tag else place.rpartition("/")[0] + "/"
        keys = {
            key
            for each, key in inventory.served.items()
            if each == place or (not tag and each.startswith(prefix))
        }
        found = [unit for unit in units if keys.intersection(unit.keys)]
    if not found:
        raise AdminRefused(reason=f"{image} is not stored: nixery-admin list shows what is")
    return found


def _listed(path: str | None) -> list[str]:
    """:raises AdminRefused: the file cannot be read."""
    if path is None:
        return []
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AdminRefused(reason=f"{path} cannot be read: {error}") from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _password(path: str | None) -> str:
    if path is None:
        raise AdminRefused(reason="give the password of --user with --password-file")
    try:
        return Path(path).read_text("utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AdminRefused(reason=f"{path} cannot be read: {error}") from error


def _print(options: argparse.Namespace, data: object, text: str) -> None:
    sys.stdout.write((json.dumps(data, indent=2) if options.json else text) + "\n")
    sys.stdout.flush()


def _complain(error: NixeryError) -> None:
    sys.stderr.write(f"nixery-admin: {error.message}\n")


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: give one as 200GiB") from None


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("give a number of seconds, 0 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 256:
        raise argparse.ArgumentTypeError("give a number between 1 and 256")
    return value
