"""
The arguments and the environment of every git command, and what they print.

These are pure functions, like those of :mod:`nixery.nix.arguments` for Nix; no other module
builds git commands.  URLs are in their public form and come after ``--``; refs are full
names that were checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

from nixery.sources.git_urls import SCHEMES, credentials, is_local, public_url, url_rewrites
from nixery.sources.source import ResolvedRef

__all__ = [
    "LfsEnvironment",
    "RefList",
    "check_out",
    "checkout_environment",
    "contains",
    "environment",
    "fetch_commit",
    "fetch_everything",
    "fetch_history",
    "fetch_lfs",
    "fetch_submodules",
    "lfs_environment",
    "lfs_version",
    "list_refs",
    "list_tips",
    "local_environment",
    "make_checkout",
    "make_mirror",
    "object_type",
    "parse_lfs_environment",
    "parse_refs",
    "version",
]

_REPOSITORY_VARIABLES = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
"""Variables that git sets for its children: a daemon started by a hook would inherit them."""


def environment(inherited: Mapping[str, str], url: str) -> dict[str, str]:
    """
    Return the environment of commands that reach a repository, Nix's own included.

    The machine's credentials are used: git looks for its configuration, with credential
    helpers, in the HOME of this process, and ssh for keys and known hosts in the home
    directory of the user that it runs as.

    git and ssh never prompt for a password: children have no terminal, which stops ssh
    from prompting too.  ``GIT_SSH_COMMAND`` could do the same, but would override
    ``core.sshCommand``, with which users choose their keys.

    :param url: the URL as it was configured.  A password in it is given to git by variables, and
        never by an argument, which other users of the machine can see.
    """
    result = {name: value for name, value in inherited.items() if name not in _REPOSITORY_VARIABLES}
    result["GIT_TERMINAL_PROMPT"] = "0"
    result["SSH_ASKPASS_REQUIRE"] = "never"
    result.setdefault("GIT_ALLOW_PROTOCOL", ":".join(SCHEMES))
    try:
        count = int(inherited.get("GIT_CONFIG_COUNT", "0"))
    except ValueError:
        count = 0
    given = credentials(url)
    if given is not None and given.password is not None:
        result |= {_USER_VARIABLE: given.user, _PASSWORD_VARIABLE: given.password}
    for number, (key, value) in enumerate(_configuration(url), count):
        result[f"GIT_CONFIG_KEY_{number}"] = key
        result[f"GIT_CONFIG_VALUE_{number}"] = value
        result["GIT_CONFIG_COUNT"] = str(number + 1)
    return result


def _configuration(url: str) -> Iterator[tuple[str, str]]:
    """
    Yield git's configuration for the public form of a URL, as keys and values.

    A credential helper answers for the URL's host alone.  A header (``http.extraHeader``) would
    be sent to any host that the repository's host redirects to.
    """
    yield from url_rewrites(url).items()
    given = credentials(url)
    if given is None:
        return
    if given.password is None:
        yield f"credential.{given.origin}.username", given.user
        return
    # An empty value removes the helpers of this machine, which may know another password.
    yield f"credential.{given.origin}.helper", ""
    yield f"credential.{given.origin}.helper", _CREDENTIAL_HELPER


_USER_VARIABLE = "NIXERY_GIT_USER"
_PASSWORD_VARIABLE = "NIXERY_GIT_PASSWORD"  # noqa: S105  # the name of a variable

_CREDENTIAL_HELPER = (
    "!f() { [ \"$1\" != get ] || printf '%s\\n'"
    f' "username=${_USER_VARIABLE}" "password=${_PASSWORD_VARIABLE}"; }}; f'
)
"""A shell function that prints the user and the password, by a command built into the shell."""


def local_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """
    Return the environment of commands that only read the local mirror.

    A mirror without files and directories (a "partial clone") makes git fetch any
    missing object by its hash, and most hosts serve any object: this environment keeps
    git off the network.
    """
    result = {name: value for name, value in inherited.items() if name not in _REPOSITORY_VARIABLES}
    result["GIT_NO_LAZY_FETCH"] = "1"  # from git 2.44
    result["GIT_ALLOW_PROTOCOL"] = "none"
    return result


def checkout_environment(inherited: Mapping[str, str], url: str, template: Path) -> dict[str, str]:
    """
    Return the environment of commands that check a commit out.

    The commit chooses the URLs of its submodules: only where the repository itself is on this
    machine may they lead to other repositories of this machine.

    :param url: the URL as it was configured.
    :param template: the path of ``nix/git-template``, whose attributes keep files as they were
        committed.
    """
    result = environment(inherited, url)
    result["GIT_TEMPLATE_DIR"] = str(template)
    if "GIT_ALLOW_PROTOCOL" not in inherited and not is_local(url):
        result["GIT_ALLOW_PROTOCOL"] = ":".join(name for name in SCHEMES if name != "file")
    return result


def version() -> tuple[str, ...]:
    """Command that prints git's version."""
    return ("git", "--version")


