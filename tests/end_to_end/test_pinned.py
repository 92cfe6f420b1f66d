"""Tests of a package set and an overlay that fetch what they pin, up to the container."""

from __future__ import annotations

import json
import tarfile

from tests.end_to_end.case import EndToEndCase, docker
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.package_sets import ContentsSet
from tests.end_to_end.processes import private_directory, run
from tests.support.http_files import serve_files

# What npins writes has this shape.
NPINS = """
let
  pins = (builtins.fromJSON (builtins.readFile ./sources.json)).pins;
  fetch = pin: fetchTarball { inherit (pin) url; sha256 = pin.hash; };
in
builtins.mapAttrs (_: pin: pin // { outPath = fetch pin; }) pins
"""

SET = """
{ system, overlays ? [ ] }:
let set = import (import ./npins).packages { inherit system; };
in builtins.foldl' (set: overlay: set // overlay set set) set overlays
"""

OVERLAY = """
final: prev: {
  greeting = derivation {
    name = "greeting-1.0";
    inherit (prev.tools) system;
    builder = "${prev.tools}/bin/sh";
    args = [ "-c" ''
      PATH=${prev.tools}/bin
      busybox mkdir -p $out/share
      cat ${(import ./npins).text}/text > $out/share/text
    '' ];
  };
}
"""


class PinnedTests(EndToEndCase):
    """A package set and an overlay with pins to archives on a server of this machine."""

    def test_container_of_pinned_set_and_overlay(self) -> None:
        """A container has the packages of what is pinned, and what is not pinned is refused."""
        directory = private_directory("pinned")
        served = directory / "served"
        served.mkdir()
        url = serve_files(self, served)
        text = directory / "text"
        text.mkdir()
        (text / "text").write_text("pinned\n")
        for name, tree in (("set", ContentsSet().path), ("overlay", text)):
            pin = "packages" if name == "set" else "text"
            with tarfile.open(served / f"{pin}.tar.gz", "w:gz") as archive:
                archive.add(tree, arcname="top")
            hashed = run(["nix-hash", "--type", "sha256", "--base32", str(tree)]).checked()
            entry = {
                "url": f"{url}/{pin}.tar.gz",
                "hash": hashed.stdout.strip(),
            }
            npins = directory / name / "npins"
            npins.mkdir(parents=True)
            (npins / "default.nix").write_text(NPINS)
            (npins / "sources.json").write_text(json.dumps({"version": 5, "pins": {pin: entry}}))
        (directory / "set" / "default.nix").write_text(SET)
        (directory / "overlay" / "default.nix").write_text(OVERLAY)
        registry = Daemon(
            directory / "set",
            name="pinned-registry",
            environ={"NIXERY_OVERLAYS": str(directory / "overlay")},
        ).start()
        image = f"{registry.address}/tools/greeting"
        docker().pull(image).checked()
        said = docker().run(image, "cat", "/share/text").checked().stdout
        self.assertEqual(said, "pinned\n")
        sources = npins / "sources.json"
        sources.write_text(sources.read_text().replace('"hash"', '"hash": "", "old"'))
        refused = docker().pull(f"{registry.address}/greeting")
        self.assertNotEqual(refused.status, 0)
        self.assertIn("allow_unpinned_fetches", refused.stderr)
