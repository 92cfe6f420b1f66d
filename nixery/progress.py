"""
How far a build is, as the log tells it.
"""

from __future__ import annotations

from attrs import define
from twisted.logger import Logger

from nixery.interfaces import Phase

__all__ = ["LogProgress"]


@define(kw_only=True, eq=False)
class LogProgress:
    """
    Implements :class:`nixery.interfaces.Progress`: stages are logged, the lines of
    build logs too where debugging messages are wanted.

    :param image: what is being built, as a person would say it.
    """

    image: str
    _log = Logger()

    def phase(self, phase: Phase, /) -> None:
        self._log.info("{image}: {phase}", image=self.image, phase=phase.value)

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        self._log.debug(
            "{image}: {phase}, {done} of {expected} {unit}",
            image=self.image,
            phase=phase.value,
            done=done,
            expected=expected,
            unit=unit,
        )

    def derivation(self, derivation: str, /) -> None:
        self._log.info("{image}: building {derivation}", image=self.image, derivation=derivation)

    def log(self, line: str, /) -> None:
        self._log.debug("{image}: {line}", image=self.image, line=line)
