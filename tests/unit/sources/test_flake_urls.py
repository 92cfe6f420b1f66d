"""Tests for :mod:`nixery.sources.flake_urls`."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.sources.flake_urls import InvalidFlakeUrl, parse_flake_url
from nixery.sources.git_urls import public_url
from nixery.sources.source import FlakeSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HASH = "sha256-4TjdX0jHBGYiikVah4dfrKIyaTHeDq+oGXh4UPudjM4="

GITHUB = FlakeSource(kind="github", location="o/n", host="github.com")
GIT = FlakeSource(kind="git", location="https://h/p.git")
FORMS = {
    "github:o/n": GITHUB,
    "github:o/n/feature/x": FlakeSource(
        kind="github", location="o/n", host="github.com", ref="feature/x"
    ),
    f"github:o/n?ref=main&rev={COMMIT.upper()}": FlakeSource(
        kind="github", location="o/n", host="github.com", ref=COMMIT
    ),
    f"github:o/n/main?rev={COMMIT}": FlakeSource(
        kind="github", location="o/n", host="github.com", ref=COMMIT
    ),
    "github:o/n?dir=/a/b/&host=github.example.org": FlakeSource(
        kind="github", location="o/n", host="github.example.org", directory="a/b"
    ),
    "gitlab:group%2Fsub/n": FlakeSource(kind="gitlab", location="group/sub/n", host="gitlab.com"),
    "git+https://h/p.git": GIT,
    "git+https://u:secret@h/p?ref=v1": FlakeSource(
        kind="git", location="https://u:secret@h/p", ref="v1"
    ),
    "git+https://h/p?submodules=1&shallow=1": FlakeSource(
        kind="git", location="https://h/p", submodules=True, shallow=True
    ),
    "git+ssh://git@h/p": FlakeSource(kind="git", location="ssh://git@h/p"),
    "git+file:///a%20b": FlakeSource(kind="git", location="file:///a%20b"),
    "git://h/p": FlakeSource(kind="git", location="git://h/p"),
    "path:/srv/a%20b?dir=c": FlakeSource(kind="path", location="/srv/a b", directory="c"),
    "path:///srv//a/": FlakeSource(kind="path", location="/srv/a"),
    "https://h/x.tar.gz": FlakeSource(kind="tarball", location="https://h/x.tar.gz"),
    "tarball+http://h/latest?token=a": FlakeSource(
        kind="tarball", location="http://h/latest?token=a"
    ),
    "file:///srv/x.tgz": FlakeSource(kind="tarball", location="file:///srv/x.tgz"),
    f"https://h/x.zip?narHash={HASH}": FlakeSource(
        kind="tarball", location="https://h/x.zip", nar_hash=HASH
    ),
}

REFUSED = {
    "nixpkgs": "github:OWNER/NAME",
    "flake:nixpkgs": "github:OWNER/NAME",
    "/srv/flake": "path:/PATH",
    "./flake": "path:/PATH",
    "github:o": "github:OWNER/NAME",
    "github:o/n/a b": "%20",
    "path:/srv/a%00b": "absolute path",
    "path:/srv/a%0Ab": "absolute path",
    "git+https://h/p?dir=a%00b": "below the top",
    "git+https://h/p?dir=a%0Ab": "below the top",
    "github:o/n/main?ref=dev": "one branch or tag",
    "git+https://h/p?ref=a&ref=b": "once",
    "https://h/x.tar.gz?a=1&a=2": "once",
    "git+https://h/p?rev=main": "rev as a full commit",
    f"github:o/n?rev={COMMIT[:8]}": "rev as a full commit",
    "github:o/n/a..b": "name of a branch",
    "github:a%2Fb/n": "github:OWNER/NAME",
    "github:o/n?host=h/x": "github:OWNER/NAME",
    "github:o/n?submodules=1": "submodules",
    "github:o/n#hello": "names of images",
    "github:o/n?dir=../x": "below the top",
    "git+https://": "git+https://HOST",
    "git+ssh://u:secret@h/p": "SSH key",
    "git+ssh://-oProxyCommand=x/p": "git+https://HOST",
    "git+ext://sh": "git+https://HOST",
    "git+https://h/p?shallow=yes": "shallow as 1",
    "git+https://h/p?x=1": "leave out x",
    "path:srv/x": "absolute path",
    "path:/srv/x?ref=main": "git+file://",
    "path://h/x": "absolute path",
    "https://h/p": "git+https://",
    "https://u:secret@h/x.tar.gz": "netrc-file",
    "https://h/x.tar.gz?narHash=x": "narHash",
    "http:///x.tar.gz": "a host",
    "https://[/x.tar.gz": "github:OWNER/NAME",
}


class FlakeUrlTests(SynchronousTestCase):
    def test_each_form_says_how_the_flake_is_fetched(self) -> None:
        """Each form of URL is one value."""
        for text, source in FORMS.items():
            self.assertEqual(parse_flake_url(text), source, text)

    def test_what_is_no_url_of_a_flake_is_refused_with_what_to_write(self) -> None:
        """Texts that are no URLs of flakes are refused with what to write; no secret is told."""
        for text, words in REFUSED.items():
            with self.assertRaises(InvalidFlakeUrl) as raised:
                parse_flake_url(text)
            self.assertIn(words, str(raised.exception), text)
            self.assertNotIn("secret", str(raised.exception))

    def test_repository_of_a_flake_has_its_tags(self) -> None:
        """The repository, whose refs are the tags, is found for all but archives and paths."""
        for source, url in (
            (GITHUB, "https://github.com/o/n.git"),
            (FORMS["gitlab:group%2Fsub/n"], "https://gitlab.com/group/sub/n.git"),
            (GIT, "https://h/p.git"),
        ):
            repository = source.repository
            assert repository is not None
            self.assertEqual(repository.url, url)
        for text in ("path:/srv/a%20b?dir=c", "https://h/x.tar.gz"):
            self.assertIsNone(FORMS[text].repository)

    def test_public_url_and_representation_have_no_secret(self) -> None:
        """A password is in no text that people see."""
        source = FORMS["git+https://u:secret@h/p?ref=v1"]
        for text in (repr(source), source.public_url, source.describe()):
            self.assertNotIn("secret", text)
        self.assertEqual(source.public_url, f"git+{public_url(source.location)}")

    @given(st.text(max_size=40))
    def test_any_text_is_parsed_or_refused(self, text: str) -> None:
        """No text is an error of another kind."""
        for each in (text, f"github:{text}", f"git+https://{text}", f"https://{text}.tar"):
            with contextlib.suppress(InvalidFlakeUrl):
                parse_flake_url(each)