def list_refs(url: str, names: Sequence[str]) -> tuple[str, ...]:
    """
    Command that prints the given refs that the repository has.

    It also prints other refs whose names end like them, the commits that annotated tags
    peel to, and the branch that HEAD is a symbolic ref to.
    """
    peeled = [f"{name}^{{}}" for name in names if name.startswith("refs/tags/")]
    # Otherwise the server sends all refs, and nixpkgs has hundreds of thousands of pull requests.
    kinds = () if "HEAD" in names else ("--heads", "--tags")
    return ("git", "ls-remote", "--quiet", "--symref", *kinds, "--", url, *names, *peeled)


def list_tips(url: str) -> tuple[str, ...]:
    """Command that prints all branches and tags of the repository."""
    return ("git", "ls-remote", "--quiet", "--heads", "--tags", "--", url)


def make_mirror(mirror: Path) -> tuple[str, ...]:
    """Command that makes the directory a repository; harmless if it is one."""
    # Without templates there are no hooks.
    return ("git", "init", "--quiet", "--bare", "--template=", "--", str(mirror))


def fetch_history(mirror: Path, url: str) -> tuple[str, ...]:
    """
    Command that fetches all commits of all branches and tags, and prunes deleted ones.

    Files and directories are left out where the server can do so: nixpkgs' history is
    then a tenth of its full size.  Servers that cannot do so send everything.
    Refs of other kinds are not fetched: opening a pull request creates one.
    """
    return (
        "git",
        f"--git-dir={mirror}",
        # Automatic maintenance would go on in the background after the command has ended.
        *("-c", "gc.autoDetach=false", "-c", "maintenance.autoDetach=false"),
        *("fetch", "--quiet", "--force", "--prune", "--no-tags", "--no-write-fetch-head"),
        *("--no-recurse-submodules", "--filter=tree:0"),
        *("--", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"),
    )


def contains(mirror: Path, commit: str) -> tuple[str, ...]:
    """
    Command that prints a ref with the commit in its history, branches first, or nothing.

    It fails with status 129 if there is no such commit.
    """
    return (
        "git",
        f"--git-dir={mirror}",
        *("for-each-ref", "--count=1", "--format=%(refname)", f"--contains={commit}"),
        *("refs/heads", "refs/tags"),
    )


def object_type(mirror: Path, commit: str) -> tuple[str, ...]:
    """Command that prints the type of the object with a hash; ``tag`` for a tag's hash."""
    return ("git", f"--git-dir={mirror}", "cat-file", "-t", commit)


def make_checkout(repository: Path, files: Path, url: str) -> Sequence[tuple[str, ...]]:
    """
    Commands that make a repository whose files are to be in another directory.

    :param url: the URL as it was configured, which relative URLs of submodules begin at.
    """
    # ``host:path`` is relative to the user's home directory there, and its public form is not.
    origin = url if url_rewrites(url) else public_url(url)
    return (
        ("git", "init", "--quiet", f"--separate-git-dir={repository}", "--", str(files)),
        (*_in(files), "remote", "add", "--", "origin", origin),
    )


def fetch_commit(files: Path, commit: str) -> tuple[str, ...]:
    """Command that fetches one commit; old servers, and those of plain files, do not serve it."""
    return (*_in(files), *_FETCH, "--depth=1", "--", "origin", commit)


def fetch_everything(files: Path) -> tuple[str, ...]:
    """Command that fetches all branches and tags, with their history."""
    return (
        *(*_in(files), *_FETCH, "--force", "--", "origin"),
        *("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"),
    )


def check_out(files: Path, commit: str) -> tuple[str, ...]:
    """Command that writes the files of a commit."""
    return (*_in(files), "checkout", "--quiet", "--force", "--detach", commit, "--")


def fetch_submodules(files: Path, *, shallow: bool) -> tuple[str, ...]:
    """
    Command that fetches the submodules, and theirs, at the commits that are recorded.

    :param shallow: whether to leave their history out.
    """
    return (
        *(*_in(files), "submodule", "--quiet", "update", "--init", "--recursive"),
        # What .gitmodules says of updates and of shallowness is for people who work there.
        *("--checkout", "--force", "--no-recommend-shallow", "--jobs=4"),
        *(("--depth=1",) if shallow else ()),
    )


def lfs_version() -> tuple[str, ...]:
    """Command that prints the version of git-lfs."""
    return ("git-lfs", "version")


def lfs_environment(files: Path) -> tuple[str, ...]:
    """Command that prints the server of the files in Git LFS, and their directory here."""
    return (*_in(files), "lfs", "env")


def fetch_lfs(files: Path) -> tuple[str, ...]:
    """Command that fetches the content of all files in Git LFS of the commit."""
    # A .lfsconfig in the commit may leave out what people seldom need.
    everything = ("-c", "lfs.fetchinclude=", "-c", "lfs.fetchexclude=")
    return (*_in(files), *everything, "lfs", "fetch", "origin", "HEAD")


def _in(files: Path) -> tuple[str, ...]:
    # Hooks of this machine could do anything at a checkout.
    return ("git", "-c", "core.hooksPath=/dev/null", "-C", str(files))


_FETCH = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")


@frozen(kw_only=True)
class LfsEnvironment:
    """
    The parsed output of ``git lfs env``.

    :param endpoint: the URL of the server; empty if there is none.
    :param media: the directory of what was fetched.
    """

    endpoint: str
    media: Path


def parse_lfs_environment(output: bytes) -> LfsEnvironment:
    """
    Parse the output of ``git lfs env``.

    :raises ValueError: it is not output of ``git lfs env``.
    """
    text = output.decode("utf-8", "surrogateescape")
    media = re.search(r"^LocalMediaDir=(/.*)$", text, re.MULTILINE)
    endpoint = re.search(r"^Endpoint(?: \(origin\))?=(.*) \(auth=\w+\)$", text, re.MULTILINE)
    if media is None:
        raise ValueError(f"no directory in {text[:200]!r}")
    return LfsEnvironment(endpoint=endpoint[1] if endpoint else "", media=Path(media[1]))


@frozen(kw_only=True)
class RefList:
    """
    The parsed output of ``git ls-remote``.

    :param commits: commits by the full names of refs; for an annotated tag the commit that
        it points to, not the hash of the tag.
    :param head: the full name of the default branch, if the server sends it.
    """

    commits: Mapping[str, str] = field(hash=False)
    head: str | None = None

    def find(self, names: Sequence[str]) -> ResolvedRef | None:
        """Return the first of the refs that exists."""
        for name in names:
            if name in self.commits:
                ref = self.head or name if name == "HEAD" else name
                return ResolvedRef(commit=self.commits[name], ref=ref)
        return None

    def find_tip(self, commit: str) -> ResolvedRef | None:
        """Return the first branch or tag, by name, that points to a commit."""
        names = sorted(name for name, tip in self.commits.items() if tip == commit)
        return ResolvedRef(commit=commit, ref=names[0]) if names else None


def parse_refs(output: bytes) -> RefList:
    """
    Parse the output of ``git ls-remote``.

    :raises ValueError: it is not output of ``git ls-remote``.
    """
    head: str | None = None
    commits: dict[str, str] = {}
    peeled: dict[str, str] = {}
    for line in output.decode("utf-8", "surrogateescape").splitlines():
        value, tab, name = line.partition("\t")
        if not tab:
            raise ValueError(f"no ref in {line!r}")
        if value.startswith("ref: "):
            if name == "HEAD":
                head = value.removeprefix("ref: ")
        elif name.endswith("^{}"):
            peeled[name.removesuffix("^{}")] = value
        else:
            commits[name] = value
    return RefList(commits=commits | peeled, head=head)
