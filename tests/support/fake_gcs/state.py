"""
The content of a bucket of the fake Google Cloud Storage, and the rules it keeps.

Pure: no HTTP here.  The rules are those that publication relies on: generations and
preconditions, checksums, sessions that keep what they were given and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import google_crc32c
from attrs import define, evolve, field, frozen

__all__ = ["CHUNK_UNIT", "Bucket", "Fault", "Refusal", "Session", "Thing", "crc_text"]

CHUNK_UNIT = 256 * 1024

_generations = count(int(datetime.now(UTC).timestamp() * 1e6))


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@frozen(kw_only=True)
class Thing:
    """An object."""

    name: str
    data: bytes = field(repr=False)
    content_type: str
    cache_control: str = ""
    generation: int = field(factory=lambda: next(_generations))
    metageneration: int = 1
    created: datetime = field(factory=lambda: datetime.now(UTC))

    @property
    def crc32c(self) -> str:
        return crc_text(self.data)

    def resource(self) -> dict[str, Any]:
        """As the JSON API describes it; Google's test service leaves out what is zero."""
        size = {"size": str(len(self.data))} if self.data else {}
        return {
            "kind": "storage#object",
            "name": self.name,
            **size,
            "contentType": self.content_type,
            "cacheControl": self.cache_control,
            "crc32c": self.crc32c,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "timeCreated": self.created.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }


@define(kw_only=True)
class Session:
    """A resumable upload."""

    name: str
    description: Mapping[str, Any]
    match: int | None
    kept: bytearray = field(factory=bytearray)
    done: Thing | None = None


@define(kw_only=True)
class Fault:
    """
    Something that goes wrong.

    :param where: the operation, ``*`` for any.
    :param action: what happens, see :mod:`tests.support.fake_gcs.server`.
    :param times: how often.
    :param skip: how many requests it spares first.
    """

    where: str
    action: str
    times: int = 1
    skip: int = 0
    value: int = 0


@define(kw_only=True)
class Bucket:
    """
    A bucket.

    :param public: whether its objects may be read without a signature.
    :param latency: seconds before each answer.
    """

    name: str
    public: bool = False
    latency: float = 0.0
    things: dict[str, Thing] = field(factory=dict)
    sessions: dict[str, Session] = field(factory=dict)
    tokens: dict[str, int] = field(factory=dict)
    faults: list[Fault] = field(factory=list)
    log: list[tuple[str, int]] = field(factory=list)
    published: dict[str, int] = field(factory=dict)
    """Counts of the objects that were made under each name."""

    def fault(self, operation: str) -> Fault | None:
        """Take the fault that this request meets, if any."""
        for fault in self.faults:
            if fault.where not in ("*", operation) or fault.times <= 0:
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.times -= 1
            return fault
        return None

    def get(self, name: str, generation: int | None = None) -> Thing:
        thing = self.things.get(name)
        if thing is None or (generation is not None and generation != thing.generation):
            raise Refusal(404, f"No such object: {self.name}/{name}")
        return thing

    def check(self, name: str, match: int | None) -> None:
        """:raises Refusal: the precondition on what has this name does not hold."""
        thing = self.things.get(name)
        if match is not None and match != (0 if thing is None else thing.generation):
            raise Refusal(412, "At least one of the pre-conditions you specified did not hold.")

    def store(self, thing: Thing, match: int | None, crc32c: str | None = None) -> Thing:
        """Make an object, if precondition and checksum allow it."""
        self.check(thing.name, match)
        if crc32c is not None and crc32c != thing.crc32c:
            raise Refusal(
                400, f"Provided CRC32C {crc32c} doesn't match calculated CRC32C {thing.crc32c}."
            )
        self.things[thing.name] = thing
        self.published[thing.name] = self.published.get(thing.name, 0) + 1
        return thing

    def finish(self, session: Session, crc32c: str | None) -> Thing:
        """Make an object of a session."""
        thing = Thing(
            name=session.name,
            data=bytes(session.kept),
            content_type=session.description.get("contentType", "application/octet-stream"),
            cache_control=session.description.get("cacheControl", ""),
        )
        session.done = self.store(thing, session.match, crc32c)
        session.kept = bytearray()
        return session.done

    def move(self, source: str, name: str, match: int | None, source_match: int | None) -> Thing:
        """Rename, atomically."""
        thing = self.get(source)
        if source_match is not None and source_match != thing.generation:
            raise Refusal(412, "The source's precondition did not hold.")
        self.check(name, match)
        del self.things[source]
        return self.store(
            Thing(
                name=name,
                data=thing.data,
                content_type=thing.content_type,
                cache_control=thing.cache_control,
                created=thing.created,
            ),
            match,
        )

    def patch(self, name: str, changes: Mapping[str, Any], match: int | None) -> Thing:
        """Change an object's description."""
        thing = self.get(name)
        self.check(name, match)
        thing = evolve(
            thing,
            content_type=changes.get("contentType", thing.content_type),
            cache_control=changes.get("cacheControl", thing.cache_control),
            metageneration=thing.metageneration + 1,
        )
        self.things[name] = thing
        return thing

    def delete(self, name: str, match: int | None) -> None:
        self.get(name)
        self.check(name, match)
        del self.things[name]

    def put(self, name: str, data: bytes, content_type: str, age: float) -> None:
        """An object that was made ``age`` seconds ago, without an upload."""
        self.things[name] = Thing(
            name=name,
            data=data,
            content_type=content_type,
            created=datetime.now(UTC) - timedelta(seconds=age),
        )

    def state(self) -> dict[str, Any]:
        """All that tests look at."""
        return {
            "things": {
                name: {
                    "size": len(thing.data),
                    "type": thing.content_type,
                    "cache": thing.cache_control,
                    "sha256": hashlib.sha256(thing.data).hexdigest(),
                    "published": self.published.get(name, 0),
                }
                for name, thing in self.things.items()
            },
            "sessions": sum(session.done is None for session in self.sessions.values()),
            "log": self.log,
            "faults": sum(fault.times > 0 for fault in self.faults),
        }


def crc_text(data: bytes) -> str:
    """A CRC32C as the service writes it."""
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode("ascii")
