"""
Resolves Debian packages into the units that the demo package set is built of.

A *unit* becomes one derivation: a Debian package, or several that only work in one directory
(Python looks for its library beside its program). ``nix/demo/packages.json`` lists the Debian
packages of each unit; the libraries that they need are found here, by following ``Depends``, and
each becomes a unit of its own, so that images share them.

Debian's dependencies include much that an image does not need: documentation, configuration tools,
the essential packages. The archive's own ``Section`` decides which dependencies are followed:
shared libraries (``libs``), and modules of the same language (``python3-*``, ``lib*-perl``).
Everything else is listed in ``packages.json`` by name. A library that this rule misses does not go
unnoticed: the build of a unit refuses programs whose libraries it cannot find.

A program may load a library only when the feature that needs it is used (the fonts of a Java
runtime); some packages name such libraries under ``Recommends``. Recommended shared libraries are
followed too: a unit's build takes those that its files link to, and the image never sees the
others.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from attrs import evolve, frozen

from demoset.debian import Record
from demoset.errors import DemoFailed

__all__ = ["Lookup", "Recipe", "Recipes", "Unit", "parse_recipes", "resolve"]

_SHARED_LIBRARY = re.compile(r"lib.*\d[a-z]?(t64)?")
"""
Matches names of packages of shared libraries: by Debian's policy (8.1) they end in the version of
the library's soname, ``libcups2t64``. Plugins, data and tools of a library are in the section
``libs`` as well, and have other names: ``libglib2.0-data``.
"""


@frozen(kw_only=True)
class Recipe:
    """
    The entry of one unit in ``packages.json``.

    :param debs: names of Debian packages; alternatives (``7zip-standalone | 7zip``),
        of which the first one that the archive has is taken; and patterns
        (``libperl*``) for names that change with Debian's release: those are looked
        for among the dependencies of the others.
    :param needs: units, Debian packages, and patterns for names among the dependencies:
        dependencies of the unit other than libraries.
    :param main: the Debian package, or pattern, that the unit's version and
        description are taken from; by default the first one.
    :param leaf: true if the unit needs nothing, even if its packages have dependencies.
    """

    debs: tuple[str, ...]
    needs: tuple[str, ...] = ()
    main: str | None = None
    leaf: bool = False


@frozen(kw_only=True)
class Recipes:
    """The contents of ``packages.json``; ``ignore`` lists patterns of names never followed."""

    units: Mapping[str, Recipe]
    ignore: tuple[str, ...] = ()


@frozen(kw_only=True)
class Unit:
    """
    One derivation of the set.

    :param main: the Debian package whose version and description it has.
    :param debs: all of its Debian packages, sorted by name.
    :param depends: names of units, sorted; free of cycles over all units.
    """

    name: str
    main: Record
    debs: tuple[Record, ...]
    depends: tuple[str, ...] = ()


Lookup = Callable[[str], Record | None]
"""Returns the record of a package; ``None`` if the archive has none of that name."""


def resolve(recipes: Recipes, lookup: Lookup) -> dict[str, Unit]:
    """
    Resolve all recipes into units, and the libraries they need into more units.

    :param lookup: looks packages up in the archive.
    :return: the units by name, in the order of names.
    :raises DemoFailed: the archive does not have a package that a recipe names.
    """
    lookup = functools.cache(lookup)
    units = {
        name: _assemble(name, recipe, lookup) for name, recipe in sorted(recipes.units.items())
    }
    owners = {deb.name: unit.name for unit in units.values() for deb in unit.debs}
    recommended: dict[str, set[str]] = {}
    fresh = list(units.values())
    while fresh:
        found: dict[str, Unit] = {}
        for unit in fresh:
            wanted = _wanted(unit, recipes, lookup, owners)
            libraries = _recommended(unit, recipes, lookup, owners)
            for deb in (*wanted, *libraries):
                if deb.name not in owners:
                    owners[deb.name] = deb.name
                    found[deb.name] = Unit(name=deb.name, main=deb, debs=(deb,))
            names = {owners[deb.name] for deb in wanted} | _needed_units(unit, recipes)
            units[unit.name] = evolve(unit, depends=tuple(sorted(names - {unit.name})))
            recommended[unit.name] = {owners[deb.name] for deb in libraries}
        units |= found
        fresh = list(found.values())
    return _with_recommended(_without_cycles(units), recommended)


def _assemble(name: str, recipe: Recipe, lookup: Lookup) -> Unit:
    """Return the Debian packages of a recipe, patterns resolved."""
    exact = [_available(name, deb, lookup) for deb in recipe.debs if not _is_pattern(deb)]
    patterns = [deb for deb in recipe.debs if _is_pattern(deb)]
    taken: dict[str, Record] = {}
    queue = list(exact)
    while queue:
        deb = queue.pop(0)
        record = lookup(deb)
        if record is not None and deb not in taken:
            taken[deb] = record
            queue += [
                other
                for other in _names(record)
                if other not in taken and _matches(other, patterns)
            ]
    wanted = recipe.main or exact[0]
    # Of several versions in one archive, the one that sorts last.
    mains = sorted(deb for deb in taken if fnmatchcase(deb, wanted))
    if not mains:
        raise DemoFailed(
            reason=f"no dependency of {', '.join(exact)} is called {wanted}, as {name} needs",
            advice="correct packages.json for this release of Debian",
        )
    debs = tuple(taken[deb] for deb in sorted(taken))
    return Unit(name=name, main=taken[mains[-1]], debs=debs)


def _available(unit: str, deb: str, lookup: Lookup) -> str:
    """
    Return the first of the alternatives that the archive has.

    :raises DemoFailed: it has none.
    """
    for alternative in _alternatives(deb):
        if lookup(alternative) is not None:
            return alternative
    raise DemoFailed(
        reason=f"Debian's archive has no package {' or '.join(_alternatives(deb))},"
        f" which {unit} is made of",
        advice="correct packages.json for this release of Debian",
    )


def _wanted(
    unit: Unit, recipes: Recipes, lookup: Lookup, owners: Mapping[str, str]
) -> list[Record]:
    """Return the Debian packages outside the unit that it needs, sorted by name."""
    recipe = recipes.units.get(unit.name, Recipe(debs=()))
    chosen: dict[str, Record] = {}
    for deb in unit.debs if not recipe.leaf else ():
        for alternatives in deb.depends:
            records = [record for name in alternatives if (record := lookup(name))]
            follow = [
                record
                for record in records
                if not _matches(record.name, recipes.ignore)
                and (_followed(record, deb) or _matches(record.name, recipe.needs))
            ]
            # A package that is included already satisfies the dependency at no cost.
            follow.sort(key=lambda record: record.name not in owners)
            chosen |= {record.name: record for record in follow[:1]}
    for need in recipe.needs:
        if need not in recipes.units and not _is_pattern(need):
            record = lookup(need)
            if record is None:
                raise DemoFailed(
                    reason=f"Debian's archive has no package {need}, which {unit.name} needs",
                    advice="correct packages.json for this release of Debian",
                )
            chosen[need] = record
    return [chosen[name] for name in sorted(chosen)]


def _recommended(
    unit: Unit, recipes: Recipes, lookup: Lookup, owners: Mapping[str, str]
) -> list[Record]:
    """Return the shared libraries outside the unit that it recommends."""
    recipe = recipes.units.get(unit.name, Recipe(debs=()))
    chosen: dict[str, Record] = {}
    for deb in unit.debs if not recipe.leaf else ():
        for alternatives in deb.recommends:
            records = [
                record
                for name in filter(_SHARED_LIBRARY.fullmatch, alternatives)
                if (record := lookup(name)) is not None
                and record.section == "libs"
                and not _matches(name, recipes.ignore)
            ]
            records.sort(key=lambda record: record.name not in owners)
            chosen |= {record.name: record for record in records[:1]}
    return [chosen[name] for name in sorted(chosen)]


def _needed_units(unit: Unit, recipes: Recipes) -> set[str]:
    recipe = recipes.units.get(unit.name)
    return set() if recipe is None else {need for need in recipe.needs if need in recipes.units}


def _followed(record: Record, dependant: Record) -> bool:
    if record.section == "libs":
        return True
    if record.section != dependant.section:
        return False
    return (record.section == "python" and record.name.startswith("python3-")) or (
        record.section == "perl" and record.name.endswith("-perl")
    )


def _without_cycles(units: Mapping[str, Unit]) -> dict[str, Unit]:
    """
    Remove cycles: Debian's dependencies may have them, derivations cannot.

    The edges that a depth-first walk in the order of names finds closing a circle are left out. If
    a removed edge is really needed, the build of the unit fails.
    """
    done: dict[str, Unit] = {}
    walking: set[str] = set()

    def visit(name: str) -> None:
        walking.add(name)
        kept: list[str] = []
        for other in units[name].depends:
            if other in walking:
                continue
            if other not in done:
                visit(other)
            kept.append(other)
        walking.discard(name)
        done[name] = evolve(units[name], depends=tuple(kept))

    for name in sorted(units):
        if name not in done:
            visit(name)
    return {name: done[name] for name in sorted(done)}


def _with_recommended(
    units: Mapping[str, Unit], recommended: Mapping[str, Collection[str]]
) -> dict[str, Unit]:
    """
    Add dependencies on recommended units.

    Libraries recommend packages that depend on them. An edge that closes a cycle is left out: a
    recommendation never takes the place of a dependency.
    """
    depends = {name: set(unit.depends) for name, unit in units.items()}

    def needs(name: str, other: str) -> bool:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current == other:
                return True
            if current not in seen:
                seen.add(current)
                waiting += depends[current]
        return False

    for name in sorted(recommended):
        for library in sorted(recommended[name]):
            if not needs(library, name):
                depends[name].add(library)
    return {
        name: evolve(unit, depends=tuple(sorted(depends[name]))) for name, unit in units.items()
    }


def _names(record: Record) -> Iterator[str]:
    for alternatives in record.depends:
        yield from alternatives


def _alternatives(deb: str) -> list[str]:
    return [alternative.strip() for alternative in deb.split("|")]


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def parse_recipes(data: Mapping[str, object]) -> Recipes:
    """
    Parse ``packages.json``, decoded.

    :raises DemoFailed: its structure is invalid.
    """

    def strings(value: object, where: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DemoFailed(
                reason=f"packages.json: {where} is not a list of strings", advice="correct it"
            )
        return tuple(value)

    units = data.get("units")
    if not isinstance(units, Mapping):
        raise DemoFailed(reason="packages.json has no object 'units'", advice="add it")
    recipes: dict[str, Recipe] = {}
    for name, entry in units.items():
        if not isinstance(entry, Mapping) or not entry.get("debs"):
            raise DemoFailed(reason=f"packages.json: {name} has no list 'debs'", advice="add it")
        unknown = sorted(entry.keys() - {"debs", "needs", "main", "leaf"})
        if unknown:
            raise DemoFailed(
                reason=f"packages.json: {name} has an unknown key {unknown[0]!r}",
                advice="use debs, needs, main and leaf",
            )
        main = entry.get("main")
        recipes[name] = Recipe(
            debs=strings(entry["debs"], f"debs of {name}"),
            needs=strings(entry.get("needs", []), f"needs of {name}"),
            main=None if main is None else str(main),
            leaf=bool(entry.get("leaf", False)),
        )
    return Recipes(units=recipes, ignore=strings(data.get("ignore", []), "ignore"))
