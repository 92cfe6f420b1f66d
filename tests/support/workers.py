"""Worker threads of tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from nixery.errors import ShuttingDown
from nixery.testing.fakes import InlineWorkers

__all__ = ["CountingWorkers"]

P = ParamSpec("P")
T = TypeVar("T")


class CountingWorkers(InlineWorkers):
    """Counts its calls, and stops when it is told to."""

    calls = 0
    limit = 10**9

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.calls += 1
        if self.calls > self.limit:
            raise ShuttingDown
        return await super().run(function, *args, **kwargs)
