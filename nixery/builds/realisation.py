"""
Build evaluated packages even if a garbage collector removes their derivations.

Nothing protects derivations between the command that writes them and the one that
builds them: Nix's temporary roots end with a process.  A single collection rarely falls into
that gap, but if collections follow each other without a pause, one does each time.  So the
second try is one process, which evaluates as well as builds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.logger import Logger

from nixery.image.names import ImageName
from nixery.image.packages import Evaluation
from nixery.nix.errors import MissingDerivations
from nixery.nix.interface import Nix, Realisation
from nixery.nix.progress import Phase, Progress
from nixery.sources.source import PackageSet

__all__ = ["MAX_REEVALUATIONS", "realise"]

MAX_REEVALUATIONS = 10
"""
The most times that packages are evaluated again because their derivations were removed.
One is enough, unless the package set is being changed, or a collector removes a path that
is given its root at that moment, which Nix 2.8 was seen to do.
"""

MAX_COSTLY_ATTEMPTS = 2
"""
The most attempts in which builds had begun when derivations were found missing: a collector may
have removed their outputs too, and each attempt would build them again.
"""

_log = Logger()


async def realise(
    nix: Nix,
    fetch: Callable[[], Awaitable[PackageSet]],
    name: ImageName,
    evaluation: Evaluation,
    progress: Progress,
) -> tuple[Realisation, Evaluation]:
    """
    Build the packages of an image.

    :param fetch: fetches the package set again.
    :param evaluation: the current evaluation of the image.
    :return: the realisation, and the evaluation that was built: a new one, if the packages
        had to be evaluated again.
    :raises MissingDerivations: the derivations were missing after each evaluation, since the
        package set kept changing.
    :raises NixeryError: the packages cannot be built, or not be evaluated any more.
    """
    try:
        return await nix.realise(evaluation.packages, progress), evaluation
    except MissingDerivations as error:
        missing = error
    costly = int(missing.builds > 0)
    for _ in range(MAX_REEVALUATIONS):
        if costly == MAX_COSTLY_ATTEMPTS:
            break
        _log.info(
            "{image}: a garbage collection took its derivations; evaluating again",
            image=name.repository,
        )
        progress.phase(Phase.EVALUATING)
        package_set = await fetch()
        evaluation = await nix.evaluate(package_set, name.system, name.package_requests)
        try:
            return (
                await nix.reevaluate_and_realise(
                    package_set, name.package_requests, evaluation, progress
                ),
                evaluation,
            )
        except MissingDerivations as error:
            missing = error
            costly += missing.builds > 0
    raise missing
