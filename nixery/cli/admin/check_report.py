"""Describe the result of a check of the package source, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from nixery.sources.source import Revision

__all__ = ["CheckReport", "CheckStep", "FetchedTree"]


@frozen(kw_only=True)
class CheckStep:
    """
    A step of a check.

    :param seconds: the time that it took.
    :param result: what came out, for people; empty if the step failed.
    """

    name: str
    seconds: float
    result: str = ""


@frozen(kw_only=True)
class FetchedTree:
    """
    A tree that is in the Nix store now.

    :param url: its repository, or its archive.
    :param commit: the commit, or the hash of an archive that is pinned by one.
    :param path: its store path.
    """

    url: str
    commit: str
    path: Path


@frozen(kw_only=True)
class CheckReport:
    """
    The result of a check of the package source.

    :param source: a description of the source.
    :param steps: those that were begun, in order.
    :param revision: what the tag means at the moment; ``None`` if that is not known.
    :param pins: store paths that the evaluation has fetched, by what the package set pins.
    :param packages: attribute paths and names of the packages that were evaluated.
    :param package_count: the number of packages of the whole set, if they were counted.
    :param unpinned: what may change while the revision stays the same, with what to do.
    :param warnings: what the daemon would warn of in its log.
    :param problem: why the last step failed, with what to do; ``None`` if all is well.
    """

    source: str
    tag: str
    system: str
    steps: Sequence[CheckStep] = ()
    revision: Revision | None = None
    fetched: Sequence[FetchedTree] = ()
    pins: Sequence[str] = ()
    packages: Sequence[tuple[str, str]] = ()
    package_count: int | None = None
    unpinned: Sequence[str] = ()
    warnings: Sequence[str] = ()
    problem: str | None = None

    def to_plain_data(self) -> dict[str, object]:
        """Return the report as plain data, for JSON."""
        revision = None
        if self.revision is not None:
            revision = {
                "label": self.revision.label,
                "identity": dict(self.revision.identity),
                "pinned": self.revision.pinned,
            }
        return {
            "ok": self.problem is None,
            "source": self.source,
            "tag": self.tag,
            "system": self.system,
            "revision": revision,
            "steps": [
                {"step": each.name, "seconds": round(each.seconds, 3), "result": each.result}
                for each in self.steps
            ],
            "fetched": [
                {"url": each.url, "commit": each.commit, "path": str(each.path)}
                for each in self.fetched
            ],
            "pins": list(self.pins),
            "packages": [
                {"attribute": attribute, "name": name} for attribute, name in self.packages
            ],
            "package_count": self.package_count,
            "unpinned": list(self.unpinned),
            "warnings": list(self.warnings),
            "problem": self.problem,
        }

    def describe(self) -> str:
        """Return the report as lines of text, for people."""
        lines = [f"{self.source}, tag {self.tag}, for {self.system}"]
        lines += [
            f"  {each.name:<9}{each.seconds:>7.1f} s  {each.result}".rstrip() for each in self.steps
        ]
        lines += [
            f"fetched: {each.commit} of {each.url}" if each.commit else f"fetched: {each.url}"
            for each in self.fetched
        ]
        lines += [f"fetched by the evaluation: {each}" for each in self.pins]
        lines += [f"not pinned: {each}" for each in self.unpinned]
        lines += [f"warning: {each}" for each in self.warnings]
        if self.problem is None:
            lines.append("all is well")
        else:
            lines.append(f"{self.steps[-1].name} failed: {self.problem}")
        return "\n".join(lines)
