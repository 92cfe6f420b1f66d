"""Channels, through treq's own stack and a host in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treq.testing import StubTreq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IResponse
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from nixery.runtime.http_download import Fetcher
from nixery.sources.channels import ChannelHost
from nixery.sources.errors import SourceUnavailable
from nixery.sources.interface import LookUp, RefSource
from nixery.sources.source import ResolvedRef
from nixery.sources.tag_policy import ChannelName, GitRefs, NixpkgsCommit, Reference
from nixery.testing.fakes import InlineWorkers

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNSTABLE = ChannelName(name="nixos-unstable")

Answer = Callable[[Request], bytes | int]


class Host(Resource):
    """Answers every path as it is told to, one answer after the other, then the last again."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self.answers = list(answers)
        self.paths: list[bytes] = []

    def render_GET(self, request: Request) -> bytes | int:  # noqa: N802  # Twisted's name
        self.paths.append(request.uri)
        return (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(request)


def text(body: str, status: int = 200) -> Answer:
    def answer(request: Request) -> bytes:
        request.setResponseCode(status)
        return body.encode()

    return answer


def redirect(target: str, status: int = 302) -> Answer:
    def answer(request: Request) -> bytes:
        request.setResponseCode(status)
        request.setHeader("Location", target)
        return b"<html>" + b"moved " * 1000

    return answer


def silence(_request: Request) -> int:
    return NOT_DONE_YET


class Refusing:
    """A client that is not connected to anything."""

    def __init__(self, outcome: Callable[[], Deferred[IResponse]]) -> None:
        self.outcome = outcome
        self.asked = 0

    def get(self, url: str, /, **_options: object) -> Deferred[IResponse]:
        self.asked += 1
        return self.outcome()


class ChannelHostTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def host(self, *answers: Answer, url: str = "https://channels.example") -> RefSource:
        self.resource = Host(*answers)
        self.client = StubTreq(self.resource)
        return self.upstream(self.client, url)

    def upstream(self, client: Any, url: str = "https://h") -> RefSource:
        fetcher = Fetcher(client=client, workers=InlineWorkers(), clock=self.clock)
        return ChannelHost(fetcher, url, clock=self.clock, lookup_timeout=20)

    def ask(self, host: RefSource, reference: Reference = UNSTABLE) -> Deferred[ResolvedRef | None]:
        """A question, and all that travels because of it."""
        asked = Deferred.fromCoroutine(host.find(reference))
        for _ in range(20):
            self.client.flush()
        return asked

    def reason(self, *answers: Answer, url: str = "https://channels.example") -> str:
        asked = self.ask(self.host(*answers, url=url))
        self.clock.pump([0.5, 2])
        for _ in range(20):
            self.client.flush()
        error: SourceUnavailable = self.failureResultOf(asked, SourceUnavailable).value
        return error.reason

    def test_channels_commit_is_one_request(self) -> None:
        """A channel's commit is one request."""
        host = self.host(text(f"{COMMIT}\n"))
        self.assertEqual(self.successResultOf(self.ask(host)), ResolvedRef(commit=COMMIT))
        self.assertEqual(self.resource.paths, [b"/nixos-unstable/git-revision"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_redirects_are_followed_relative_ones_and_to_other_hosts(self) -> None:
        """Redirects are followed, relative ones and to other hosts, with large pages or not."""
        host = self.host(
            redirect("https://releases.example/x/git-revision"), redirect("../y", 307), text(COMMIT)
        )
        self.assertEqual(self.successResultOf(self.ask(host)), ResolvedRef(commit=COMMIT))
        self.assertEqual(self.resource.paths[1:], [b"/x/git-revision", b"/y"])

    def test_redirect_that_gives_up_https_is_refused_and_one_that_never_ends(self) -> None:
        """A redirect that gives up HTTPS is refused, and one that never ends."""
        self.assertIn("not secure", self.reason(redirect("http://releases.example/x")))
        self.assertIn("not secure", self.reason(redirect("file:///etc/passwd")))
        self.assertIn("again and again", self.reason(redirect("x")))
        self.assertEqual(len(self.resource.paths), 6)
        # Over HTTP there is nothing to give up.
        host = self.host(redirect("http://other/x"), text(COMMIT), url="http://h")
        self.assertEqual(self.successResultOf(self.ask(host)), ResolvedRef(commit=COMMIT))

    def test_no_such_channel(self) -> None:
        """A channel that does not exist is an answer."""
        for status in (404, 410):
            self.assertIsNone(self.successResultOf(self.ask(self.host(text("gone", status)))))

    def test_answer_that_is_no_commit_is_an_error_and_is_not_retried(self) -> None:
        """An answer that is no commit is an error, and is not retried."""
        for body in ("", "HEAD", COMMIT[:-1], COMMIT + "0", COMMIT.upper(), f"{COMMIT} {COMMIT}"):
            self.assertIn("no commit", self.reason(text(body)))
            self.assertEqual(len(self.resource.paths), 1)
        self.assertIn("more than 1024 bytes", self.reason(text(COMMIT + " " * 100_000)))
        self.assertIn("403", self.reason(text(COMMIT, 403)))
        self.assertEqual(len(self.resource.paths), 1)

    def test_host_in_trouble_is_asked_again(self) -> None:
        """A host in trouble is asked again."""
        host = self.host(text("", 503), text("", 500), text(COMMIT))
        asked = self.ask(host)
        for pause in (0.5, 2):
            self.assertNoResult(asked)
            self.clock.advance(pause)
            self.client.flush()
        self.assertEqual(self.successResultOf(asked), ResolvedRef(commit=COMMIT))
        self.assertIn("503", self.reason(text("busy " * 1000, 503)))
        self.assertEqual(len(self.resource.paths), 3)

    def test_host_that_never_answers_is_given_up_in_the_time_that_there_is(self) -> None:
        """A host that never answers is given up, in the time that there is."""
        asked = self.ask(self.host(silence))
        self.clock.pump([1] * 20)
        reason = self.failureResultOf(asked, SourceUnavailable).value.reason
        self.assertIn("took longer than", reason)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failed_connection_is_retried(self) -> None:
        """A failed connection is retried; the error names its cause in readable words."""

        def refuse() -> Deferred[IResponse]:
            failing: Deferred[IResponse] = Deferred()
            failing.errback(OSError("connection refused"))
            return failing

        client = Refusing(refuse)
        asked = Deferred.fromCoroutine(self.upstream(client).find(UNSTABLE))
        self.clock.pump([0.5, 2])
        error = self.failureResultOf(asked, SourceUnavailable).value
        self.assertIn("connection refused", error.message)
        self.assertIn("nixos-unstable", error.message)
        self.assertEqual(client.asked, 3)

    def test_cancelling_ends_the_request_and_there_is_no_other(self) -> None:
        """Cancelling ends the request, and there is no other."""
        asked = self.ask(self.host(silence))
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(len(self.resource.paths), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_channel_that_a_client_chose_is_looked_up_in_its_turn(self) -> None:
        """A channel that a client chose is looked up when its turn has come, a commit at once."""
        host = self.host(text(COMMIT))
        turn: Deferred[None] = Deferred()

        async def in_turn(look_up: LookUp) -> ResolvedRef | None:
            await turn
            return await look_up()

        asked = Deferred.fromCoroutine(host.find(UNSTABLE, in_turn))
        self.client.flush()
        self.assertEqual(self.resource.paths, [])
        turn.callback(None)
        self.client.flush()
        self.assertEqual(self.successResultOf(asked), ResolvedRef(commit=COMMIT))
        commit = Deferred.fromCoroutine(host.find(NixpkgsCommit(commit=COMMIT), in_turn))
        self.assertEqual(self.successResultOf(commit), ResolvedRef(commit=COMMIT))

    def test_commit_resolves_to_itself_without_a_request(self) -> None:
        """A commit resolves to itself without a request; refs of git are not handled here."""
        host = self.host(silence)
        commit = NixpkgsCommit(commit=COMMIT)
        self.assertEqual(self.successResultOf(self.ask(host, commit)), ResolvedRef(commit=COMMIT))
        self.assertIsNone(self.successResultOf(self.ask(host, GitRefs(names=("HEAD",)))))
        self.assertEqual(self.resource.paths, [])
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(host.check())))
