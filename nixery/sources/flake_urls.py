"""
Parse URLs of flakes.

They are Nix's own, but for names in a registry of flakes (``nixpkgs``): those mean what each
machine wants.  A path without ``path:`` is refused too, for Nix takes it for the git repository
around it: ``path:`` and ``git+file:`` say which is meant.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from attrs import evolve

from nixery.image.names import is_commit
from nixery.sources.git_urls import credentials, has_unusable_password, is_ref_name, is_supported
from nixery.sources.source import FlakeSource

__all__ = ["USE_NETRC", "InvalidFlakeUrl", "parse_flake_url"]

USE_NETRC = (
    "leave user and password out, which others on this machine would see: Nix takes them from the"
    " file that netrc-file names in nix.conf"
)
"""The advice on a password in the URL of an archive, which Nix downloads."""

_GIT_SCHEMES = ("git+https", "git+http", "git+ssh", "git+file", "git+git", "git")
_TARBALL_SCHEMES = ("https", "http", "file")
_ARCHIVE = re.compile(r"\.(?:zip|tar|tgz|tbz2?|txz|tzst|tar\.(?:gz|xz|bz2|zst))", re.IGNORECASE)
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?")
_NAR_HASH = re.compile(r"sha256-[A-Za-z0-9+/]{43}=")

EXAMPLES = (
    "github:OWNER/NAME, gitlab:OWNER/NAME, git+https://HOST/PATH, git+ssh://HOST/PATH,"
    " git+file:///PATH, path:/PATH, or the URL of an archive, as https://HOST/NAME.tar.gz"
)


class InvalidFlakeUrl(ValueError):
    """A text is no URL of a flake; the message says which texts are, and never repeats it."""


def parse_flake_url(text: str) -> FlakeSource:
    """
    Parse the URL of a flake.

    :raises InvalidFlakeUrl: it is none.
    """
    if not text.isprintable() or " " in text:
        raise InvalidFlakeUrl("write the URL without blanks: a blank in a path is %20")
    try:
        url = urlsplit(text)
        pairs = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
    except ValueError as error:
        raise InvalidFlakeUrl(f"give the URL of a flake: {EXAMPLES}") from error
    query = dict(pairs)
    if len(query) < len(pairs):
        raise InvalidFlakeUrl("give each parameter after the ? once")
    if url.fragment:
        raise InvalidFlakeUrl(
            "leave out what follows #: the names of images say which packages are meant"
        )
    directory = _directory(query.pop("dir", ""))
    scheme = url.scheme
    if scheme in ("github", "gitlab"):
        source = _parse_hosted(url, query)
    elif scheme in _GIT_SCHEMES:
        source = _parse_git(url, query)
    elif scheme == "path":
        source = _parse_path(url, query)
    elif scheme.removeprefix("tarball+") in _TARBALL_SCHEMES:
        source = _parse_tarball(url, query)
    else:
        raise InvalidFlakeUrl(f"give the URL of a flake: {EXAMPLES}")
    if query:
        raise InvalidFlakeUrl(f"leave out {', '.join(query)}, which has no meaning in this URL")
    return evolve(source, directory=directory)


def _parse_hosted(url: SplitResult, query: dict[str, str]) -> FlakeSource:
    """Parse ``github:OWNER/NAME`` and ``gitlab:OWNER/NAME``, with a branch, tag or commit."""
    # Groups of GitLab have slashes in their names, written as %2F.
    parts = url.path.split("/", 2)
    owner = unquote(parts[0])
    name = unquote(parts[1]) if len(parts) > 1 else ""
    host = query.pop("host", f"{url.scheme}.com")
    if (
        url.netloc
        or not _OWNER.fullmatch(owner)
        or ("/" in owner and url.scheme == "github")
        or not _NAME.fullmatch(name)
        or not _HOST.fullmatch(host)
    ):
        raise InvalidFlakeUrl(f"write {url.scheme}:OWNER/NAME, and a branch after another slash")
    return FlakeSource(
        kind="github" if url.scheme == "github" else "gitlab",
        location=f"{owner}/{name}",
        host=host,
        ref=_ref(query, unquote(parts[2]) if len(parts) > 2 else None),
    )


def _parse_git(url: SplitResult, query: dict[str, str]) -> FlakeSource:
    location = url._replace(scheme=url.scheme.removeprefix("git+"), query="").geturl()
    if has_unusable_password(location):
        raise InvalidFlakeUrl(
            "leave the password out, which ssh and git take from no URL: give the user that the"
            " registry runs as an SSH key, and write git+ssh://USER@HOST/PATH"
        )
    if not is_supported(location):
        raise InvalidFlakeUrl(f"give the URL of a flake: {EXAMPLES}")
    return FlakeSource(
        kind="git",
        location=location,
        ref=_ref(query, None),
        shallow=_flag(query, "shallow"),
        submodules=_flag(query, "submodules"),
    )


def _parse_path(url: SplitResult, query: dict[str, str]) -> FlakeSource:
    path = unquote(url.path)
    if url.netloc or not path.startswith("/") or path == "/" or not path.isprintable():
        raise InvalidFlakeUrl("give an absolute path, as path:/srv/packages")
    if "ref" in query or "rev" in query:
        raise InvalidFlakeUrl(
            "a path has no revisions: write git+file:// for the commits of a repository"
        )
    # Two slashes at the beginning of a path are kept by pathlib.
    return FlakeSource(kind="path", location=str(PurePosixPath("/" + path.lstrip("/"))))


def _parse_tarball(url: SplitResult, query: dict[str, str]) -> FlakeSource:
    explicit = url.scheme.startswith("tarball+")
    url = url._replace(scheme=url.scheme.removeprefix("tarball+"), query="")
    if not explicit and not _ARCHIVE.search(PurePosixPath(url.path).name):
        raise InvalidFlakeUrl(
            "an https: or file: URL names an archive, as https://HOST/NAME.tar.gz; write"
            " git+https:// or git+file:// for a repository"
        )
    location = url.geturl()
    if credentials(location) is not None:
        raise InvalidFlakeUrl(USE_NETRC)
    if url.scheme != "file" and not url.hostname:
        raise InvalidFlakeUrl("give a URL that names a host")
    nar_hash = query.pop("narHash", "").replace(" ", "+")
    if nar_hash and not _NAR_HASH.fullmatch(nar_hash):
        raise InvalidFlakeUrl("give narHash as sha256-..., in base 64")
    if query:
        # Other parameters are the server's.
        location += "?" + urlencode(query)
        query.clear()
    return FlakeSource(kind="tarball", location=location, nar_hash=nar_hash)


def _ref(query: dict[str, str], given: str | None) -> str | None:
    """
    Return the branch, tag or commit of a URL; a commit (``rev``) says more than a ref.

    :param given: what the URL has as part of its path.
    """
    rev, ref = query.pop("rev", None), query.pop("ref", None)
    if rev and not is_commit(rev.lower()):
        raise InvalidFlakeUrl("give rev as a full commit, and a branch or a tag as ref")
    refs = {each for each in (given, ref) if each}
    if len(refs) > 1:
        raise InvalidFlakeUrl("give one branch or tag: after the name, or as ref")
    if not all(map(is_ref_name, refs)):
        raise InvalidFlakeUrl("give the name of a branch or a tag, or a full commit")
    found = rev or next(iter(refs), None)
    return found.lower() if found and is_commit(found.lower()) else found


def _directory(text: str) -> str:
    parts = text.strip("/").split("/")
    if ".." in parts or "." in parts or not text.isprintable():
        raise InvalidFlakeUrl("give dir as a path below the top of the flake's tree")
    return "/".join(part for part in parts if part)


def _flag(query: dict[str, str], name: str) -> bool:
    value = query.pop(name, "0")
    if value not in ("0", "1"):
        raise InvalidFlakeUrl(f"give {name} as 1, or leave it out")
    return value == "1"
