"""Parses and formats amounts of bytes as people write them."""

from __future__ import annotations

import re

from attrs import frozen

__all__ = ["FreeSpaceLimit", "parse_free_space_limit", "parse_size", "format_size"]

_UNITS = {"": 1, "B": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("KMGT", start=1)
    for suffix, base in (("", 1024), ("iB", 1024), ("B", 1000))
}

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([A-Za-z]{0,3})")


@frozen(kw_only=True)
class FreeSpaceLimit:
    """
    The amount of disk space that must stay free.

    :param amount: in bytes, or in percent of the disk.
    :param percent: true if ``amount`` is in percent.
    """

    amount: float
    percent: bool = False

    def of(self, size: int) -> int:
        """Return the limit in bytes, for a disk of ``size`` bytes."""
        return int(size * self.amount / 100) if self.percent else int(self.amount)


def parse_size(text: str) -> int:
    """
    Parse ``10 GiB``, ``10G`` (the same), ``10 GB`` (a little less), or a number of bytes.

    :raises ValueError: it is none of these.
    """
    found = _SIZE.fullmatch(text.strip())
    factor = None
    if found is not None:
        unit = found[2]
        factor = _UNITS.get(unit[:1].upper() + unit[1:].replace("ib", "iB").replace("b", "B"))
    if found is None or factor is None:
        raise ValueError(f"{text[:40]!r} is no size")
    return int(float(found[1]) * factor)


def parse_free_space_limit(text: str) -> FreeSpaceLimit:
    """
    Parse a size, or a share as ``5%``.

    :raises ValueError: it is neither.
    """
    text = text.strip()
    if not text.endswith("%"):
        return FreeSpaceLimit(amount=parse_size(text))
    amount = float(text.removesuffix("%"))
    if not 0 <= amount < 100:
        raise ValueError("a share is at least 0 % and less than 100 %")
    return FreeSpaceLimit(amount=amount, percent=True)


def format_size(size: float) -> str:
    """
    Format a number of bytes for people, in decimal units with three digits: ``1.23 MB``.

    Everything that people read uses these units, as registries and engines do; only the values
    of settings may be given in others (:func:`parse_size`).
    """
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    value = float(size)
    # A number that would be rounded to four digits is shown in the next unit.
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    if units[0] == "B":
        return f"{value:.0f} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {units[0]}"
