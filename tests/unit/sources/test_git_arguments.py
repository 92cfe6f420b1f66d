"""Tests of the command lines of git, and of parsing what it prints."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nixery.sources import git_arguments
from nixery.sources.source import ResolvedRef

A, B, C = "a" * 40, "b" * 40, "c" * 40


class EnvironmentTests(SynchronousTestCase):
    """The environment of git."""

    def test_nobody_is_asked(self) -> None:
        """Git and ssh never prompt for a password."""
        environment = git_arguments.environment({"HOME": "/root", "PATH": "/bin"}, "/r")
        self.assertEqual(environment["GIT_TERMINAL_PROMPT"], "0")
        self.assertEqual(environment["SSH_ASKPASS_REQUIRE"], "never")

    def test_credentials_are_ours(self) -> None:
        """Git inherits variables for git and ssh, but none that a hook left (GIT_DIR)."""
        inherited = {
            "HOME": "/home/x",
            "SSH_AUTH_SOCK": "/agent",
            "GIT_SSH_COMMAND": "ssh -i /key",
            "GIT_ASKPASS": "/askpass",
            "GIT_DIR": "/somewhere/else",
            "GIT_INDEX_FILE": "/index",
        }
        environment = git_arguments.environment(inherited, "/r")
        for name, value in inherited.items():
            if name in ("GIT_DIR", "GIT_INDEX_FILE"):
                self.assertNotIn(name, environment)
            else:
                self.assertEqual(environment[name], value)
        self.assertNotIn("GIT_SSH_COMMAND", git_arguments.environment({}, "/r"))

    def configuration(self, environment: dict[str, str]) -> list[tuple[str, str]]:
        """git's configuration in an environment."""
        return [
            (environment[f"GIT_CONFIG_KEY_{number}"], environment[f"GIT_CONFIG_VALUE_{number}"])
            for number in range(int(environment["GIT_CONFIG_COUNT"]))
        ]

    def test_password_is_in_two_variables_only(self) -> None:
        """User and password are in variables of their own, and the configuration names these."""
        inherited = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "a.b", "GIT_CONFIG_VALUE_0": "c"}
        environment = git_arguments.environment(inherited, "https://u:secret@h/p")
        first, reset, helper = self.configuration(environment)
        self.assertEqual((first, reset), (("a.b", "c"), ("credential.https://h.helper", "")))
        self.assertEqual(helper[0], "credential.https://h.helper")
        self.assertIn("$NIXERY_GIT_PASSWORD", helper[1])
        with_secret = [name for name, value in environment.items() if "secret" in value]
        self.assertEqual(with_secret, ["NIXERY_GIT_PASSWORD"])

    def test_user_without_password_is_for_the_helpers_of_this_machine(self) -> None:
        """A user name without a password is what the machine's credential helpers are asked for."""
        environment = git_arguments.environment({}, "https://alice@h:8443/p")
        self.assertEqual(
            self.configuration(environment), [("credential.https://h:8443.username", "alice")]
        )

    def test_address_of_ssh_is_rewritten(self) -> None:
        """The public form of ``host:path`` leads to where ssh would go."""
        environment = git_arguments.environment({}, "git@h:a/b")
        self.assertEqual(
            self.configuration(environment), [("url.git@h:a/b.insteadOf", "ssh://git@h/a/b")]
        )

    def test_transports_that_run_programs_are_off(self) -> None:
        """Transports that run programs are off, and all are for what works on a mirror."""
        self.assertNotIn(
            "ext", git_arguments.environment({}, "/r")["GIT_ALLOW_PROTOCOL"].split(":")
        )
        self.assertEqual(git_arguments.local_environment({})["GIT_ALLOW_PROTOCOL"], "none")


