"""Tests for :mod:`nixery.sources.access_tokens`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.sources.access_tokens import parse_access_tokens, with_access_token
from nixery.sources.git_urls import credentials
from nixery.sources.source import GitSource

LINES = (
    "# access-tokens = github.com=no",
    "cores = 2",
    "access-tokens = github.com=one gitlab.com=PAT:t/wo # three",
    " extra-access-tokens=github.com/team=four",
)


class AccessTokenTests(SynchronousTestCase):
    def test_tokens_are_those_of_nix(self) -> None:
        """All lines of the option are read, and no comments."""
        self.assertEqual(
            parse_access_tokens(LINES),
            {"github.com": "one", "gitlab.com": "PAT:t/wo", "github.com/team": "four"},
        )

    def test_token_is_for_its_host_and_path_alone(self) -> None:
        """The longest name that fits decides; other hosts get nothing."""
        tokens = parse_access_tokens(LINES)
        for url, token in (
            ("https://github.com/o/n.git", "one"),
            ("https://github.com/team/n.git", "four"),
            ("https://github.com/teams/n.git", "one"),
            ("https://gitlab.com/g/n.git", "t/wo"),
            ("https://github.com.example.org/o/n.git", None),
            ("http://github.com/o/n.git", None),
        ):
            source = with_access_token(GitSource(url=url), tokens)
            given = credentials(source.url)
            self.assertEqual(None if given is None else given.password, token, url)
            self.assertEqual(source.public_url, url)
            self.assertNotIn("four", repr(source))
