"""
Reads and writes blobs in a directory, with blocking calls.

Everything here runs on worker threads, several at a time, and in several
processes at a time that share the directory;
:mod:`nixery.storage.filesystem.backend` is the asynchronous interface for the reactor.

A blob is a file, its bytes, and a symbolic link, whose target is their description::

    ab/abcd...                the bytes of sha256:abcd...
    ab/abcd....json -> {"mediaType": "...", "size": 1234}

Older versions stored descriptions as files; these are read too.

A blob exists when its description does and agrees with the size of its bytes.  The
bytes move to their place first, and the description last and only if there is
none, so that

- a blob becomes visible whole, at one instant, and its media type never changes;
- bytes without a description, a description without bytes and bytes of a wrong
  size, which a crash or a disk may leave, are no blob: it is made again, and
  a whole blob is never absent meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress

from twisted.logger import Logger

from nixery.image.names import Digest, parse_digest
from nixery.storage.errors import BlobUnknown, DigestMismatch
from nixery.storage.filesystem.atomic_files import (
    SmallTempFile,
    SymlinkRecord,
    TempFile,
    write_symlink_record,
)
from nixery.storage.filesystem.batch_publish import publish_together
from nixery.storage.filesystem.files import read_symlink_record, translate_os_errors
from nixery.storage.filesystem.last_used import record_use
from nixery.storage.interface import BlobInfo, ByteRange, OpenFile
from nixery.storage.rules import check_small

__all__ = ["DESCRIPTION", "BlobPlacement", "Blobs", "read_description"]

DESCRIPTION = ".json"
"""The suffix of a description's name, after the name of the blob."""


