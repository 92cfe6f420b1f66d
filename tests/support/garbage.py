"""Collections of garbage that take no longer for all that was loaded before."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase

__all__ = ["set_garbage_apart"]


def set_garbage_apart(case: SynchronousTestCase) -> None:
    """
    Until the test ends, collections look at what it has made itself only.

    A whole collection takes a third of a second once all modules are loaded.  And what
    earlier tests have left does not go in the middle of this one.
    """
    gc.freeze()
    case.addCleanup(gc.unfreeze)
