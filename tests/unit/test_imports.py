"""
The direction of imports.

Each module has its place in one of the layers below, and imports from the layers
that its own is built on.  Within a layer a module imports the siblings that are
listed behind it, and no others.  A new module fails these tests until somebody
has decided where it belongs.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import nixery

PACKAGE = Path(nixery.__file__).parent

BUILT_ON: dict[str, tuple[str, ...]] = {
    "errors": (),
    # Runs before anything is installed, and knows nothing of the rest.
    "bootstrap": (),
    "clocks": (),
    # Values and functions: no Twisted, nothing outside of memory.
    "pure": ("errors", "clocks"),
    "interfaces": ("errors", "clocks", "pure"),
    # How coroutines wait for each other.
    "waiting": (),
    # Runs on threads of a pool, and knows no Twisted.
    "blocking": ("errors", "clocks", "pure", "interfaces"),
    "adapters": ("errors", "clocks", "pure", "interfaces", "waiting", "blocking"),
    # Knows storage, Nix and workers through the interfaces only.
    "orchestration": ("errors", "clocks", "pure", "interfaces", "waiting", "blocking"),
    "configuration": ("errors", "clocks", "pure"),
    # Does not know who makes the images, either.
    "edge": ("errors", "clocks", "pure", "interfaces", "waiting"),
    "fakes": ("errors", "clocks", "pure", "interfaces"),
    # Looks on; nothing but the wiring knows it.
    "operations": (
        "errors",
        "clocks",
        "pure",
        "interfaces",
        "waiting",
        "adapters",
        "orchestration",
    ),
    "wiring": (
        "operations",
        "errors",
        "clocks",
        "pure",
        "interfaces",
        "waiting",
        "blocking",
        "adapters",
        "orchestration",
        "configuration",
        "edge",
    ),
}

LAYERS: dict[str, dict[str, tuple[str, ...]]] = {
    "errors": {"errors": ()},
    "bootstrap": {
        "bootstrap.addresses": (),
        "bootstrap.arguments": ("bootstrap.addresses",),
        "bootstrap.children": ("bootstrap.console",),
        "bootstrap.console": (),
        "bootstrap.environment": (
            "bootstrap.children",
            "bootstrap.console",
            "bootstrap.packages",
        ),
        "bootstrap.nixstore": (),
        "bootstrap.packages": ("bootstrap.children", "bootstrap.console"),
        "bootstrap.start": (
            "bootstrap.addresses",
            "bootstrap.arguments",
            "bootstrap.children",
            "bootstrap.console",
            "bootstrap.environment",
            "bootstrap.nixstore",
            "bootstrap.packages",
        ),
    },
    "clocks": {"clocks": ()},
    "pure": {
        "access.patterns": ("names",),
        "systemd.credentials": (),
        "tls.texts": (),
        "limits.addresses": (),
        "limits.allowance": ("limits.buckets",),
        "limits.buckets": (),
        "limits.door": ("limits.addresses", "limits.buckets"),
        "limits.packages": ("access.patterns", "names", "packages"),
        "access.visitor": (),
        "anatomy.closurelayout": ("anatomy.report",),
        "anatomy.closurepicture": (
            "anatomy.closurelayout",
            "anatomy.report",
            "layering.layerpicture",
        ),
        "anatomy.listing": ("names", "oci"),
        "anatomy.outline": ("anatomy.report", "names", "oci"),
        "anatomy.portrait": (
            "anatomy.closurelayout",
            "anatomy.closurepicture",
            "anatomy.report",
            "anatomy.reportfile",
            "anatomy.why",
        ),
        "anatomy.report": ("graph", "layering.layerplan", "names", "oci", "packages"),
        "anatomy.reportfile": ("anatomy.report", "graph", "names"),
        "anatomy.why": ("anatomy.report", "graph"),
        "layering.affinity": ("graph", "layering.layerplan"),
        "layering.counts": ("graph", "keys", "layering.layerplan"),
        "demoset.debian": (),
        "layering.dominators": ("graph", "layering.layerplan"),
        "upstream.gitargs": ("upstream.giturls", "sources"),
        "upstream.giturls": (),
        "graph": (),
        "imageconfig": ("keys", "names", "packages"),
        "keys": ("graph", "names", "packages", "sources"),
        "layering.layerpicture": ("layering.layerplan", "layering.treemap"),
        "layering.layerplan": ("graph", "keys"),
        "layering.layers": (
            "layering.affinity",
            "layering.dominators",
            "graph",
            "layering.layerplan",
        ),
        "names": (),
        "packing.levels": (),
        "counting.narinfo": ("graph",),
        "nixside.nearness": (),
        "nixside.nixargs": ("packages", "sources"),
        "nixside.nixserve": ("graph",),
        "oci": ("imageconfig", "keys", "names", "packages"),
        "packages": ("names",),
        "counting.popcount": ("layering.counts", "layering.layerplan"),
        "demoset.recipes": ("demoset.debian",),
        "nixside.resolution": ("names", "nixside.nearness", "packages"),
        "nixside.resolveargs": ("names", "nixside.nixargs", "sources"),
        "upstream.revisions": ("upstream.giturls", "names", "sources"),
        "sources": ("upstream.giturls", "names"),
        "terminal": (),
        "layering.treemap": (),
        "sizes": (),
        "version": (),
    },
    "interfaces": {"building.builds": ("interfaces",), "interfaces": ()},
    "waiting": {"operations.tally": (), "upstream.attempts": (), "waiting": ()},
    "blocking": {
        "access.passwords": (),
        "access.tokens": (),
        "tls.certificates": (),
        "demoset.apt": (),
        "packing.compression": (),
        "counting.expansion": (),
        "upstream.lastknown": (),
        "filelock": (),
        "lock": ("filelock",),
        "operations.checks": (),
        "packing.overlay": ("packing.tarball",),
        "counting.referencelog": ("filelock",),
        "packing.rootfs": ("packing.overlay", "packing.tarball"),
        "packing.tarball": ("packing.compression", "packing.ustar"),
        "packing.ustar": (),
    },
    "adapters": {
        "upstream.channels": (),
        "child": (),
        "counting.crawling": (),
        "counting.fetching": ("proxies",),
        "upstream.gitrefs": ("process", "storage.files"),
        "nixside.attendant": ("child", "process"),
        "nixside.nix": (
            "nixside.nixeval",
            "nixside.nixfaults",
            "nixside.nixhold",
            "nixside.nixlog",
            "nixside.nixplace",
            "nixside.nixroots",
            "process",
        ),
        "nixside.nixhold": ("child", "nixside.attendant", "process"),
        "nixside.nixeval": ("nixside.nixfaults", "nixside.standby", "process"),
        "nixside.nixfaults": ("nixside.nixlog",),
        "nixside.nixfetch": ("nixside.nixfaults", "nixside.nixroots", "process"),
        "nixside.nixlog": (),
        "nixside.nixplace": (),
        "nixside.nixroots": (),
        "nixside.nixsurvey": ("nixside.nixfaults", "process"),
        "nixside.standby": ("nixside.attendant", "process"),
        "counting.popularity": ("storage.drafts", "storage.files"),
        "process": ("child",),
        "reload": (),
        "systemd.notices": (),
        "systemd.passing": (),
        "storage": (),
        "diskspace": (),
        "storage.blobs": (
            "storage",
            "storage.drafts",
            "storage.files",
            "storage.placing",
            "storage.usage",
        ),
        "storage.ages": (),
        "storage.collecting": (
            "storage.blobs",
            "storage.files",
            "storage.inventory",
            "storage.policy",
            "storage.storelock",
            "storage.usage",
        ),
        "storage.policy": ("storage.inventory", "storage.usage"),
        "storage.inventory": ("storage.blobs", "storage.files", "storage.records"),
        "storage.retention": ("storage.ages", "storage.collecting", "storage.policy"),
        "storage.storelock": ("filelock", "storage.files"),
        "storage.usage": (),
        "storage.drafts": ("filelock", "storage.files"),
        "storage.files": ("storage",),
        "storage.placing": ("storage.files",),
        "storage.filesystem": (
            "storage.blobs",
            "storage.drafts",
            "storage.files",
            "storage.placing",
            "storage.records",
            "storage.storelock",
        ),
        "storage.gcs": (
            "storage",
            "storage.gcsblobs",
            "storage.gcsclient",
            "storage.gcsdownload",
            "storage.gcsobjects",
            "storage.gcsreach",
            "storage.gcsrecords",
            "storage.gcsseen",
            "storage.gcssigning",
            "storage.gcstrying",
            "storage.gcswire",
            "storage.gcswriter",
        ),
        "storage.gcsblobs": ("storage.gcsobjects", "storage.gcspublish", "storage.gcswire"),
        "storage.gcsclient": (),
        "storage.gcsdownload": ("storage.gcsobjects", "storage.gcstrying", "storage.gcswire"),
        "storage.gcsobjects": ("storage.gcsclient", "storage.gcstrying", "storage.gcswire"),
        "storage.gcspublish": ("storage.gcsobjects", "storage.gcstrying", "storage.gcswire"),
        "storage.gcsreach": (
            "storage.gcsclient",
            "storage.gcsobjects",
            "storage.gcssigning",
            "storage.gcstrying",
            "storage.gcswriter",
        ),
        "storage.gcsrecords": ("storage", "storage.gcsobjects", "storage.gcswire"),
        "storage.gcsseen": (),
        "storage.gcssigning": ("storage.gcsclient", "storage.gcstrying", "storage.gcswire"),
        "storage.gcstrying": (),
        "storage.gcsupload": ("storage.gcsobjects", "storage.gcstrying", "storage.gcswire"),
        "storage.gcswire": ("storage.gcsclient", "storage.gcstrying"),
        "storage.gcswriter": (
            "storage.gcsblobs",
            "storage.gcsobjects",
            "storage.gcspublish",
            "storage.gcsrecords",
            "storage.gcstrying",
            "storage.gcsupload",
            "storage.gcswire",
        ),
        "storage.memory": ("storage",),
        "storage.records": ("storage", "storage.drafts", "storage.files", "storage.placing"),
        "proxies": (),
        "workers": (),
    },
    "orchestration": {
        "access.checker": (),
        "access.doorkeeper": (
            "access.checker",
            "access.holdings",
            "access.remembered",
            "access.throttle",
            "singleflight",
        ),
        "access.holdings": ("building.cache", "building.images", "singleflight"),
        "access.remembered": (),
        "access.throttle": (),
        "anatomy.library": ("building.cache", "building.images", "singleflight"),
        "building.bell": (),
        "building.buildbook": ("building.bell", "building.progress"),
        "building.builder": (
            "building.cache",
            "building.layercache",
            "building.packer",
            "building.progress",
            "building.queueing",
            "building.realising",
            "singleflight",
        ),
        "building.cache": (),
        "building.lookup": ("building.queueing",),
        "building.images": (
            "building.buildbook",
            "building.builder",
            "building.cache",
            "building.progress",
            "singleflight",
        ),
        "upstream.lookups": ("singleflight",),
        "building.layercache": (),
        "building.packer": ("building.layercache", "building.parcels", "singleflight"),
        "building.parcels": (),
        "building.progress": ("building.bell",),
        "building.queueing": (),
        "building.realising": (),
        "upstream.resolver": ("upstream.lookups", "singleflight"),
        "singleflight": (),
        "counting.wholeset": (),
    },
    "operations": {
        "systemd.heart": (),
        "systemd.journal": (),
        "operations.buildreport": ("operations.measures",),
        "operations.exposition": ("operations.measures",),
        "operations.jsonlog": (),
        "operations.logsetup": ("operations.jsonlog",),
        "operations.textlog": (),
        "operations.measured": ("operations.measures",),
        "operations.measures": (),
        "operations.readiness": (),
        "operations.requests": ("operations.measures",),
    },
    "configuration": {
        "configuration.config": ("configuration.configlayers", "configuration.settings"),
        "configuration.configlayers": ("configuration.kinds", "configuration.settings"),
        "configuration.kinds": (),
        "resources": (),
        "configuration.settings": ("configuration.kinds",),
    },
    "edge": {
        "web.abilities": (),
        "web.answers": (),
        "web.blobs": ("web.answers", "web.lines", "web.pieces", "web.responses"),
        "web.assets": ("web.description", "web.responses"),
        "web.description": (),
        "web.buildfeeds": ("web.answers", "web.eventstream"),
        "web.buildpages": (
            "web.buildfeeds",
            "web.eventstream",
            "web.headers",
            "web.pages",
            "web.responses",
            "web.visibility",
        ),
        "daemon": (),
        "exitstatus": (),
        "web.docs": ("web.assets", "web.pages", "web.responses"),
        "web.eventstream": ("web.responses",),
        "web.channel": ("web.answers",),
        "web.front": (),
        "web.indexpage": (
            "web.answers",
            "web.buildfeeds",
            "web.pages",
            "web.responses",
            "web.visibility",
            "web.wishes",
        ),
        "web.credentials": (),
        "web.gate": (
            "web.answers",
            "web.credentials",
            "web.responses",
            "web.routes",
            "web.server",
            "web.visitor",
        ),
        "web.headers": (),
        "web.health": ("web.answers", "web.front", "web.responses"),
        "web.metricspage": ("web.front", "web.responses"),
        "listening": (),
        "web.patience": (),
        "web.lines": (),
        "web.manifests": (),
        "web.imagepages": (
            "web.imageviews",
            "web.pages",
            "web.responses",
            "web.visibility",
        ),
        "web.imageviews": ("web.wording",),
        "web.pages": (
            "web.answers",
            "web.assets",
            "web.front",
            "web.headers",
            "web.responses",
            "web.wording",
        ),
        "web.pieces": ("web.lines",),
        "web.registry": (
            "web.abilities",
            "web.answers",
            "web.blobs",
            "web.front",
            "web.headers",
            "web.manifests",
            "web.patience",
            "web.responses",
            "web.routes",
            "web.visitor",
        ),
        "web.responses": ("web.answers", "web.headers"),
        "web.routes": (),
        "web.server": ("web.answers", "web.channel", "web.responses"),
        "web.site": ("web.responses",),
        "tls.doors": (),
        "web.tokendesk": (
            "web.answers",
            "web.credentials",
            "web.front",
            "web.gate",
            "web.responses",
        ),
        "web.visibility": (),
        "web.visitor": ("web.server",),
        "web.wishes": (),
        "web.wording": (),
    },
    "fakes": {"testing": ()},
    "wiring": {
        "access.accesssetup": (),
        "systemd.systemdsetup": (),
        "tls.tlssetup": (),
        "limits.limitsetup": (),
        "admin.command": ("admin.showing", "admin.verifying", "admin.warming", "reactortime"),
        "admin.showing": (),
        "admin.verifying": (),
        "admin.warming": (),
        "counting.byhand": (),
        "counting.census": (
            "counting.byhand",
            "counting.meter",
            "nixside.nixsetup",
            "upstream.sourcesetup",
        ),
        "cli": ("counting.byhand", "nixside.nixsetup", "reactortime", "upstream.sourcesetup"),
        "demoset.demo": (),
        "demoset.listening": ("tap",),
        "layerscli": (
            "counting.byhand",
            "layersetup",
            "nixside.nixsetup",
            "reactortime",
            "upstream.sourcesetup",
        ),
        "layersetup": (),
        "counting.meter": (),
        "nixside.nixsetup": (),
        "counting.popcountcli": ("counting.byhand", "counting.census", "reactortime"),
        "upstream.sourcesetup": ("nixside.nixsetup",),
        "reactortime": (),
        "sitesetup": (),
        "storagesetup": (),
        "operations.operationsetup": (),
        "tap": (
            "access.accesssetup",
            "systemd.systemdsetup",
            "tls.tlssetup",
            "limits.limitsetup",
            "reactortime",
            "sitesetup",
            "layersetup",
            "nixside.nixsetup",
            "upstream.sourcesetup",
            "storagesetup",
            "operations.operationsetup",
        ),
    },
}

PLACES = {module: layer for layer, modules in LAYERS.items() for module in modules}

HARMLESS = {
    "__future__",
    "bisect",
    "collections",
    "contextlib",
    "difflib",
    "enum",
    "fnmatch",
    "functools",
    "graphlib",
    "contextvars",
    "hashlib",
    "ipaddress",
    "heapq",
    "html",
    "itertools",
    "json",
    "math",
    "operator",
    "pathlib",  # for paths as values; nixery.sources tells the one exception
    "re",
    "string",
    "textwrap",
    "types",
    "typing",
    "urllib",
    "unicodedata",
    "uuid",
    "zlib",
}
"""What the standard library has that reaches nothing outside of memory."""

PURE_PACKAGES = {"attrs", "networkx", "rapidfuzz"}


@cache
def modules() -> dict[str, ast.Module]:
    """All modules of the package but itself, parsed, by their names within it."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        name = name.removesuffix("__init__").removesuffix(".")
        tree = ast.parse(path.read_text("utf-8"), path.name)
        # A package that holds nothing but its docstring needs no place.
        if name and (path.name != "__init__.py" or len(tree.body) > 1):
            found[name] = tree
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """
    The absolute names that a module imports, wherever it does so, each as far as
    an import statement tells: ``from a import b`` gives ``a.b``.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{'.' * node.level}{node.module or ''}.{alias.name}"


def own(name: str) -> str | None:
    """The module of ours that an absolute name lies in, ``None`` for others'."""
    parts = name.split(".")
    if parts[0] != "nixery":
        return None
    for length in range(len(parts), 1, -1):
        module = ".".join(parts[1:length])
        if module in PLACES:
            return module
    return ".".join(parts[1:])


