"""
Look up refs of a git repository, and commits in their history.

The configured branch or tag is looked up with a ``git ls-remote`` of its own, others in a listing
that all clients share (:mod:`nixery.sources.ref_listing`).  The git protocol cannot tell
whether a commit is in the history of one: unless the commit is at a tip, the history is fetched
into a mirror without files and directories, in the cache directory, and searched there.  The
first fetch takes as long as a clone of the history, later ones only as long as fetching the new
commits.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Coroutine, Mapping
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from nixery.process.errors import OutputTooLarge, ProcessFailed, ProcessTimedOut
from nixery.process.spawner import Command, Spawner
from nixery.runtime.retry import THREE_ATTEMPTS, retry
from nixery.runtime.workers import Workers
from nixery.sources import git_arguments
from nixery.sources.errors import SourceUnavailable
from nixery.sources.git_arguments import RefList, parse_refs
from nixery.sources.git_errors import advice_on, git_failure
from nixery.sources.interface import InTurn
from nixery.sources.ref_listing import RefListing
from nixery.sources.source import GitSource, ResolvedRef
from nixery.sources.tag_policy import GitCommit, GitRefs, Reference
from nixery.storage.filesystem.files import translate_os_errors

__all__ = ["GitRepository"]

T = TypeVar("T")

MAX_REF_BYTES = 64 * 1024 * 1024
"""The most bytes of refs that are read."""

LOCAL_TIMEOUT = 120.0
"""Timeout in seconds of commands that only use the local mirror."""

# git's errors for a damaged mirror: a kill in the middle of a fetch leaves locks behind, and
# a full disk leaves incomplete objects.
_DAMAGED_MIRROR = re.compile(
    r"\.lock'|Unable to create '|could not lock config file|cannot lock ref|bad object|corrupt"
    r"|missing (?:blob|tree|commit)|not a git repository: '|did not send all necessary objects"
    r"|unable to read sha1"
)


class GitRepository:
    """
    An implementation of :class:`nixery.sources.interface.RefSource` for a git repository.

    :param source: the repository.
    :param spawner: runs git.
    :param clock: measures attempts and the pauses between them.
    :param workers: for the file system.
    :param mirror_directory: the directory in which the mirror is made; it may be deleted.
    :param lookup_timeout: the most seconds that a look-up may take, all attempts together.
    :param fetch_timeout: the most seconds that fetching the history may take.
    :param environ: the environment of this process.
    """

    _log = Logger()

    def __init__(
        self,
        source: GitSource,
        *,
        spawner: Spawner,
        clock: IReactorTime,
        workers: Workers,
        mirror_directory: Path,
        lookup_timeout: float,
        fetch_timeout: float,
        environ: Mapping[str, str],
    ) -> None:
        self._source = source
        self._url = source.public_url
        self._spawner = spawner
        self._clock = clock
        self._workers = workers
        url_hash = hashlib.sha256(self._url.encode()).hexdigest()
        self._mirror = mirror_directory / f"{url_hash[:16]}.git"
        self._lookup_timeout = lookup_timeout
        self._fetch_timeout = fetch_timeout
        self._remote_environment = git_arguments.environment(environ, source.url)
        self._local_environment = git_arguments.local_environment(environ)
        self._listing = RefListing(self._list_all, clock)
        self._mirror_lock = DeferredLock()
        self._event_numbers = count(1)
        self._last_fetch = 0

    async def check(self) -> None:
        """See :meth:`nixery.sources.interface.RefSource.check`."""
        await self._run(git_arguments.version(), self._local_environment, LOCAL_TIMEOUT)
        if self._source.lfs:
            await self._run(git_arguments.lfs_version(), self._local_environment, LOCAL_TIMEOUT)

    async def stop(self) -> None:
        """See :meth:`nixery.sources.interface.RefSource.stop`."""
        await self._listing.stop()

    async def find(self, reference: Reference, in_turn: InTurn | None = None) -> ResolvedRef | None:
        """See :meth:`nixery.sources.interface.RefSource.find`."""
        match reference:
            case GitRefs(names=names) if in_turn is None:
                command = git_arguments.list_refs(self._url, names)
                return (await self._list_refs(command, reference.describe())).find(names)
            case GitRefs(names=names):
                return await self._listing.find(names)
            case GitCommit(commit=commit, trusted=trusted):
                # A commit that has just been pushed is at a tip: no history has to be fetched.
                found = await self._listing.find_tip(commit)
                if found is None:
                    requested = next(self._event_numbers)

                    def look_up() -> Coroutine[Deferred[Any], Any, ResolvedRef | None]:
                        return self._find_in_history(commit, requested)

                    found = await (look_up() if in_turn is None else in_turn(look_up))
                return ResolvedRef(commit=commit) if found is None and trusted else found
        return None

    async def _find_in_history(self, commit: str, requested: int) -> ResolvedRef | None:
        """
        Search a commit in the history of all branches and tags.

        :param requested: the number of the request.
        """
        await self._mirror_lock.acquire()
        try:
            # Another caller's fetch suffices if it began after this call.
            if self._last_fetch < requested:
                self._last_fetch = next(self._event_numbers)
                try:
                    await self._convert_errors(self._fetch_history, commit)
                except BaseException:
                    self._last_fetch = 0
                    raise
            return await self._convert_errors(lambda: self._find_in_mirror(commit), commit)
        finally:
            self._mirror_lock.release()

    async def _list_all(self) -> RefList:
        return await self._list_refs(git_arguments.list_tips(self._url), "its branches and tags")

    async def _list_refs(self, argv: tuple[str, ...], what: str) -> RefList:
        async def list_once(timeout: float) -> RefList:
            return parse_refs(await self._run(argv, self._remote_environment, timeout))

        async def operation() -> RefList:
            return await retry(
                list_once,
                THREE_ATTEMPTS,
                clock=self._clock,
                timeout=self._lookup_timeout,
                is_temporary=_is_temporary,
            )

        return await self._convert_errors(operation, what)

    async def _fetch_history(self) -> None:
        await self._workers.run(_make_parent, self._mirror)
        try:
            await self._update_mirror()
        except ProcessFailed as error:
            if not _DAMAGED_MIRROR.search(error.output.stderr):
                raise
            self._log.warn(
                "Cloning the damaged mirror {mirror} again: {error}",
                mirror=str(self._mirror),
                error=error,
            )
            await self._workers.run(shutil.rmtree, self._mirror, ignore_errors=True)
            await self._update_mirror()

    async def _update_mirror(self) -> None:
        await self._run(
            git_arguments.make_mirror(self._mirror), self._local_environment, LOCAL_TIMEOUT
        )
        await self._run(
            git_arguments.fetch_history(self._mirror, self._url),
            self._remote_environment,
            self._fetch_timeout,
        )

    async def _find_in_mirror(self, commit: str) -> ResolvedRef | None:
        """Return the commit, if the mirror has it in the history of a ref."""
        try:
            object_type = await self._run(
                git_arguments.object_type(self._mirror, commit),
                self._local_environment,
                LOCAL_TIMEOUT,
            )
        except ProcessFailed:
            return None  # there is no such object
        if object_type.strip() != b"commit":
            return None
        try:
            ref = await self._run(
                git_arguments.contains(self._mirror, commit), self._local_environment, LOCAL_TIMEOUT
            )
        except ProcessFailed:
            # The mirror's history cannot be read: the next look-up starts with a new mirror.
            await self._workers.run(shutil.rmtree, self._mirror, ignore_errors=True)
            raise
        name = ref.decode("utf-8", "surrogateescape").strip()
        return ResolvedRef(commit=commit, ref=name) if name else None

    async def _run(
        self, argv: tuple[str, ...], environment: Mapping[str, str], timeout: float
    ) -> bytes:
        command = Command(
            argv=argv, environment=environment, timeout=timeout, stdout_limit=MAX_REF_BYTES
        )
        return (await self._spawner.run(command)).stdout

    async def _convert_errors(
        self,
        operation: Callable[[], Coroutine[Deferred[Any], Any, T]],
        what: str,
    ) -> T:
        """
        Run ``operation``, with failures of git converted.

        :param what: a description of the thing that is looked up.
        :raises SourceUnavailable: a command fails.
        """
        try:
            return await operation()
        except (ProcessFailed, ProcessTimedOut, OutputTooLarge) as error:
            raise git_failure(error, source=self._source.describe(), what=what) from error
        except ValueError as error:
            raise SourceUnavailable(
                source=self._source.describe(),
                what=what,
                reason=f"git was not understood: {error}",
            ) from error


def _is_temporary(error: Exception) -> bool:
    """True if a retry may succeed: git has one exit status for all failures."""
    return isinstance(error, ProcessTimedOut) or (
        isinstance(error, ProcessFailed) and advice_on(error.output.stderr) is None
    )


def _make_parent(path: Path) -> None:
    """
    Make the directory that a file will lie in.

    :raises StorageError: it cannot be made.
    """
    with translate_os_errors("keep a copy of the repository"):
        path.parent.mkdir(parents=True, exist_ok=True)
