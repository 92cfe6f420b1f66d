"""The reactors that ``twistd --reactor`` may choose, while the wall clock is set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import nixery

SCRIPT = """
import sys, time
from twisted.application.reactors import installReactor
from twisted.internet.task import LoopingCall
from nixery.runtime.reactor_time import use_monotonic_time

reactor = installReactor(sys.argv[1])
ahead = 0.0
# As Twisted has it, with a clock that can be set.
reactor.seconds = lambda: time.time() + ahead
said = []
reactor.callLater(0.3, said.append, "before")
use_monotonic_time(reactor)
use_monotonic_time(reactor)

def step(seconds):
    global ahead
    ahead += seconds

ticks = []
loop = LoopingCall(ticks.append, 1)
loop.clock = reactor
reactor.callLater(0.02, step, -30 * 86400)
reactor.callLater(0.1, said.append, "set back")
reactor.callLater(0.2, step, 60 * 86400)
reactor.callLater(3600, said.append, "too early")
moved = reactor.callLater(3600, said.append, "moved")
reactor.callLater(0.25, moved.reset, 0.1)
reactor.callLater(0.5, reactor.stop)
reactor.callWhenRunning(loop.start, 0.05)
reactor.run()
print(*said, len(ticks) > 2, sep=",")
"""


class ReactorTests(SynchronousTestCase):
    """Real reactors, each in a process of its own."""

    def test_timers_outlive_changes_of_the_clock(self) -> None:
        """Timers run on and in order, whatever the clock does, those made before too."""
        for name in ("select", "poll", "epoll", "asyncio"):
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, name],
                cwd=Path(nixery.__file__).parents[1],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            self.assertEqual(("set back,before,moved,True\n", ""), (done.stdout, done.stderr), name)
