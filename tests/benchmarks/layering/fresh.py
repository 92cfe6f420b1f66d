"""
Other images, clients and histories of the kind that were frozen.

Images and clients are drawn as the frozen ones were: packages of an image by a Zipf law
from a list of programs in the order of their popularity, images of a client by a Zipf
law from the images.  The exponents were fitted to the frozen data by maximum likelihood.
The list has the 883 programs that the frozen graph covers, of 3,000.

Histories are remade from the changes that are a path's own, as far as these can be told
from those of what it needs.  Paths of one source change together: what has never been
seen to change otherwise, and bears a similar name, is taken for one source.

A
    is drawn anew: each source has a rate of its own, from a lognormal distribution with
    the mean and the variance of the frozen rates; what 500 or more paths of the set have
    in their closure changes in mass rebuilds alone, every 2 to 4 weeks, each source in as
    many of them as those in the frozen data.
B, C
    are histories of real changes, and stay as they are, but fall to other sources: of
    those that are about as popular.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from statistics import mean

from attrs import evolve, frozen

from tests.benchmarks.layering.workload import Clients, Data, PackageSet, union

__all__ = ["draw"]

PROGRAM_EXPONENT = 0.85
IMAGE_EXPONENT = 0.8
POPULAR = 500
LARGE = range(200, 1026)
DEPLOYER_IMAGES = 10


@frozen(kw_only=True)
class _Source:
    """
    Paths that change together.

    :param members: indices.
    :param popularity: of the most popular one.
    :param changes: for each model the weeks in which they are known to have changed.
    :param seen: for each model the weeks in which a change of theirs would be known.
    """

    members: Sequence[int]
    popularity: int
    changes: dict[str, int]
    seen: dict[str, int]


def draw(data: Data, seed: int) -> Data:
    """Another workload; the same for the same seed."""
    choose = random.Random(seed)
    clients = {name: _clients(data, name, choose) for name in data.clients}
    return evolve(data, clients=clients, histories=_histories(data, choose))


def _clients(data: Data, name: str, choose: random.Random) -> Clients:
    frozen_ones = data.clients[name]
    counts = [len(image) for image in data.clients["small"].images]
    programs = _zipf(len(data.programs), PROGRAM_EXPONENT)
    images: list[Sequence[int]] = []
    while len(images) < len(frozen_ones.images):
        drawn = choose.choices(data.programs, cum_weights=programs, k=choose.choice(counts))
        image = sorted(set(drawn))
        size = data.packages.closure(image).members.bit_count()
        if name != "large" or size in LARGE:
            images.append(image)
    weights = _zipf(len(images), IMAGE_EXPONENT)
    numbers = range(len(images))
    return Clients(
        images=images,
        deployers=[
            sorted(set(choose.choices(numbers, cum_weights=weights, k=DEPLOYER_IMAGES)))
            for _ in frozen_ones.deployers
        ],
        requests=[
            (week, choose.choices(numbers, cum_weights=weights)[0])
            for week, _image in frozen_ones.requests
        ],
    )


def _zipf(count: int, exponent: float) -> list[float]:
    return list(accumulate(rank**-exponent for rank in range(1, count + 1)))


def _histories(data: Data, choose: random.Random) -> dict[str, Sequence[int]]:
    sources = _sources(data)
    own = {"A": _drawn(sources, data.weeks, choose)}
    for model in sorted(data.histories.keys() - own.keys()):
        own[model] = _dealt([source.changes[model] for source in sources], sources, choose)
    return {model: _spread(data.packages, sources, own[model]) for model in data.histories}


def _spread(
    packages: PackageSet, sources: Iterable[_Source], changes: Sequence[int]
) -> Sequence[int]:
    """Return each path's weeks of rebuilds: its source changes, or a path it needs is rebuilt."""
    rebuilt = [0] * len(packages.names)
    for source, weeks in zip(sources, changes, strict=True):
        for index in source.members:
            rebuilt[index] = weeks
    for index in reversed(packages.users_first):
        rebuilt[index] |= union(rebuilt[item] for item in packages.references[index])
    return rebuilt


def _drawn(sources: Sequence[_Source], weeks: int, choose: random.Random) -> list[int]:
    """Model A, for each source."""
    rare = [source for source in sources if source.popularity < POPULAR and source.seen["A"]]
    rates = [source.changes["A"].bit_count() / source.seen["A"].bit_count() for source in rare]
    # Of n weeks k have a change: k (k - 1) / n (n - 1) estimates the rate's square.
    squares = [
        changed * (changed - 1) / (seen * (seen - 1))
        for source in rare
        if (seen := source.seen["A"].bit_count()) > 1
        for changed in [source.changes["A"].bit_count()]
    ]
    variance = math.log(mean(squares) / mean(rates) ** 2)
    location = math.log(mean(rates)) - variance / 2
    popular = [source for source in sources if source.popularity >= POPULAR]
    mass = union(source.changes["A"] for source in popular)
    takes_part = mean(
        (source.changes["A"] & mass).bit_count() / seen
        for source in popular
        if (seen := (source.seen["A"] & mass).bit_count())
    )
    mass_rebuilds = []
    week = choose.randint(2, 4)
    while week < weeks:
        mass_rebuilds.append(week)
        week += choose.randint(2, 4)
    drawn = []
    for source in sources:
        if source.popularity >= POPULAR:
            candidates, rate = mass_rebuilds, takes_part
        else:
            candidates = list(range(1, weeks))
            rate = choose.lognormvariate(location, math.sqrt(variance))
        drawn.append(sum(1 << week for week in candidates if choose.random() < rate))
    return drawn


def _dealt(changes: Sequence[int], sources: Sequence[_Source], choose: random.Random) -> list[int]:
    """The same changes, each for another source within the same octave of popularity."""
    octaves: dict[int, list[int]] = defaultdict(list)
    for number, source in enumerate(sources):
        octaves[source.popularity.bit_length()].append(number)
    dealt = [0] * len(sources)
    for _octave, numbers in sorted(octaves.items()):
        for number, other in zip(numbers, choose.sample(numbers, len(numbers)), strict=True):
            dealt[number] = changes[other]
    return dealt


def _sources(data: Data) -> list[_Source]:
    packages = data.packages
    everything = (1 << data.weeks) - 2
    families: dict[str, list[_Source]] = defaultdict(list)
    for index in packages.users_first:
        needed = packages.references[index]
        seen = {
            model: everything & ~union(history[item] for item in needed)
            for model, history in data.histories.items()
        }
        changes = {model: history[index] & seen[model] for model, history in data.histories.items()}
        family = families[packages.names[index].removeprefix("lib")[:3]]
        alike = next(
            (number for number, source in enumerate(family) if _alike(source, changes, seen)),
            None,
        )
        if alike is None:
            family.append(
                _Source(
                    members=(index,),
                    popularity=packages.transitive[index],
                    changes=changes,
                    seen=seen,
                )
            )
        else:
            source = family[alike]
            family[alike] = _Source(
                members=(*source.members, index),
                popularity=max(source.popularity, packages.transitive[index]),
                changes={model: source.changes[model] | changes[model] for model in changes},
                seen={model: source.seen[model] | seen[model] for model in seen},
            )
    return [source for _name, family in sorted(families.items()) for source in family]


def _alike(source: _Source, changes: dict[str, int], seen: dict[str, int]) -> bool:
    """Tell whether changes equal those of a source, in at least three weeks with changes."""
    common = 0
    for model, weeks in changes.items():
        both = seen[model] & source.seen[model]
        if weeks & both != source.changes[model] & both:
            return False
        common += (weeks & both).bit_count()
    return common >= 3
