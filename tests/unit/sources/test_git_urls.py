"""The forms of git URLs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.sources.git_urls import (
    Credentials,
    credentials,
    has_unusable_password,
    is_ref_name,
    is_supported,
    public_url,
    url_rewrites,
)

FORMS = {
    "https://example.org/a.git": "https://example.org/a.git",
    "https://example.org/a%20b.git": "https://example.org/a%20b.git",
    "https://example.org/a b.git": "https://example.org/a%20b.git",
    "https://user:secret@example.org:8443/a": "https://example.org:8443/a",
    "https://secret@example.org/a": "https://example.org/a",
    "ssh://git@example.org:22/a": "ssh://git@example.org:22/a",
    "git@example.org:a/b.git": "ssh://git@example.org/a/b.git",
    "example.org:a b": "ssh://example.org/a%20b",
    "/srv/a b.git": "file:///srv/a%20b.git",
    "//srv/a": "file:///srv/a",
    "file:////srv/a": "file:///srv/a",
    "file:///srv/a b.git": "file:///srv/a%20b.git",
    "file:///srv/a%20b.git": "file:///srv/a%20b.git",
    "git://example.org/a": "git://example.org/a",
}

REWRITTEN = {"git@example.org:a/b.git", "example.org:a b"}


class UrlTests(SynchronousTestCase):
    def test_each_url_has_one_public_form(self) -> None:
        """Each URL has one public form, which Nix understands and which has no secret."""
        for url, public in FORMS.items():
            self.assertTrue(is_supported(url), url)
            self.assertEqual(public_url(url), public)
            self.assertEqual(public_url(public), public)
            self.assertNotIn("secret", public)

    def test_git_is_told_where_the_public_form_leads(self) -> None:
        """Git is told where the public form leads if it would not go there by itself."""
        for url, public in FORMS.items():
            expected = {f"url.{url}.insteadOf": public} if url in REWRITTEN else {}
            self.assertEqual(url_rewrites(url), expected)

    def test_credentials_are_those_of_http(self) -> None:
        """User and password of an HTTP URL are found, decoded, for its host; ssh's user is none."""
        host = "https://example.org"
        for url, user, password in (
            ("https://user:a%40b%25:c@example.org/a", "user", "a@b%:c"),
            ("https://secret:@example.org/a", "secret", ""),
            ("https://us%3Aer@example.org/a", "us:er", None),
        ):
            found = credentials(url)
            self.assertEqual(found, Credentials(origin=host, user=user, password=password))
            self.assertNotIn("user", repr(found).replace("user=", ""))
        found = credentials("http://u:p@[::1]:8080/a")
        self.assertEqual(found, Credentials(origin="http://[::1]:8080", user="u", password="p"))
        for url in FORMS:
            self.assertEqual(credentials(url) is not None, "secret" in url, url)

    def test_passwords_that_no_protocol_takes_are_unsupported(self) -> None:
        """A password that only ssh or git would get is refused, in each form of a URL."""
        for url in (
            "ssh://git:secret@example.org/a",
            "ssh://git:@example.org/a",
            "git://user:secret@example.org/a",
            "git:secret@example.org:a/b.git",
            "git:secret@example.org/a/b.git",
        ):
            self.assertTrue(has_unusable_password(url), url)
            self.assertFalse(is_supported(url), url)
        for url in (*FORMS, "host:a/b@c", "/u:p@h/a", "//u:p@h/a"):
            self.assertFalse(has_unusable_password(url), url)

    def test_urls_that_would_run_programs_are_unsupported(self) -> None:
        """URLs that would run programs, or be taken for options, are unsupported."""
        for url in (
            "",
            "-x",
            "ext::sh -c true",
            "ext::https://h/p",
            "relative/path",
            "ftp://h/p",
            "https:///p",
            "https://h:99999/p",
            "https://-h/p",
            "https://h/p?x",
            "https://h/p#x",
            "file://host/p",
            "file:///",
            "//",
            "-oProxyCommand=x:p",
            "u@-oProxyCommand=x:p",
            "/a\nb",
            "https://[::1/p",
        ):
            self.assertFalse(is_supported(url), url)

    @settings(max_examples=200)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
    def test_public_form_of_a_supported_url_is_stable(self, text: str) -> None:
        """The public form of a supported URL is stable: its own public form is the same."""
        for url in (text, f"/{text}", f"https://{text}", f"u@h:{text}", f"ssh://{text}"):
            if is_supported(url):
                public = public_url(url)
                self.assertEqual(public_url(public), public)
                self.assertFalse(public.startswith("-"))
                self.assertNotIn(" ", public)


class RefTests(SynchronousTestCase):
    def test_names_are_those_that_git_allows(self) -> None:
        """Names are those that git allows, without what ls-remote takes for a wildcard."""
        for name in ("main", "feature/x", "v1.0", "a@b", "ä", "x-", "_", "a/b/c"):
            self.assertTrue(is_ref_name(name), name)
        for name in (
            "", "-x", "a..b", "a b", "/a", "a/", "a//b", "a.lock", "a.lock/b", ".a", "a/.b", "a.",
            "a~", "a^", "a:", "a?", "a*", "a[", "a\\", "@{u}", "@", "a\n", "x" * 300,
        ):  # fmt: skip
            self.assertFalse(is_ref_name(name), name)
