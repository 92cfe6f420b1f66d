"""Tests for :mod:`nixery.config.types`, with the settings whose values they are."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.config.settings import SETTINGS
from nixery.config.types import InvalidValue
from nixery.runtime.sizes import FreeSpaceLimit
from nixery.sources.search_path import PinnedArchive
from nixery.sources.source import FlakeSource

ARCHIVE = PinnedArchive(
    url="https://h/a#b.tar.gz",
    sha256="52bbf88138f0635d1582288c04918f097593e062d3f9cddd2f3506febc21e8c5",
)

ACCEPTED: dict[str, list[tuple[object, object]]] = {
    "port": [("8080", 8080), (8080, 8080), (" 80 ", 80)],
    "nix_timeout": [("60", 60)],
    "build_deadline": [("0.5", 0.5), (3, 3.0), ("1e2", 100.0)],
    "shutdown_timeout": [("0", 0.0), (2.5, 2.5)],
    "builds_per_client": [("0", 0)],
    "substitute_only": [("true", True), ("No", False), (True, True), (False, False)],
    "storage_path": [("/a/../b", Path("/a/../b"))],
    "gcs_bucket": [(2024, "2024"), (" b ", "b")],
    "channel": [("nixos-26.05-small", "nixos-26.05-small")],
    "public_url": [("https://r.example:5000/", "https://r.example:5000")],
    "allowed_hosts": [
        ("nixery.lan", ("nixery.lan",)),
        (["NIXERY", "*.example.org, b"], ("nixery", "*.example.org", "b")),
        ("*", ("*",)),
        ([], ()),
    ],
    "nix_options_file": [("/run/x/nix.conf", Path("/run/x/nix.conf"))],
    "popularity_url": [
        ("https://h/p?q=1", "https://h/p?q=1"),
        (" file:///srv/popularity.json ", "file:///srv/popularity.json"),
        ("file://localhost/srv/p", "file://localhost/srv/p"),
    ],
    "layer_strategy": [("dominators", "dominators")],
    "requests_per_client": [("0", 0)],
    "nix_options": [
        ({"cores": 2, "sandbox": False}, {"cores": "2", "sandbox": "false"}),
        ("{substituters: [a, b]}", {"substituters": "a b"}),
        ({}, {}),
    ],
    "platforms": [
        (" x86_64-linux, aarch64-linux", ("x86_64-linux", "aarch64-linux")),
        (["aarch64-linux", "aarch64-linux"], ("aarch64-linux",)),
        ([], ()),
    ],
    "nixpkgs_config": [
        ("{allowUnfree: true}", {"allowUnfree": True}),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
    ],
    "listen": [(["tcp:1", " tcp:2"], ("tcp:1", "tcp:2"))],
    "pkgs_repo": [
        ("https://h/p.git", "https://h/p.git"),
        ("git@h:a/b", "git@h:a/b"),
        ("file:///a b/c", "file:///a b/c"),
        ("/a b/c.git", "/a b/c.git"),
        ("ssh://u@h:22/p", "ssh://u@h:22/p"),
    ],
    "flake": [
        (
            " github:o/n/v1?dir=d ",
            FlakeSource(kind="github", location="o/n", host="github.com", ref="v1", directory="d"),
        )
    ],
    "pkgs_ref": [("feature/x", "feature/x"), ("A" * 40, "a" * 40)],
    "allowed_tags": [
        ("latest", ("latest",)),
        ("nixos-*, v1.? [ab]", ("nixos-*", "v1.?", "[ab]")),
        (["a", "b c"], ("a", "b", "c")),
    ],
    "overlays": [("/a", (Path("/a"),)), (["/a", "/b c"], (Path("/a"), Path("/b c")))],
    "nix_path": [
        ('{"nixpkgs": "/a b"}', {"nixpkgs": Path("/a b")}),
        *(
            ({"a.b-c": f"https://h/a#b.tar.gz#{sha256}"}, {"a.b-c": ARCHIVE})
            for sha256 in (
                "sha256-Urv4gTjwY10VgiiMBJGPCXWT4GLT+c3dLzUG/rwh6MU=",
                "sha256:1ig846ygw1im5zfwvyfkcbh96x89iy8h9318h8amsqzh720zifsj",
                "1ig846ygw1im5zfwvyfkcbh96x89iy8h9318h8amsqzh720zifsj",
                "52bbf88138f0635d1582288c04918f097593e062d3f9cddd2f3506febc21e8c5",
            )
        ),
    ],
    "extra_paths": [("/a", (Path("/a"),)), (["/a", "/b c"], (Path("/a"), Path("/b c")))],
    "source_ttl": [("0", 0.0), (900, 900.0)],
    "max_storage_size": [
        ("200 GiB", 200 * 2**30),
        ("2g", 2**31),
        ("1.5kB", 1500),
        (7, 7),
        ("0", 0),
    ],
    "max_image_age": [(3600, 3600.0)],
    "min_free_space": [
        ("1 GiB", FreeSpaceLimit(amount=2**30)),
        (0, FreeSpaceLimit(amount=0)),
        ("5%", FreeSpaceLimit(amount=5, percent=True)),
    ],
    "nixpkgs_url": [("http://h/{commit}.tar", "http://h/{commit}.tar")],
    "system": [("aarch64-linux", "aarch64-linux")],
}

REJECTED: dict[str, list[object]] = {
    "port": ["", "0", "65536", "-1", "8o80", 80.0, True, [80], None, "9" * 5000],
    "nix_timeout": ["60s", 0, -5, "1.5", 1.5, "\u0661"],
    "build_deadline": ["", "inf", "nan", "-1", 0, True, [], "10 min", 10**400],
    "shutdown_timeout": ["", "-1", "10 s", True, None],
    "max_builds": [0, 1025],
    "builds_per_client": [-1],
    "pull_wait_timeout": [0],
    "storage_path": ["", "  ", True, [], {}, "/a\nb", "/a\0b", "~nobody-of-this-name/x"],
    "channel": ["-f", "a/b", "", "../x", True],
    "pkgs_repo": [
        "--upload-pack=evil",
        "",
        "ext::sh -c true",
        "ftp://h/p",
        "https://",
        "https://h/p?q",
        "file://host/p",
        "ssh://-oProxyCommand=x/p",
        "-oProxyCommand=x:p",
        "u@-oProxyCommand=x:p",
        "ssh://u:secret@h/p",
        "u:secret@h:p",
    ],
    "flake": ["", "nixpkgs", "/srv/flake", True, "git+ssh://u:secret@h/p"],
    "pkgs_ref": ["", "-f", "a..b", "a b", "/a", "a/", "a.lock", "x~1", "a*", "@{u}", True],
    "allowed_tags": ["", [], "a/b", [""], "a;b", True],
    "overlays": ["", [""], True, {}],
    "nix_path": [
        "/nixpkgs",
        ["/nixpkgs"],
        {"a": "b/c"},
        {"a": "https://h/a.tar.gz"},
        {"a": f"https://h/a.tar.gz#sha256-{'A' * 42}"},
        {"a": f"https://h/a.tar.gz#{'z' * 52}"},
        {"a": f"ftp://h/a.tar.gz#{'0' * 64}"},
        {"a": f"https://u:secret@h/a.tar.gz#{'0' * 64}"},
        {"nix": "/a"},
        {"nixery-src": "/a"},
        {"a/b": "/a"},
        {"": "/a"},
        {"a=b": "/a"},
    ],
    "extra_paths": ["", [""], True, {}],
    "source_ttl": ["-1", "inf", True, ""],
    "max_storage_size": ["", "-1", "10 parrots", True, "1e9", [1]],
    "max_image_age": [0, "30d"],
    "min_free_space": ["", "-1", "101%", "-1%", "x%", True],
    "nixpkgs_url": [
        "http://h/x.tar",
        "ftp://h/{commit}",
        "/x/{commit}",
        "https://u:secret@h/{commit}",
    ],
    "channel_url": ["channels.nixos.org"],
    "public_url": [
        "r.example",
        "ftp://h",
        "https://",
        "https://h/path",
        "https://u:p@h",
        "http://h:x",
    ],
    "allowed_hosts": ["http://h", "h:80", "a*", "*.", "a..b", True],
    "nix_options_file": ["/a b/c", "/a#b", "", True],
    "popularity_url": ["file://h/p", "file:p", "http://h:99999", "http://[::", True],
    "listen": ["", [], [""], [8080], {}, True],
    "system": ["x86_64-darwin", "", True, None, []],
    "nix_options": [
        "x",
        [],
        "{",
        {"restrict-eval": False},
        {"timeout": 3},
        {"cores": {"a": 1}},
        {"cores": None},
        {"--store": "x"},
        {1: 2},
    ],
    "platforms": ["x86_64-darwin", ["x86_64-linux", "x"], True, [1], {}],
    "platforms_missing": ["leave", True],
    "nixpkgs_config": ["x", {"a": float("nan")}, {"a": {1, 2}}, {True: 1}, {"a": b"x"}],
    "substitute_only": ["1", 1, "", None],
    "layer_budget": [0, 126],
    "max_packages": [0, 1001],
    "layer_strategy": ["", "units", True],
    "compression": ["", "lzma", "zstd-20", "gzip-fast", True, None],
    "cpu_workers": [0],
    "max_eval_memory": [63],
    "evaluators": [-1, 65],
}


class KindTests(SynchronousTestCase):
    """Tests of the values that settings accept."""

    def test_values_are_accepted_as_text_and_as_yaml_has_them(self) -> None:
        """Values are accepted as text and as YAML has them."""
        by_name = {setting.name: setting for setting in SETTINGS}
        for name, pairs in ACCEPTED.items():
            for given_value, expected in pairs:
                with self.subTest(name=name, value=given_value):
                    self.assertEqual(expected, by_name[name].kind.parse(given_value))

    def test_value_that_is_not_allowed_is_rejected_with_what_would_be_right(self) -> None:
        """A value that its setting does not allow is rejected with what would be right."""
        by_name = {setting.name: setting for setting in SETTINGS}
        for name, values in REJECTED.items():
            for value in values:
                with self.subTest(name=name, value=str(value)[:40]):
                    rejected = self.assertRaises(InvalidValue, by_name[name].kind.parse, value)
                    self.assertTrue(str(rejected))

    def test_mapping_that_holds_itself_which_yaml_can_express_is_rejected(self) -> None:
        """A mapping that holds itself, which YAML can express, is rejected."""
        loop: dict[str, object] = {}
        loop["loop"] = loop
        kind = next(item.kind for item in SETTINGS if item.name == "nixpkgs_config")
        self.assertRaises(InvalidValue, kind.parse, loop)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
            max_leaves=5,
        )
    )
    @settings(max_examples=100)
    def test_any_value_in_file_is_accepted_or_rejected_and_never_crashes_parser(
        self, value: object
    ) -> None:
        """Any value in a file is accepted or rejected, and never crashes the parser."""
        for setting in SETTINGS:
            try:
                setting.kind.parse(value)
            except InvalidValue as rejected:
                self.assertTrue(str(rejected))

    def test_paths_are_made_absolute_at_once(self) -> None:
        """A relative path is one of the directory in which the daemon was started."""
        kind = next(item.kind for item in SETTINGS if item.name == "pkgs_path")
        with patch("os.getcwd", return_value="/started/here"):
            self.assertEqual(Path("/started/here/set"), kind.parse("set"))
