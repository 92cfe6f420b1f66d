"""
Store paths that vanish: what a garbage collection may take costs time, never a build.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from tests.end_to_end.daemon import Daemon
from tests.end_to_end.fault_injection import ChaosCase, HeldCommands, PrivateNix, Saboteur
from tests.end_to_end.package_sets import WatchedSet
from tests.end_to_end.processes import wait_until
from tests.end_to_end.wire import Answer

SERVE = "nix-store --serve"
BUILD = "nix-build --log-format"
CLOSURE = "nix-store --query"

GUESTS = [f"guest-{number}" for number in range(20)]

KILLED_GUESTS = GUESTS[:6]
"""Those whose evaluators are killed."""


class CollectionTests(ChaosCase):
    """A registry with a Nix store of its own, and Nix commands that can be held."""

    def setUp(self) -> None:
        super().setUp()
        self.nix = PrivateNix()
        self.commands = HeldCommands()
        self.packages = WatchedSet()
        self.daemon = self.start(sys.executable)

    def start(self, *python: str) -> Daemon:
        daemon = Daemon(
            self.packages.path,
            name="collected",
            interpreter=(*self.nix.enter, *python),
            environ=self.commands.environ(),
            # Twenty images among collections take longer on a busy machine than clients wait.
            options=["--pull-wait-timeout=150"],
        ).start()
        self.addCleanup(daemon.kill)
        return daemon

    @contextmanager
    def pulling(self, name: str, held: str) -> Iterator[Future[Answer]]:
        """Ask for an image, and hold the first command of a kind meanwhile."""
        self.commands.hold(held)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(self.daemon.registry.manifest, name)
            try:
                self.commands.wait_for(held)
                yield asked
            finally:
                self.commands.let(held)
            asked.result()

    @contextmanager
    def packing(self, name: str) -> Iterator[Future[Answer]]:
        """Ask another daemon for an image, and stop it meanwhile in the middle of a layer."""
        saboteur = Saboteur(("open", "/nix/store/"))
        self.daemon.kill()
        self.daemon = self.start(*saboteur.interpreter)
        saboteur.order("wait", 1)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(self.daemon.registry.manifest, name)
            saboteur.wait_for(1)
            try:
                yield asked
            finally:
                saboteur.let()
            asked.result()

    def build(self, name: str) -> None:
        """Build a package by hand, and protect nothing of it."""
        self.nix.run("nix-build", "--no-out-link", str(self.packages.path), "-A", name)

    def take(self, name: str) -> None:
        """Have a collection take the store paths of a name, derivations of kept sets included."""

        def taken() -> bool:
            self.commands.kill_evaluators()
            self.nix.collect_garbage()
            return not self.nix.paths(name)

        wait_until(taken, f"{name} to be collected")

    def wait_for_roots(self) -> None:
        """Wait until something is built and protected."""
        roots = self.daemon.directory / "state" / "gcroots"
        wait_until(lambda: any(roots.glob("*/r*")), "roots")

    def test_while_twenty_images_are_built_collections_follow_each_other(self) -> None:
        """While twenty images are built, collections follow each other; none is lost."""
        built = Event()
        collections = 0
        with ThreadPoolExecutor(len(GUESTS)) as pool:
            answers = [pool.submit(self.check, self.daemon, name) for name in GUESTS]
            pool.submit(lambda: [each.exception() for each in answers]).add_done_callback(
                lambda _: built.set()
            )
            while not built.is_set():
                self.nix.collect_garbage()
                collections += 1
        for name, image in zip(GUESTS, answers, strict=True):
            self.assertIn(b"-host-of-" + name.encode(), image.result().read(f"share/{name}"))
        self.assertGreater(collections, 1)
        self.check_tidy(self.daemon)

        def outputs() -> list[str]:
            # Processes that protected outputs end after the answers; package sets stay in memory,
            # and their derivations with them.
            self.nix.collect_garbage()
            return [path for path in self.nix.paths("host-of-") if not path.endswith(".drv")]

        wait_until(lambda: not outputs(), "the outputs to be collected")
        self.take("")

    def test_collections_while_evaluators_are_killed(self) -> None:
        """While images are built, collections take derivations of evaluators that are gone."""
        with ThreadPoolExecutor(len(KILLED_GUESTS)) as pool:
            answers = [pool.submit(self.check, self.daemon, name) for name in KILLED_GUESTS]
            while not all(each.done() for each in answers):
                self.commands.kill_evaluators()
                self.nix.collect_garbage()
        for name, image in zip(KILLED_GUESTS, answers, strict=True):
            self.assertIn(b"-host-of-" + name.encode(), image.result().read(f"share/{name}"))
        self.check_tidy(self.daemon)

    def test_derivation_collected_before_its_build_is_written_again(self) -> None:
        """Derivations that are collected before their build begins are written again."""
        with self.pulling("first", BUILD) as asked:
            self.assertEqual(len(self.nix.paths("first-1.0.drv")), 1)
            self.take("first-1.0.drv")
        self.assertEqual(asked.result().status, 200)
        self.check(self.daemon, "first")
        self.assertIn("evaluating again", self.daemon.log())
        self.assertEqual(self.packages.builds("first"), 1)

    def test_derivation_taken_of_what_was_built(self) -> None:
        """So are those of outputs that are there already, and taken as well."""
        self.build("plain")
        with self.pulling("plain", SERVE) as asked:
            wait_until(self.commands.evaluated, "the evaluation to end")
            self.take("plain")
        self.assertEqual(asked.result().status, 200)
        self.assertIn("evaluating again", self.daemon.log())
        self.check(self.daemon, "plain")

    def test_derivations_taken_again_and_again(self) -> None:
        """An image is built although its derivations are deleted before each try to build."""
        tries = 0
        self.commands.hold(BUILD)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(self.daemon.registry.manifest, "plain")
            while True:
                wait_until(lambda: asked.done() or self.commands.waits(BUILD), "a build")
                if asked.done():
                    break
                tries += 1
                self.take("plain")
                self.commands.let(BUILD)
                self.commands.hold(BUILD)
            self.commands.let(BUILD)
            answer = asked.result()
        self.assertEqual((answer.status, tries), (200, 2), answer.body)
        self.check_tidy(self.daemon)
        self.check(self.daemon, "plain")

    def test_what_was_built_before_is_safe(self) -> None:
        """No collection takes what is there already while it is packed; a later one does."""
        self.build("plain")
        with self.packing("plain") as asked:
            self.nix.collect_garbage()
            self.assertNotEqual(self.nix.paths("plain-1.0"), [])
        self.assertEqual(asked.result().status, 200)
        self.check(self.daemon, "plain")
        self.assertNotIn("plain: building", self.daemon.log())
        self.daemon.stop()
        self.nix.collect_garbage()
        self.assertEqual(self.nix.paths("plain-1.0"), [])

    def test_outputs_are_safe_once_built(self) -> None:
        """No collection takes what was built before it is packed."""
        with self.pulling("first", CLOSURE) as asked:
            self.wait_for_roots()
            self.nix.collect_garbage()
        self.assertEqual(asked.result().status, 200)
        self.check(self.daemon, "first")
        self.assertEqual(self.packages.builds("shared"), 1)

    def test_output_removed_while_it_is_packed(self) -> None:
        """Neither does one that vanishes in the middle of a layer."""
        with self.packing("plain") as asked:
            self.nix.remove("plain-1.0")
        answer = asked.result()
        self.assertEqual(answer.status, 500)
        self.assertIn("-plain-1.0", answer.message)
        self.assertIn("No such file or directory", answer.message)
        self.check_tidy(self.daemon)
        self.check(self.daemon, "plain")

    def test_output_removed_by_force(self) -> None:
        """An output that is removed by force fails this try, and not the next."""
        with self.pulling("plain", CLOSURE) as asked:
            self.wait_for_roots()
            self.nix.remove("plain-1.0")
        answer = asked.result()
        self.assertEqual(answer.status, 500)
        self.assertIn("-plain-1.0", answer.message)
        self.check_tidy(self.daemon)
        self.check(self.daemon, "plain")
        self.assertEqual(self.packages.builds("plain"), 2)
