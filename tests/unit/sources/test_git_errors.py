"""
Tests for ``nixery.sources.git_errors``.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.process.errors import CommandOutput, ProcessFailed, ProcessTimedOut
from nixery.sources.git_errors import advice_on, git_failure, git_reason

NO_ACCESS = (
    "fatal: could not read Username for 'https://h': terminal prompts disabled\n",
    "fatal: could not read Password for 'https://u@h': No such device or address\n",
    "remote: HTTP Basic: Access denied\nfatal: Authentication failed for 'https://h/p/'\n",
    "fatal: unable to access 'https://h/p/': The requested URL returned error: 403\n",
    "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.\n",
    "batch response: Authentication required: Authorization error: https://h/p/info/lfs\n",
    "batch response: Git credentials for https://h/p not found.\n",
)
OTHER = (
    "fatal: unable to access 'https://h/p': Could not resolve host: h\n",
    "fatal: unable to access 'https://h/p/': The requested URL returned error: 503\n",
    "fatal: couldn't find remote ref refs/heads/x\n",
    'error: open("/srv/p.git/HEAD"): Permission denied\n',
    "",
)


def failed(stderr: str) -> ProcessFailed:
    return ProcessFailed(output=CommandOutput(argv=("git",), status=128, stderr=stderr))


class AdviceTests(SynchronousTestCase):
    """Tests of what to do about a failure."""

    def test_missing_credentials_are_told_apart_from_a_server_that_is_away(self) -> None:
        """A host that refuses wants credentials; any other failure may pass."""
        for stderr in NO_ACCESS:
            error = git_failure(failed(stderr), source="s", what="w")
            self.assertIn("SSH key", error.advice)
            self.assertIn("token", error.message)
            self.assertIn(error.reason.split("\n")[0], stderr.replace("\n", " "))
        for stderr in OTHER:
            self.assertIsNone(advice_on(stderr), stderr)
            self.assertIn("try again", git_failure(failed(stderr), source="s", what="w").advice)

    def test_unknown_host_key_is_put_into_known_hosts(self) -> None:
        """A host whose key is unknown is not a matter of credentials."""
        stderr = "Host key verification failed.\nfatal: Could not read from remote repository.\n"
        error = git_failure(failed(stderr), source="s", what="w")
        self.assertIn("known_hosts", error.advice)

    def test_deadline_is_the_reason_whatever_was_printed(self) -> None:
        """A command that took too long is not said to lack credentials."""
        output = CommandOutput(argv=("git",), stderr=NO_ACCESS[0])
        error = git_failure(ProcessTimedOut(output=output, seconds=3), source="s", what="w")
        self.assertIn("stopped after 3 s", error.reason)
        self.assertIn("try again", error.advice)
        self.assertEqual(error.output, output)


class ReasonTests(SynchronousTestCase):
    """Tests of the text that is shown."""

    def test_reason_is_what_git_and_ssh_say_and_not_their_advice(self) -> None:
        """The lines with the reason are shown, and those around them are not."""
        text = "hint: x\nssh: connect to host h port 22: refused\nfatal: no\n\nPlease make sure\n"
        self.assertEqual(git_reason(text), "ssh: connect to host h port 22: refused fatal: no")
        self.assertEqual(git_reason("odd\nwords\nmore\n"), "odd words")
        self.assertEqual(len(git_reason("fatal: " + "x" * 1000)), 300)
        self.assertIn("git@h: Permission denied", git_reason(NO_ACCESS[4]))

    def test_git_that_says_nothing(self) -> None:
        """A command without a word is told by its status."""
        self.assertIn("status 128", git_failure(failed(""), source="s", what="w").reason)
