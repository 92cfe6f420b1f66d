"""
Tests of Docker, podman and containerd: images pulled from us run; a failing pull says
why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from tests.end_to_end.case import (
    EndToEndCase,
    containerd,
    demo_registry,
    docker,
    podman,
    watched_registry,
    watched_set,
)
from tests.end_to_end.engines import Engine

if TYPE_CHECKING:
    Mixin = EndToEndCase
else:
    # What is mixed into test cases uses their methods, and is none itself: it would
    # be run on its own.
    Mixin = object


class EngineTests(Mixin):
    """The tests that every engine has to pass."""

    instead: ClassVar[Mapping[int, str]] = {}
    """The engine's own message if it does not show the registry's, by status."""

    failing: ClassVar[str]
    """A package that does not build, and that no other test asks for."""

    def engine(self) -> Engine:
        raise NotImplementedError

    def pull(self, name: str) -> str:
        """Pull an image of the demo set that will be run."""
        image = f"{demo_registry().address}/{name}"
        self.engine().pull(image).checked()
        return image

    def refused(self, image: str, *words: str, status: int) -> None:
        """Pull an image that is not available, and be told why."""
        finished = self.engine().pull(image)
        self.assertNotEqual(finished.status, 0, finished.describe())
        for word in (self.instead[status],) if self.instead else words:
            self.assertIn(word, finished.output)

    def test_image_of_one_package_runs_its_program(self) -> None:
        """An image of one package runs its program."""
        image = self.pull("hello")
        self.assertIn("Hello, world!", self.engine().run(image, "hello").checked().stdout)

    def test_shell_and_packages(self) -> None:
        """A shell with two packages runs all of them, as root."""
        image = self.pull("shell/git/htop")
        script = "git --version && htop --version && nano --version && whoami"
        said = self.engine().run(image, "bash", "-c", script).checked().stdout
        for words in ("git version", "htop", "GNU nano"):
            self.assertIn(words, said)
        self.assertEqual(said.split()[-1], "root")

    def test_upper_case_name(self) -> None:
        """A package whose name has upper-case letters is asked for in lower case."""
        image = self.pull("bashinteractive")
        said = self.engine().run(image, "bash", "-c", "echo $((6 * 7))").checked().stdout
        self.assertEqual(said.strip(), "42")

    def test_missing_package_is_named_with_suggestions(self) -> None:
        """A package that does not exist is named, and so is what may have been meant."""
        self.refused(f"{demo_registry().address}/helo/git", "helo", "hello", status=404)

    def test_failed_build_is_tried_once_and_explained_by_derivation_and_log(self) -> None:
        """A failing build is explained by its derivation and its log, and tried once."""
        self.refused(
            f"{watched_registry().address}/{self.failing}",
            f"-{self.failing}-1.0.drv",
            "line 3 of the log",
            "this is why it failed",
            status=422,
        )
        self.assertEqual(watched_set().builds(self.failing), 1)


class DockerTests(EngineTests, EndToEndCase):
    """Docker's daemon and client."""

    failing = "failing-docker"

    def engine(self) -> Engine:
        return docker()


class PodmanTests(EngineTests, EndToEndCase):
    """podman."""

    failing = "failing-podman"

    def engine(self) -> Engine:
        return podman()


class ContainerdTests(EngineTests, EndToEndCase):
    """containerd by ``ctr``, which shows no registry's error messages."""

    failing = "failing-ctr"
    instead: ClassVar[Mapping[int, str]] = {404: "not found", 422: "422 Unprocessable"}

    def engine(self) -> Engine:
        return containerd()
