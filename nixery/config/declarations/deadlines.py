"""Settings of the deadlines of a request that waits, and of the end of the daemon."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting

__all__ = ["DEADLINE_SETTINGS"]

DEADLINE_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="pull_wait_timeout",
        kind=types.SECONDS,
        help="how long a request waits for its image, unless it is Docker's, which waits for ever",
        default=25.0,
        aliases=("request_deadline",),
    ),
    Setting(
        name="shutdown_timeout",
        kind=types.DURATION,
        help="how long the builds that run may go on when the daemon is stopped",
        default=10.0,
        aliases=("stop_grace",),
    ),
)