class ImportTests(SynchronousTestCase):
    """Which module imports which."""

    def setUp(self) -> None:
        self.modules = modules()

    def test_every_module_has_its_place(self) -> None:
        """A module belongs to exactly one layer."""
        self.assertEqual(set(), set(self.modules) - set(PLACES), "give these a place in LAYERS")
        self.assertEqual(sum(map(len, LAYERS.values())), len(PLACES), "one is in two layers")

    def test_no_place_without_module(self) -> None:
        """The picture shows nothing that is not there."""
        self.assertEqual(set(), set(PLACES) - set(self.modules), "take these out of LAYERS")

    def test_direction(self) -> None:
        """A module imports from the layers below its own, and from siblings listed here."""
        wrong = []
        for name, tree in sorted(self.modules.items()):
            if name not in PLACES:
                continue
            layer = PLACES[name]
            for other in sorted({own(item) or "" for item in imported(tree)} - {""}):
                if other not in PLACES:
                    wrong.append(f"{name} imports {other}, which is nowhere")
                elif PLACES[other] == layer:
                    if other not in LAYERS[layer][name]:
                        wrong.append(f"{name} imports its sibling {other}")
                elif PLACES[other] not in BUILT_ON[layer]:
                    wrong.append(f"{name} ({layer}) imports {other} ({PLACES[other]})")
        self.assertEqual([], wrong)

    def test_imports_are_absolute(self) -> None:
        """No import is relative: these tests would not see it."""
        for name, tree in self.modules.items():
            for item in imported(tree):
                self.assertFalse(item.startswith("."), f"{name} imports {item}")

    def test_layers_are_acyclic(self) -> None:
        """Neither the layers nor the modules of a layer form a circle."""
        tuple(TopologicalSorter(BUILT_ON).static_order())
        for siblings in LAYERS.values():
            tuple(TopologicalSorter(siblings).static_order())

    def test_pure_modules(self) -> None:
        """What is pure imports nothing that reaches outside of memory."""
        for layer in ("errors", "pure", "interfaces"):
            for name in LAYERS[layer]:
                if name not in self.modules:
                    continue
                for item in imported(self.modules[name]):
                    package = item.split(".")[0]
                    self.assertTrue(
                        package in HARMLESS | PURE_PACKAGES | {"nixery"},
                        f"{name} is pure and imports {item}",
                    )

    def test_blocking_modules(self) -> None:
        """What runs on threads of a pool knows no Twisted."""
        for name in LAYERS["blocking"]:
            if name in self.modules:
                packages = {item.split(".")[0] for item in imported(self.modules[name])}
                self.assertNotIn("twisted", packages, name)

    def test_bootstrap_modules(self) -> None:
        """What runs before anything is installed imports the standard library alone."""
        for name in LAYERS["bootstrap"]:
            packages = {item.split(".")[0] for item in imported(self.modules[name])}
            self.assertEqual(set(), packages - set(sys.stdlib_module_names) - {"nixery"}, name)

    def test_other_packages(self) -> None:
        """Nothing is imported that is not installed with the package."""
        required = {
            "attrs",
            "cachetools",
            "jinja2",
            "markupsafe",
            "isal",
            "klein",
            "networkx",
            "twisted",
            "yaml",
        }
        required |= {"zope", "zstandard"}
        required |= {"bcrypt", "cryptography", "jwt", "OpenSSL"}
        required |= {"prometheus_client", "rapidfuzz", "tqdm", "treq"}
        required |= {"google", "google_crc32c", "requests", "urllib3"}  # google-cloud-storage
        known = required | set(sys.stdlib_module_names) | {"nixery"}
        for name, tree in self.modules.items():
            packages = {item.split(".")[0] for item in imported(tree)}
            self.assertEqual(set(), packages - known, f"{name}: add it to setup.py and here")

    def test_global_reactor(self) -> None:
        """The global reactor is known to the wiring only."""
        for name, tree in self.modules.items():
            if "twisted.internet.reactor" in set(imported(tree)):
                self.assertIn(name, {"cli", "tap"})
