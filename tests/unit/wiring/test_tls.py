"""Tests for :mod:`nixery.wiring.tls`."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from nixery.config.errors import ConfigError
from nixery.config.load import load_config
from nixery.observability.metrics import Metrics
from nixery.runtime.clocks import SystemWallClock
from nixery.runtime.tls.certificates import load_identity
from nixery.runtime.tls.endpoint import TLSEndpoint
from nixery.testing.fakes import InlineWorkers
from nixery.wiring.tls import TLSSubsystem, make_tls
from tests.support.certificates import Authority


class MakeTLSTests(SynchronousTestCase):
    """Tests for :func:`make_tls`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoints = {
            text: TCP4ServerEndpoint(MemoryReactor(), 1) for text in ("tcp:1", "plain:tcp:2")
        }
        self.metrics = Metrics()

    def make(self, settings: dict[str, object]) -> TLSSubsystem:
        return make_tls(
            load_config(settings, {"HOME": "/h"}).tls,
            self.endpoints,
            InlineWorkers(),
            self.clock,
            SystemWallClock(),
            metrics=self.metrics,
        )

    def test_without_a_certificate_nothing_is_different(self) -> None:
        """Without a certificate, nothing is different."""
        tls = self.make({})
        self.assertEqual((), tls.components)
        self.assertEqual({}, tls.reloads)
        self.assertEqual(self.endpoints, tls.endpoints)
        self.assertEqual("http", tls.scheme)

    def test_endpoints_are_wrapped_but_for_those_that_are_plain(self) -> None:
        """Endpoints are wrapped but for those that are plain, and a metric shows the expiry."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        Authority().issue(directory)
        files = directory / "certificate.pem", directory / "key.pem"
        tls = self.make({"tls_certificate": str(files[0]), "tls_key": str(files[1])})
        self.assertEqual("https", tls.scheme)
        self.assertIsInstance(tls.endpoints["tcp:1"], TLSEndpoint)
        self.assertIs(self.endpoints["plain:tcp:2"], tls.endpoints["plain:tcp:2"])
        [component] = tls.components

        async def start() -> None:
            await component.start()

        async def stop() -> None:
            await component.stop()

        self.successResultOf(Deferred.fromCoroutine(start()))
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(stop())))
        self.metrics.take_samples()
        self.assertEqual(
            load_identity(*files, SystemWallClock().now()).expires,
            self.metrics.registry.get_sample_value(
                "nixery_tls_certificate_expiry_timestamp_seconds"
            ),
        )

    def test_certificate_without_its_key_is_refused_and_the_other_way_round(self) -> None:
        """A certificate without its key is refused, and the other way round."""
        for name in ("tls_certificate", "tls_key"):
            error = self.assertRaises(ConfigError, load_config, {name: "/x"}, {"HOME": "/h"})
            self.assertIn("tls_key" if name == "tls_certificate" else "tls_cert", error.message)
