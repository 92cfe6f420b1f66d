"""
Names of packages: those with dots, those that a set has in no encoding, and misspelt ones.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

from tests.benchmarks.near_names import CLIENTS, misspelt_images, names_set
from tests.benchmarks.peers import pinned_set
from tests.end_to_end.case import EndToEndCase
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.fairness import FairnessCase
from tests.end_to_end.processes import private_directory

SET = b"""
{ system, ... }:
let
  make = name: derivation {
    inherit name system;
    builder = "/bin/sh";
    args = [ "-c" "echo > $out" ];
  };
in
{
  "node.js" = make "dotted";
  latin1 = make "latin1" // {
    pname = "d\xe9crit";
    version = "1\xff";
    meta.description = "Caf\xe9 \xed\xa0\x80";
  };
  "bad\xff" = make "bad";
}
"""


class NameTests(EndToEndCase):
    """A registry on a set without certificates, whose names and texts are odd."""

    def test_names_with_dots_and_texts_in_no_encoding_are_served(self) -> None:
        """Packages with dots in their names, or with bytes that are no text, are served."""
        directory = private_directory("odd")
        (directory / "default.nix").write_bytes(SET)
        daemon = Daemon(directory, name="odd").start()
        self.addCleanup(daemon.stop)
        registry = daemon.registry
        for name in ("node.js", "latin1", "attr--" + b"node.js".hex()):
            self.assertEqual(registry.manifest(name).status, 200, name)
        self.assertEqual(registry.manifest("node.sj").status, 404)
        self.assertIn("did you mean node.js?", registry.manifest("node.sj").message)
        found = registry.get("/api/packages?names=latin1+node.js+badd").json()["packages"]
        self.assertEqual([each["status"] for each in found], ["found", "found", "not-found"])
        self.assertEqual(found[0]["description"], "Caf\ufffd \ufffd\ufffd\ufffd")
        for path in ("/?packages=latin1", "/images/latin1:latest"):
            answer = registry.get(path, accept="text/html")
            self.assertEqual(answer.status, 200, path)
            answer.body.decode("utf-8")


class MisspeltTests(FairnessCase):
    """Clients that ask for misspelt names in a large set."""

    def test_misspelt_names_delay_no_other_client(self) -> None:
        """A client that looks packages up is served beside twelve, each with twelve such names."""
        directory, names = names_set(63_000)
        daemon = Daemon(pinned_set(directory), name="names").start()
        self.addCleanup(daemon.stop)
        wanted = iter(random.Random(0).sample(names, 10))
        misspelt = misspelt_images(names)
        self.assertEqual(daemon.registry.manifest(next(misspelt)).status, 404)

        def look_up() -> None:
            answer = daemon.registry.get(f"/api/packages?names={next(wanted)}")
            self.assertEqual(answer.json()["packages"][0]["status"], "found")

        @contextlib.contextmanager
        def attack() -> Iterator[None]:
            for number in range(CLIENTS):
                attacker = self.attackers(daemon, f"127.0.0.{60 + number}")
                attacker.ask(f"/v2/{next(misspelt)}/manifests/latest")
            yield

        self.assert_fair(self.compare(daemon, look_up, attack), megabytes=100)
