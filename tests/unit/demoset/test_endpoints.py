"""Tests for :mod:`demoset.endpoints`."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from demoset import endpoints


class EndpointTests(SynchronousTestCase):
    """Tests of the addresses that the registry would listen on, for ``nix/demo/start``."""

    def setUp(self) -> None:
        self.out, self.err = StringIO(), StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def test_configuration_file_is_asked_as_well(self) -> None:
        """The configuration file is asked as well."""
        path = Path(self.mktemp())
        path.write_text("port: 8123\npublic_url: https://registry.example.org\n")
        self.assertEqual(endpoints.main(["--config", str(path)]), 0)
        self.assertEqual(
            json.loads(self.out.getvalue()),
            {"listen": ["tcp:8123"], "public_url": "https://registry.example.org"},
        )

    def test_option_that_there_is_none_of_is_said_as_the_registry_says_it(self) -> None:
        """An option that there is none of is said, as the registry says it."""
        self.assertEqual(endpoints.main(["--prot", "8123"]), 1)
        self.assertIn("there is no option --prot", self.err.getvalue())