class Blobs:
    """
    The blobs of a directory.

    It has no state except its paths, so that any number of threads and processes
    may use it.  Methods raise :class:`nixery.errors.StorageError` or, if there is
    no free space left, its subclass :class:`nixery.storage.errors.StorageFull`.

    :param directory: the directory of the blobs; it exists.
    :param temp_directory: the directory they are written in, on the same file system.
    """

    _log = Logger()

    def __init__(self, directory: str, temp_directory: str) -> None:
        self._directory = directory
        self._temp_directory = temp_directory

    def stat(self, digest: Digest, *, is_use: bool = True) -> BlobInfo:
        """
        Return what is known of a blob.

        :param is_use: whether to record the time as that of its last use.
        :raises BlobUnknown: there is no such blob, or no whole one.
        """
        path = self._path(digest)
        with translate_os_errors("look a blob up"):
            try:
                status = os.stat(path)
                if is_use:
                    record_use(path, status)
            except FileNotFoundError:
                raise BlobUnknown(digest=digest) from None
            return self._check_size(digest, path, status.st_size)

    def claim(self, digest: Digest) -> BlobInfo:
        """
        Mark a blob that is about to be named as in use for :mod:`.garbage_collector`.
        :raises BlobUnknown: there is no such blob, or no whole one.
        """
        path = self._path(digest)
        with translate_os_errors("look a blob up"):
            try:
                os.utime(path)
                size = os.stat(path).st_size
            except FileNotFoundError:
                raise BlobUnknown(digest=digest) from None
            return self._check_size(digest, path, size)

    def missing(self, digests: Iterable[Digest], *, is_use: bool = True) -> frozenset[Digest]:
        """Return those of ``digests`` that are not there, or not whole."""
        return frozenset(digest for digest in digests if self._find(digest, is_use=is_use) is None)

    def open(self, digest: Digest, *, is_use: bool = True) -> OpenFile:
        """:raises BlobUnknown: there is no such blob, or no whole one."""
        path = self._path(digest)
        with translate_os_errors("open a blob"):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise BlobUnknown(digest=digest) from None
            try:
                status = os.fstat(descriptor)
                if is_use:
                    record_use(descriptor, status)
                info = self._check_size(digest, path, status.st_size)
            except BaseException:
                os.close(descriptor)
                raise
        return OpenFile(info=info, descriptor=descriptor)

    def read(self, digest: Digest, *, is_use: bool = True) -> bytes:
        """
        Read a small blob as a whole, and verify its digest.

        A damaged blob of the right size is removed, so that it is made again like any
        other missing blob.

        :raises BlobUnknown: there is no such blob, or no whole one.
        """
        source = self.open(digest, is_use=is_use)
        with translate_os_errors("read a blob"):
            with os.fdopen(source.descriptor, "rb") as file:
                check_small(f"read {digest}", source.info.size)
                data = file.read(source.info.size)
            actual = _digest(data)
            if actual != digest:
                self._log.error(
                    "{digest} is damaged, its bytes hash to {actual}: it is withdrawn",
                    digest=digest,
                    actual=actual,
                )
                with suppress(FileNotFoundError):
                    os.unlink(self._path(digest) + DESCRIPTION)
                raise BlobUnknown(digest=digest)
        return data

    def read_part(self, digest: Digest, part: ByteRange) -> bytes:
        """:raises BlobUnknown: there is no such blob, or no whole one."""
        check_small(f"read a part of {digest}", part.stop - part.start)
        source = self.open(digest, is_use=False)
        with (
            translate_os_errors("read a part of a blob"),
            os.fdopen(source.descriptor, "rb") as file,
        ):
            file.seek(part.start)
            return file.read(part.stop - part.start)

    def create(self) -> TempFile:
        """Begin a blob whose digest is not known yet."""
        return TempFile(self._temp_directory)

    def commit(self, temp_file: TempFile, digest: Digest, size: int, media_type: str) -> BlobInfo:
        """
        Make a temporary file visible under ``digest``; the temporary file ends in any case.

        It is not checked that the bytes hash to ``digest``: the caller computed the digest
        while writing them, and reading them again would double the cost.

        :return: the blob as it is stored: an existing one keeps its media type.
        :raises DigestMismatch: the temporary file is not ``size`` bytes long.
        """
        with ExitStack() as exit_stack, translate_os_errors("store a blob"):
            blob = self.prepare(exit_stack, temp_file, digest, size, media_type)
            publish_together([blob])
        return blob.info

    def prepare(
        self, exit_stack: ExitStack, temp_file: TempFile, digest: Digest, size: int, media_type: str
    ) -> BlobPlacement:
        """
        Prepare what :meth:`commit` does, to become visible in one operation with others.

        :param exit_stack: the stack whose exit ends the temporary file and everything else that is
            made.
        """
        exit_stack.enter_context(temp_file)
        if temp_file.size != size:
            raise DigestMismatch(
                operation=f"store {digest}",
                reason=f"{temp_file.size} bytes were written, and {size} announced",
                expected=f"{size} bytes",
                actual=f"{temp_file.size} bytes",
            )
        info = BlobInfo(digest=digest, size=size, media_type=media_type)
        existing = self._find(digest)
        # Equal digests have equal sizes, unless both files of the blob are damaged.
        if existing is not None and existing.size == size:
            return BlobPlacement(existing, self._path(digest))
        return self._new_placement(exit_stack, temp_file, info)

    def prepare_small(self, exit_stack: ExitStack, data: bytes, media_type: str) -> BlobPlacement:
        """
        Prepare what :meth:`put` does, to become visible in one operation with others.

        An existing blob is claimed; a garbage collection recognizes a new one anyway.
        """
        check_small("store a blob", len(data))
        info = BlobInfo(digest=_digest(data), size=len(data), media_type=media_type)
        with suppress(BlobUnknown):
            existing = self.claim(info.digest)
            if existing.size == info.size:
                return BlobPlacement(existing, self._path(info.digest))
        return self._new_placement(
            exit_stack, exit_stack.enter_context(SmallTempFile(self._temp_directory, data)), info
        )

    def put(self, data: bytes, media_type: str) -> BlobInfo:
        """Store a small blob; an existing one is kept."""
        with ExitStack() as exit_stack, translate_os_errors("store a blob"):
            blob = self.prepare_small(exit_stack, data, media_type)
            publish_together([blob])
        return blob.info

    def _path(self, digest: Digest) -> str:
        """Return the path of a blob's bytes.  Parses again: no digest may leave the directory."""
        hexadecimal = parse_digest(digest).removeprefix("sha256:")
        return os.path.join(self._directory, hexadecimal[:2], hexadecimal)

    def _check_size(self, digest: Digest, path: str, size: int) -> BlobInfo:
        """:raises BlobUnknown: ``size`` bytes are not what the description says."""
        info = _stored_info(digest, path)
        if info is None:
            self._log.info(
                "{digest} has bytes and no description: it counts as absent", digest=digest
            )
            raise BlobUnknown(digest=digest)
        if info.size != size:
            self._log.error(
                "{digest} is damaged, {size} bytes of {expected} are there: it counts as absent",
                digest=digest,
                size=size,
                expected=info.size,
            )
            raise BlobUnknown(digest=digest)
        return info

    def _find(self, digest: Digest, *, is_use: bool = True) -> BlobInfo | None:
        """Return the blob, if it is there and whole."""
        try:
            return self.stat(digest, is_use=is_use)
        except BlobUnknown:
            return None

    def _new_placement(
        self, exit_stack: ExitStack, temp_file: TempFile | SmallTempFile, info: BlobInfo
    ) -> BlobPlacement:
        text = json.dumps({"mediaType": info.media_type, "size": info.size}, sort_keys=True)
        description = write_symlink_record(exit_stack, self._temp_directory, text.encode("ascii"))
        return BlobPlacement(info, self._path(info.digest), temp_file, description)


