"""
Hypothesis strategies for the values that several tests need.

Examples are small: what goes wrong with a graph goes wrong with ten paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from nixery.image.closure import PathInfo, RuntimeGraph, StorePath
from nixery.image.packages import Evaluation, Output, Package
from nixery.layers.grouping import Popularity

__all__ = [
    "BASE32",
    "attribute_paths",
    "components",
    "evaluations",
    "graph_of",
    "graphs",
    "hashes",
    "json_values",
    "packages",
    "popularities",
    "repositories",
    "store_names",
    "store_path",
    "store_paths",
    "tags",
]

BASE32 = "0123456789abcdfghijklmnpqrsvwxyz"
"""The digits of Nix's base 32."""

_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"

hashes = st.text(BASE32, min_size=32, max_size=32)
"""The hash parts of store paths."""

_stems = st.sampled_from(
    ["bash", "cacert", "curl", "git", "glibc", "gtk+3", "iana-etc", "nss-cacert", "perl5.40"]
)
_versions = st.sampled_from(["", "-1.0", "-2.40-66", "-8.5.0-dev", "-5.2-p37", "-unstable-1"])

store_names = st.one_of(
    st.builds(str.__add__, _stems, _versions),
    st.text(_LOWER + "+-._?=ABC", min_size=1, max_size=12),
)
"""Names of store paths, without hashes; several are likely to be equal."""

components = st.builds(
    str.__add__,
    st.text(_LOWER, min_size=1, max_size=6),
    st.lists(
        st.builds(
            str.__add__,
            st.sampled_from([".", "_", "__", "-", "--"]),
            st.text(_LOWER, min_size=1, max_size=4),
        ),
        max_size=2,
    ).map("".join),
).filter(lambda text: not text.startswith("attr--"))
"""Components of repository names within the grammar, escapes excepted."""

repositories = st.lists(
    st.one_of(components, st.sampled_from(["shell", "arm64", "git", "cacert", "curl.dev"])),
    min_size=1,
    max_size=8,
).map("/".join)
"""Repository names within the grammar."""

tags = st.from_regex(r"\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
"""Tags within the grammar."""

attribute_paths = st.lists(
    st.text(
        st.characters(exclude_categories=["C", "Z"], exclude_characters="."),
        min_size=1,
        max_size=8,
    ),
    min_size=1,
    max_size=4,
).map(".".join)
"""Attribute paths, of which a repository name can spell few."""

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
"""All values that canonical JSON can express."""

_counts = st.dictionaries(
    st.sampled_from(["bash", "curl", "git", "glibc", "gtk+3", "perl5.40"]),
    st.integers(0, 10**5),
)

popularities = st.builds(
    Popularity,
    transitive=st.one_of(st.just({}), _counts),
    direct=_counts,
    setsize=st.sampled_from([0, 10**5]),
)
"""Popularity data, often empty."""


def store_path(name: str, digits: str = "0" * 32) -> StorePath:
    """The store path of a name, by default with a hash of zeros."""
    return StorePath(f"/nix/store/{digits}-{name}")


def graph_of(sizes: Mapping[str, int], references: Mapping[str, Sequence[str]]) -> RuntimeGraph:
    """A graph of paths that are called by their names."""
    return RuntimeGraph(
        paths={
            store_path(name): PathInfo(
                path=store_path(name),
                nar_hash="0" * 64,
                nar_size=size,
                references=[store_path(other) for other in references.get(name, ())],
            )
            for name, size in sizes.items()
        }
    )


store_paths = st.builds(store_path, store_names, hashes)
"""Store paths."""

_sizes = st.one_of(st.integers(0, 10**6), st.integers(0, 10**9), st.just(120))


@st.composite
def graphs(
    draw: st.DrawFn, *, min_size: int = 0, max_size: int = 14, unique_names: bool = False
) -> RuntimeGraph:
    """
    Closures: paths that refer to earlier ones in any pattern.

    :param unique_names: whether no two paths have the same name.
    """
    names = draw(st.lists(store_names, min_size=min_size, max_size=max_size, unique=unique_names))
    parts = draw(st.lists(hashes, min_size=len(names), max_size=len(names), unique=True))
    paths = [store_path(name, part) for name, part in zip(names, parts, strict=True)]
    infos = {}
    for index, path in enumerate(paths):
        chosen = draw(st.integers(0, 2**index - 1))
        references = [paths[bit] for bit in range(index) if chosen >> bit & 1]
        infos[path] = PathInfo(
            path=path,
            nar_hash=draw(st.sampled_from(["0" * 64, "f" * 64])),
            nar_size=draw(_sizes),
            references=references,
        )
    return RuntimeGraph(paths=infos)


@st.composite
def packages(draw: st.DrawFn, *, attribute: str | None = None) -> Package:
    """
    Packages.

    :param attribute: the attribute path, if it is given.
    """
    if attribute is None:
        attribute = draw(attribute_paths)
    pname = draw(_stems)
    version = draw(st.sampled_from(["", "1.0", "2.40-66", "5.2p37"]))
    return Package(
        requested=(attribute.lower(),),
        attribute=attribute,
        name=f"{pname}-{version}" if version else pname,
        pname=pname,
        version=version,
        description=draw(st.text(max_size=30)),
        priority=draw(st.integers(-10, 10)),
        derivation=f"{draw(store_paths)}.drv",
        outputs=tuple(
            Output(name=name, path=str(draw(store_paths)))
            for name in sorted(draw(st.sets(st.sampled_from(["bin", "dev", "out"]), min_size=1)))
        ),
    )


@st.composite
def evaluations(draw: st.DrawFn) -> Evaluation:
    """The packages of an image, sorted by attribute path."""
    names = sorted(draw(st.sets(attribute_paths, max_size=5)))
    return Evaluation(
        packages=tuple(draw(packages(attribute=name)) for name in names),
        missing_optional=(),
        system=draw(st.sampled_from(["x86_64-linux", "aarch64-linux"])),
    )