class ArgumentTests(SynchronousTestCase):
    """The commands."""

    def test_urls_are_no_options(self) -> None:
        """Arguments that could be taken for an option come after two dashes."""
        for argv in (
            git_arguments.list_refs("-u", ["refs/heads/x"]),
            git_arguments.list_tips("-u"),
            git_arguments.fetch_history(Path("/m"), "-u"),
            git_arguments.make_mirror(Path("-m")),
        ):
            self.assertIn("--", argv)
            dangerous = [at for at, part in enumerate(argv) if part in ("-u", "-m")]
            self.assertTrue(all(at > argv.index("--") for at in dangerous))

    def test_history_has_no_pull_requests(self) -> None:
        """Only branches and tags are fetched, no pull requests: any user can make one."""
        argv = git_arguments.fetch_history(Path("/m"), "/r")
        self.assertEqual(
            [part for part in argv if part.startswith("+")],
            ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"],
        )

    def test_both_forms_of_a_tag(self) -> None:
        """A tag is asked for, and what it points to in the end."""
        argv = git_arguments.list_refs("/r", ["refs/heads/v1", "refs/tags/v1"])
        self.assertEqual(argv[-3:], ("refs/heads/v1", "refs/tags/v1", "refs/tags/v1^{}"))

    def test_pull_requests_are_not_listed_where_branches_and_tags_suffice(self) -> None:
        """The server is asked for branches and tags alone, unless HEAD is asked for."""
        limited = {"--heads", "--tags"}
        self.assertLessEqual(limited, set(git_arguments.list_refs("/r", ["refs/heads/v1"])))
        self.assertFalse(limited & set(git_arguments.list_refs("/r", ["HEAD"])))


class RefListTests(SynchronousTestCase):
    """Tests of parsing the output of git ls-remote."""

    LISTED = git_arguments.parse_refs(
        f"ref: refs/heads/main\tHEAD\n{A}\tHEAD\n{A}\trefs/heads/main\n{B}\trefs/heads/v1\n"
        f"{A}\trefs/tags/v1\n{C}\trefs/tags/v2\n{B}\trefs/tags/v2^{{}}\n".encode()
    )

    def test_first_that_exists(self) -> None:
        """The first of the names wins, which need not exist."""
        for names, commit, ref in (
            (["HEAD"], A, "refs/heads/main"),
            (["refs/heads/v1", "refs/tags/v1"], B, "refs/heads/v1"),
            (["refs/heads/x", "refs/tags/v1"], A, "refs/tags/v1"),
        ):
            self.assertEqual(self.LISTED.find(names), ResolvedRef(commit=commit, ref=ref))
        self.assertIsNone(self.LISTED.find(["refs/heads/x"]))

    def test_annotated_tag_is_the_commit_that_it_is_on_and_never_a_commit_itself(self) -> None:
        """An annotated tag is the commit that it is on, and never a commit itself."""
        found = ResolvedRef(commit=B, ref="refs/tags/v2")
        self.assertEqual(self.LISTED.find(["refs/tags/v2"]), found)
        self.assertIsNone(self.LISTED.find_tip(C))

    def test_commit_at_a_tip_is_found_by_the_branch_that_sorts_first(self) -> None:
        """A commit at a tip is found by the branch that sorts first."""
        listed = git_arguments.parse_refs(
            f"{A}\trefs/tags/a\n{A}\trefs/heads/z\n{A}\trefs/heads/b\n".encode()
        )
        self.assertEqual(listed.find_tip(A), ResolvedRef(commit=A, ref="refs/heads/b"))

    def test_servers_that_do_not_tell(self) -> None:
        """An old server does not say what HEAD is: it is a ref of its own."""
        listed = git_arguments.parse_refs(f"{A}\tHEAD\n".encode())
        self.assertEqual(listed.find(["HEAD"]), ResolvedRef(commit=A, ref="HEAD"))

    def test_empty_repository_has_no_refs(self) -> None:
        """An empty repository has no refs; other text is an error."""
        self.assertIsNone(git_arguments.parse_refs(b"").find(["HEAD"]))
        self.assertRaises(ValueError, git_arguments.parse_refs, b"Welcome!\n")