class BlobPlacement:
    """
    A :class:`nixery.storage.filesystem.batch_publish.Placement` of a blob.

    :ivar info: once it is placed, the blob as it is stored: an existing one keeps its
        media type.
    """

    def __init__(
        self,
        info: BlobInfo,
        path: str,
        temp_file: TempFile | SmallTempFile | None = None,
        description: SymlinkRecord | SmallTempFile | None = None,
    ) -> None:
        self.info = info
        self._path = path
        self._temp_file = temp_file
        self._description = description

    @property
    def temp_files(self) -> Sequence[TempFile | SymlinkRecord | SmallTempFile]:
        return [
            temp_file for temp_file in (self._temp_file, self._description) if temp_file is not None
        ]

    def place(self) -> str:
        if self._temp_file is not None and self._description is not None:
            # Replaces damaged bytes, or equal bytes of a concurrent commit.  A reader
            # that has the replaced file open reads it to its end.
            self._temp_file.rename(self._path)
            self._describe(self._description)
        # The concurrent commit that stored an existing blob may not have synchronised it yet.
        return os.path.dirname(self._path)

    def _describe(self, description: SymlinkRecord | SmallTempFile) -> None:
        """Store a blob's size and media type, unless they are stored already."""
        try:
            description.link(self._path + DESCRIPTION)
        except FileExistsError:
            existing = _stored_info(self.info.digest, self._path)
            if existing is not None and existing.size == self.info.size:
                self.info = existing
            else:
                description.rename(self._path + DESCRIPTION)


def read_description(path: str) -> tuple[str, int] | None:
    """
    Read the description of a blob.

    :param path: the path of the description.
    :return: its media type, and its size in bytes; ``None`` if the content is invalid.
    :raises OSError: it cannot be read.
    :raises StorageError: it is too large to be one.
    """
    try:
        description = json.loads(read_symlink_record(path))
    except (FileNotFoundError, ValueError):
        return None
    match description:
        case {"size": int(size), "mediaType": str(media_type)}:
            return media_type, size
    return None


def _stored_info(digest: Digest, path: str) -> BlobInfo | None:
    description = read_description(path + DESCRIPTION)
    return description and BlobInfo(digest=digest, media_type=description[0], size=description[1])


def _digest(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())
