"""
The fake Google Cloud Storage as an HTTP server.

    python -m tests.support.fake_gcs.server [--port N]

It listens on the loopback interface, says where on its first line, and ends with its
standard input.  Each request is one of the operations ``list``, ``stat``, ``media``,
``multipart``, ``start``, ``chunk``, ``final``, ``query``, ``cancel``, ``move``,
``rewrite``, ``patch``, ``delete``, ``signed`` (a GET or HEAD of an object's own URL),
``token``, ``sign``.  A fault is for one of them, and does one of these:

- ``status``: answer with the status ``value``, and do nothing;
- ``reset``: reset the connection, and do nothing;
- ``html``: answer 200 with a page of HTML, and do nothing;
- ``stall``: answer never;
- ``drop``: do it, and reset the connection instead of answering;
- ``late``: do it, and answer with the status ``value`` nevertheless;
- ``page``: do it, and answer 200 with a page of HTML;
- ``short``: keep only the first ``value`` bytes of a chunk;
- ``forget``: forget the session, and answer with the status ``value``;
- ``flip``: change a byte of what is received, or of what is sent;
- ``cut``: send half of what is announced;
- ``stuck``: a copy makes no progress;
- ``slow``: ``value`` milliseconds before the answer.

``/control`` is for tests: see :mod:`tests.support.fake_gcs.process`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from email import message_from_bytes
from io import BytesIO
from threading import Thread
from typing import Any, cast
from urllib.parse import parse_qsl, unquote
from uuid import uuid4

from attrs import evolve, field, frozen
from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests.support.fake_gcs.auth import ACCOUNT, Authority
from tests.support.fake_gcs.state import Bucket, Fault, Refusal, Session, Thing, crc_text

reactor: Any = _reactor  # which has no type

JSON = {"Content-Type": "application/json; charset=UTF-8"}
PAGE = b"<!DOCTYPE html><title>Welcome to the hotel's network</title>"


@frozen(kw_only=True)
class Reply:
    """The answer to a request."""

    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""


@frozen(kw_only=True)
class Call:
    """
    A request.

    :param operation: which of those that the module lists.
    :param query: its parameters.
    :param headers: by their names in lower case.
    :param url: the base URL that it was sent to.
    """

    method: str
    operation: str
    bucket: Bucket
    name: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    url: str
    fault: Fault | None = None

    def number(self, parameter: str) -> int | None:
        value = self.query.get(parameter)
        return None if value is None else int(value)

    def meets(self, action: str) -> bool:
        return self.fault is not None and self.fault.action == action


def as_json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    body = json.dumps(value).encode()
    return Reply(status=status, headers={**JSON, **(headers or {})}, body=body)


class Service(Resource):
    """All there is, at any path."""

    def __init__(self) -> None:
        super().__init__()
        self.isLeaf = True
        self.authority = Authority()
        self.buckets: dict[str, Bucket] = {}
        self.general = Bucket(name="")
        self.missing = Bucket(name="(none)")

    def render(self, request: Request) -> bytes | int:
        path, _, query = request.uri.decode("ascii").partition("?")
        assert request.content is not None
        body = request.content.read()
        if path.startswith("/control/"):
            reply = self.control(path.removeprefix("/control/"), json.loads(body))
            return _send(request, reply)
        try:
            call = self.parse(request, path, query, body)
        except Refusal as refusal:
            return _send(request, _refused(refusal))
        fault = call.bucket.fault(call.operation)
        # A fault changes while it is at work; this request has it as it is now.
        call = evolve(call, fault=fault)
        return self.answer(request, call)

    def answer(self, request: Request, call: Call) -> bytes | int:
        action, value = (call.fault.action, call.fault.value) if call.fault else ("", 0)
        if action == "reset":
            _reset(request)
            call.bucket.log.append((call.operation, 0))
            return NOT_DONE_YET
        if action == "stall":
            call.bucket.log.append((call.operation, 0))
            return NOT_DONE_YET
        if action == "status":
            reply = _refused(Refusal(value, f"a fault of status {value}"))
        elif action == "html":
            reply = Reply(headers={"Content-Type": "text/html"}, body=PAGE)
        else:
            reply = self.perform(call)
        call.bucket.log.append((call.operation, reply.status))
        if action == "drop":
            _reset(request)
            return NOT_DONE_YET
        if action == "late":
            reply = _refused(Refusal(value, f"a fault of status {value}"))
        elif action == "page":
            reply = Reply(headers={"Content-Type": "text/html"}, body=PAGE)
        elif action == "cut":
            _send(request, reply, half=True)
            reactor.callLater(0.02, _reset, request)
            return NOT_DONE_YET
        pause = value / 1000 if action == "slow" else call.bucket.latency
        if pause:
            reactor.callLater(pause, _finish, request, reply)
            return NOT_DONE_YET
        return _send(request, reply)

    def perform(self, call: Call) -> Reply:
        handler: Callable[[Call], Reply] = getattr(self, f"do_{call.operation}")
        try:
            if call.operation not in ("signed", "token", "metadata") and not self.authority.admits(
                call.headers.get("authorization")
            ):
                raise Refusal(401, "Invalid Credentials")
            if call.bucket is self.missing:
                raise Refusal(404, "The specified bucket does not exist.")
            return handler(call)
        except Refusal as refusal:
            return _refused(refusal)

    # -- what is asked for --------------------------------------------------------

    def parse(self, request: Request, path: str, query: str, body: bytes) -> Call:
        method = request.method.decode("ascii")
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        headers = {
            name.decode("latin-1").lower(): values[-1].decode("latin-1")
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        operation, bucket, name = self.route(method, path, parameters, headers)
        return Call(
            method=method,
            operation=operation,
            bucket=bucket,
            name=name,
            query={**parameters, "": query},
            headers=headers,
            body=body,
            url=f"http://{headers['host']}",
        )

    def route(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[str, Bucket, str]:
        if path == "/token":
            return "token", self.general, ""
        if path == "/" or path.startswith("/computeMetadata/"):
            return "metadata", self.general, path
        if path.endswith(":signBlob"):
            return "sign", self.general, path
        prefix, api, rest = path.partition("/storage/v1/b/")
        if not api:
            bucket, _, _ = path[1:].partition("/")
            return "signed", self.bucket(bucket), path
        bucket, _, tail = rest.partition("/o")
        name, verb, target = tail[1:].partition("/")
        place = self.bucket(bucket)
        if prefix == "/upload":
            return _upload_operation(method, query, headers), place, query.get("upload_id", "")
        if not name:
            return "list", place, ""
        if verb and target.startswith("moveTo/o/"):
            return "move", place, f"{name}>{target.removeprefix('moveTo/o/')}"
        if verb and target.startswith("rewriteTo/b/"):
            return "rewrite", place, f"{name}>{target.rpartition('/o/')[2]}"
        if query.get("alt") == "media":
            return "media", place, unquote(name)
        kinds = {"GET": "stat", "PATCH": "patch", "DELETE": "delete"}
        return kinds[method], place, unquote(name)

    def bucket(self, name: str) -> Bucket:
        return self.buckets.get(unquote(name), self.missing)

    # -- objects --------------------------------------------------------------------

    def do_list(self, call: Call) -> Reply:
        prefix, after = call.query.get("prefix", ""), call.query.get("pageToken", "")
        size = min(call.number("maxResults") or 1000, 1000)
        names = sorted(
            name for name in call.bucket.things if name.startswith(prefix) and name > after
        )
        page: dict[str, Any] = {"kind": "storage#objects"}
        if names:
            page["items"] = [call.bucket.things[name].resource() for name in names[:size]]
        if len(names) > size:
            page["nextPageToken"] = names[size - 1]
        return as_json(page)

    def do_stat(self, call: Call) -> Reply:
        return as_json(call.bucket.get(call.name, call.number("generation")).resource())

    def do_media(self, call: Call) -> Reply:
        return _media(call, call.bucket.get(call.name, call.number("generation")))

    def do_signed(self, call: Call) -> Reply:
        if not call.bucket.public:
            self.authority.verify_url(call.method, call.name, call.query[""], call.headers)
        name = unquote(call.name[1:].partition("/")[2])
        reply = _media(call, call.bucket.get(name))
        return evolve(reply, body=b"") if call.method == "HEAD" else reply

    def do_patch(self, call: Call) -> Reply:
        changes = json.loads(call.body)
        thing = call.bucket.patch(call.name, changes, call.number("ifGenerationMatch"))
        return as_json(thing.resource())

    def do_delete(self, call: Call) -> Reply:
        call.bucket.delete(call.name, call.number("ifGenerationMatch"))
        return Reply(status=204)

    def do_move(self, call: Call) -> Reply:
        source, _, name = call.name.partition(">")
        thing = call.bucket.move(
            unquote(source),
            unquote(name),
            call.number("ifGenerationMatch"),
            call.number("ifSourceGenerationMatch"),
        )
        return as_json(thing.resource())

    def do_rewrite(self, call: Call) -> Reply:
        """A copy in two steps, however small."""
        source, _, name = call.name.partition(">")
        thing = call.bucket.get(unquote(source), call.number("ifSourceGenerationMatch"))
        call.bucket.check(unquote(name), call.number("ifGenerationMatch"))
        token = call.query.get("rewriteToken")
        size = len(thing.data)
        done = 0 if call.meets("stuck") else size // 2
        if token is None or call.meets("stuck"):
            token = uuid4().hex
            call.bucket.tokens[token] = done
            return as_json(
                {
                    "done": False,
                    "rewriteToken": token,
                    "totalBytesRewritten": str(done),
                    "objectSize": str(size),
                }
            )
        if call.bucket.tokens.pop(token, None) is None:
            raise Refusal(410, "The rewrite token is not valid.")
        changes = json.loads(call.body or b"{}")
        copy = Thing(
            name=unquote(name),
            data=thing.data,
            content_type=changes.get("contentType", thing.content_type),
            cache_control=changes.get("cacheControl", thing.cache_control),
        )
        call.bucket.store(copy, call.number("ifGenerationMatch"))
        return as_json(
            {
                "done": True,
                "totalBytesRewritten": str(size),
                "objectSize": str(size),
                "resource": copy.resource(),
            }
        )

    # -- uploads ----------------------------------------------------------------------

    def do_multipart(self, call: Call) -> Reply:
        head = f"Content-Type: {call.headers['content-type']}\r\n\r\n".encode()
        boundary = message_from_bytes(head).get_boundary()
        assert boundary is not None
        mark = b"--" + boundary.encode("ascii")
        begin = call.body.index(mark, len(mark))
        description = json.loads(call.body[len(mark) : begin].partition(b"\r\n\r\n")[2])
        part, _, rest = call.body[begin + len(mark) :].lstrip(b"\r\n").partition(b"\r\n\r\n")
        data = rest[: rest.rindex(b"\r\n" + mark + b"--")]
        media_type = message_from_bytes(part + b"\r\n\r\n")["Content-Type"]
        if media_type != description.get("contentType", media_type):
            raise Refusal(412, "Content-Type validation failed")
        thing = Thing(
            name=description["name"],
            data=_flipped(data) if call.meets("flip") else data,
            content_type=media_type,
            cache_control=description.get("cacheControl", ""),
        )
        call.bucket.store(thing, call.number("ifGenerationMatch"), description.get("crc32c"))
        return as_json(thing.resource())

    def do_start(self, call: Call) -> Reply:
        description = json.loads(call.body or b"{}")
        name = call.query.get("name") or description["name"]
        match = call.number("ifGenerationMatch")
        call.bucket.check(name, match)
        id_ = uuid4().hex
        call.bucket.sessions[id_] = Session(name=name, description=description, match=match)
        path = f"/upload/storage/v1/b/{call.bucket.name}/o?uploadType=resumable&upload_id={id_}"
        return Reply(headers={"Location": call.url + path})

    def do_chunk(self, call: Call) -> Reply:
        return self._chunk(call)

    def do_final(self, call: Call) -> Reply:
        return self._chunk(call)

    def do_query(self, call: Call) -> Reply:
        session = self._session(call)
        if session.done is not None:
            return as_json(session.done.resource())
        total = call.headers["content-range"].rpartition("/")[2]
        if total != "*" and int(total) == len(session.kept):
            return as_json(call.bucket.finish(session, _announced(call)).resource())
        return _incomplete(session)

    def do_cancel(self, call: Call) -> Reply:
        self._session(call)
        del call.bucket.sessions[call.name]
        return Reply(status=499)

    def _session(self, call: Call) -> Session:
        if call.meets("forget"):
            call.bucket.sessions.pop(call.name, None)
            assert call.fault is not None
            raise Refusal(call.fault.value, "the session has been forgotten")
        session = call.bucket.sessions.get(call.name)
        if session is None:
            raise Refusal(404, "There is no such upload session.")
        return session

    def _chunk(self, call: Call) -> Reply:
        session = self._session(call)
        if session.done is not None:
            return as_json(session.done.resource())
        span, _, total = call.headers["content-range"].removeprefix("bytes ").partition("/")
        start, _, last = span.partition("-")
        if int(last) - int(start) + 1 != len(call.body):
            raise Refusal(400, "The range is not the body's.")
        if int(start) > len(session.kept):
            raise Refusal(503, "There is a gap before this chunk.")
        data = _flipped(call.body) if call.meets("flip") else call.body
        fresh = data[len(session.kept) - int(start) :]
        if call.meets("short"):
            assert call.fault is not None
            session.kept += fresh[: call.fault.value]
            return _incomplete(session)
        session.kept += fresh
        if total == "*":
            if len(call.body) % (256 * 1024):
                raise Refusal(400, "A chunk is a multiple of 256 KiB.")
            return _incomplete(session)
        if len(session.kept) != int(total):
            return _incomplete(session)
        return as_json(call.bucket.finish(session, _announced(call)).resource())

    # -- accounts -----------------------------------------------------------------------

    def do_token(self, call: Call) -> Reply:
        return as_json(self.authority.exchange(call.body))

    def do_sign(self, call: Call) -> Reply:
        if ACCOUNT not in unquote(call.name):
            raise Refusal(404, "There is no such account.")
        return as_json(self.authority.sign_blob(call.body))

    def do_metadata(self, call: Call) -> Reply:
        flavor = {"Metadata-Flavor": "Google"}
        if call.name.endswith("/token"):
            return as_json(self.authority.token(), headers=flavor)
        if "universe" in call.name:
            return Reply(headers={**flavor, "Content-Type": "text/plain"}, body=b"googleapis.com")
        if "service-accounts" in call.name:
            account = {"email": ACCOUNT, "aliases": ["default"], "scopes": ["cloud-platform"]}
            return as_json(account, headers=flavor)
        return Reply(headers={**flavor, "Content-Type": "text/plain"}, body=b"project")

    # -- tests --------------------------------------------------------------------------

    def control(self, what: str, given: dict[str, Any]) -> Reply:
        name = given.pop("bucket", None)
        if what == "make":
            self.buckets[name] = Bucket(name=name, **given)
            return Reply(status=204)
        bucket = self.general if name is None else self.buckets.get(name)
        if bucket is None:
            return Reply(status=404)
        handler: Callable[[Bucket, dict[str, Any]], Any] = getattr(self, f"tell_{what}")
        answer = handler(bucket, given)
        return Reply(status=204) if answer is None else as_json(answer)

    def tell_account(self, _bucket: Bucket, given: dict[str, Any]) -> Any:
        return self.authority.key_file(given["url"])

    def tell_clock(self, _bucket: Bucket, given: dict[str, Any]) -> None:
        self.authority.skew = given["skew"]

    def tell_fault(self, bucket: Bucket, given: dict[str, Any]) -> None:
        bucket.faults.append(Fault(**given))

    def tell_heal(self, bucket: Bucket, _given: dict[str, Any]) -> None:
        bucket.faults.clear()
        bucket.log.clear()

    def tell_latency(self, bucket: Bucket, given: dict[str, Any]) -> None:
        bucket.latency = given["seconds"]

    def tell_put(self, bucket: Bucket, given: dict[str, Any]) -> None:
        bucket.put(given["name"], bytes.fromhex(given["hex"]), given["type"], given["age"])

    def tell_remove(self, bucket: Bucket, given: dict[str, Any]) -> None:
        del bucket.things[given["name"]]

    def tell_state(self, bucket: Bucket, _given: dict[str, Any]) -> Any:
        return bucket.state()


def _upload_operation(method: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    if "upload_id" not in query:
        return {"multipart": "multipart", "resumable": "start"}[query["uploadType"]]
    if method == "DELETE":
        return "cancel"
    span = headers.get("content-range", "")
    if span.startswith("bytes */"):
        return "query"
    return "chunk" if span.endswith("/*") else "final"


def _media(call: Call, thing: Thing) -> Reply:
    data = _flipped(thing.data) if call.meets("flip") else thing.data
    headers = {
        "Content-Type": thing.content_type,
        "Cache-Control": thing.cache_control,
        "X-Goog-Hash": f"crc32c={crc_text(thing.data)}",
        "X-Goog-Generation": str(thing.generation),
        "Accept-Ranges": "bytes",
    }
    span = call.headers.get("range")
    if span is None:
        return Reply(headers=headers, body=data)
    del headers["X-Goog-Hash"]  # it would be the whole object's
    start, _, last = span.removeprefix("bytes=").partition("-")
    begin = int(start) if start else max(0, len(data) - int(last))
    end = min(int(last), len(data) - 1) if start and last else len(data) - 1
    if begin > end:
        return Reply(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
    return Reply(status=206, headers=headers, body=data[begin : end + 1])


def _incomplete(session: Session) -> Reply:
    kept = {"Range": f"bytes=0-{len(session.kept) - 1}"} if session.kept else {}
    return Reply(status=308, headers=kept)


def _announced(call: Call) -> str | None:
    for each in call.headers.get("x-goog-hash", "").split(","):
        name, _, value = each.strip().partition("=")
        if name == "crc32c":
            return value
    return None


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _refused(refusal: Refusal) -> Reply:
    error = {"message": refusal.message, "domain": "global", "reason": "fake"}
    return as_json(
        {"error": {"code": refusal.status, "message": refusal.message, "errors": [error]}},
        refusal.status,
    )


def _send(request: Request, reply: Reply, *, half: bool = False) -> bytes | int:
    request.setResponseCode(reply.status)
    for name, value in reply.headers.items():
        request.setHeader(name, value)
    request.setHeader("Content-Length", str(len(reply.body)))
    if half:
        request.write(reply.body[: len(reply.body) // 2])
        return NOT_DONE_YET
    if request.method == b"HEAD":
        request.write(b"")
    return reply.body


def _finish(request: Request, reply: Reply) -> None:
    if request.transport is None or request.channel is None:
        return
    body = _send(request, reply)
    assert isinstance(body, bytes)
    request.write(body)
    request.finish()


def _reset(request: Request) -> None:
    transport: Any = request.transport  # TCP
    if transport is not None:
        transport.abortConnection()


class _InMemory(Request):
    """A request whose body never touches the disk."""

    def gotLength(self, _length: int | None) -> None:  # noqa: N802  # the interface's name
        self.content = BytesIO()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.fake_gcs.server")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    site: Any = Site(Service(), requestFactory=_InMemory)
    port = reactor.listenTCP(options.port, site, interface="127.0.0.1", backlog=512)
    print(f"http://127.0.0.1:{cast(IPv4Address, port.getHost()).port}", flush=True)

    def wait_for_the_end() -> None:
        sys.stdin.buffer.read()
        reactor.callFromThread(reactor.stop)

    Thread(target=wait_for_the_end, daemon=True).start()
    reactor.run()


if __name__ == "__main__":
    main()
