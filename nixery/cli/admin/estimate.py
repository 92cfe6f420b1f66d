"""
Asks a running registry for the price of an image, and prints it.

The registry answers, and not this command itself: the price is that of a pull from it, with its
revision, its storage, its Nix and its users, and its evaluators have the package set in memory.
Computed here, it would take a second evaluation, as another user, of a revision that may differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from nixery.cli.admin.prewarm import split_image
from nixery.cli.admin.registry_client import LOGIN_ADVICE, RegistryClient
from nixery.cli.errors import CommandRefused
from nixery.image.names import parse_image_name, parse_tag
from nixery.runtime.sizes import format_size
from nixery.runtime.terminal import plain_text

__all__ = ["describe_estimate", "estimate_path", "fetch_estimate"]

Json = Mapping[str, Any]
"""A JSON object of the registry's, as its OpenAPI document describes it."""

_ABOUT = {"exact": "", "estimate": "about ", "lower_bound": "at least about "}


def estimate_path(image: str, having: str | None, system: str) -> str:
    """
    Return the path that an estimate is at.

    :param image: a name, perhaps with a tag.
    :param having: the image that the client has; ``None``: it has none.
    :param system: the Nix system of images whose names choose none.
    :raises InvalidName: the name is outside the grammar.
    :raises InvalidReference: the tag is outside the grammar.
    """
    name, tag = split_image(image)
    parse_image_name(name, system)
    parse_tag(tag)
    query = {"tag": tag} if having is None else {"tag": tag, "with": having}
    return f"/api/estimate/{quote(name)}?{urlencode(query)}"


async def fetch_estimate(client: RegistryClient, path: str, timeout: float) -> Json:
    """
    Fetch an estimate.

    :param timeout: seconds to wait for it: a new revision is downloaded first.
    :raises CommandRefused: the registry gave none; the message says why.
    :raises FetchFailed: there was no answer.
    """
    response = await client.get(path, "application/json", timeout=timeout)
    try:
        found = json.loads(response.body)
        problem = found["error"]
    except (ValueError, KeyError, TypeError):
        advice = {
            401: LOGIN_ADVICE,
            404: f" ({client.base} has no estimates: its web_ui is off, or it is an older version)",
        }
        text = response.body[:200].decode("utf-8", "replace").strip()
        message = f"{response.status}: {plain_text(text)}{advice.get(response.status, '')}"
        raise CommandRefused(reason=message) from None
    if problem is not None:
        retry = response.headers.get("retry-after")
        later = f" (try again in {retry} s)" if retry else ""
        raise CommandRefused(reason=plain_text(f"{response.status}: {problem}{later}"))
    estimate: Json = found
    return estimate


def describe_estimate(estimate: Json) -> str:
    """Format an estimate for people."""
    lines = [f"{estimate['image']}:{estimate['tag']}, {estimate['revision']}"]
    for platform in estimate["platforms"]:
        lines += [
            f"{platform['platform']}: {_state(platform)}",
            *(f"  {title:<12}{text}" for title, text in _rows(platform, estimate["with"])),
        ]
    return plain_text("\n".join(lines))


def _state(platform: Json) -> str:
    if platform["missing"]:
        return f"missing: {platform['missing']}"
    return f"ready, {platform['digest']}" if platform["ready"] else "to be built"


def _rows(platform: Json, having: str | None) -> list[tuple[str, str]]:
    if platform["missing"]:
        return []
    rows = _work(platform["store"]) if platform["store"] else []
    rows.append(("pull", _size(platform["pull"])))
    if having is not None:
        shared = platform["shared"]
        known = "unknown" if shared is None else _size(shared)
        rows.append(("of these", f"{known} in {having}"))
    partial = platform["partial_pull"]
    if partial:
        rows.append(("partial", f"{format_size(partial['size'])} for clients of partial pulls"))
    return rows


def _work(store: Json) -> list[tuple[str, str]]:
    """Return the rows of the work that Nix has to do."""
    caches = ", ".join(store["unreachable"])
    if not store["known"]:
        reason = "Nix gave no usable answer, the registry's log has it"
        if caches:
            reason = f"no answer from {caches}"
        return [("Nix", f"unknown: {reason}")]
    if store["all_valid"]:
        return [("Nix", f"nothing to do, all {_count(store['valid_paths'], 'store path')} exist")]
    fetched, built = store["fetched"], store["built"]
    rows = [("exist", f"at least {_count(store['valid_paths'], 'store path')}")]
    if fetched["paths"]:
        sizes = (
            f"{format_size(fetched['download_size'])} to download,"
            f" {format_size(fetched['unpacked_size'])} unpacked"
        )
        paths = _count(fetched["paths"], "store path")
        rows.append(("download", f"{paths}, {sizes}: {_names(fetched['names'], fetched['paths'])}"))
    if built["derivations"]:
        names = _names(built["names"], built["derivations"])
        rows.append(("build", f"{_count(built['derivations'], 'derivation')}: {names}"))
    if store["unavailable"]:
        rows.append(("fail", f"not available: {', '.join(store['unavailable'])}"))
    if caches:
        rows.append(("caches", f"no answer from {caches}: what they have is counted as built"))
    return rows


def _size(size: Json) -> str:
    if size["size"] is None:
        return "unknown until it is built"
    layers = "" if size["layers"] is None else f"{_count(size['layers'], 'layer')}, "
    return f"{layers}{_ABOUT.get(size['accuracy'], '')}{format_size(size['size'])}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _names(names: Sequence[str], count: int) -> str:
    more = count - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
