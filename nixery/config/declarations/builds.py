"""Settings of builds: how many run, for how long, and for how long their results are used."""

from __future__ import annotations

from attrs import frozen

from nixery.config import types, url_types
from nixery.config.setting import COMPUTED, setting

__all__ = ["BuildConfig"]


@frozen(kw_only=True)
class BuildConfig:
    """Settings of builds: how many run, for how long, and for how long their results are used."""

    cpu_workers: int = setting(
        types.integer(1, 1024, unit="threads"),
        "layers to pack at once",
        default=COMPUTED,
        default_text="the number of processors",
    )
    max_builds: int = setting(
        types.integer(1, 1024, unit="images"),
        "images to evaluate at once, and images to build at once",
        default=4,
    )
    build_deadline: float = setting(
        types.SECONDS,
        "how long the build of one image may take in all, once its turn has come",
        default=14400.0,
    )
    shutdown_timeout: float = setting(
        types.DURATION,
        "how long running builds may go on when the daemon is stopped",
        default=10.0,
        aliases=("stop_grace",),
    )
    evaluation_ttl: float = setting(
        types.DURATION,
        "how long to trust the evaluation of a package set whose changes may go unnoticed",
        default=0.0,
    )
    stale_while_revalidate: float = setting(
        types.DURATION,
        "how long to serve an old image while that of a new revision is being built",
        default=0.0,
        aliases=("serve_stale",),
    )
    builder_id: str | None = setting(
        url_types.URI,
        "URI of the builder in the provenance of images",
        default_text="the public_url",
    )
    provenance_time: bool = setting(
        types.BOOLEAN,
        "put the time of the build into the provenance of an image",
        default=False,
    )
