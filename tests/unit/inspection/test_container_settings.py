"""Tests of the settings that the config of an image has for its containers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.inspection.container_settings import ContainerSettings, read_container_settings


class ContainerSettingsTests(SynchronousTestCase):
    def test_defaults_are_those_of_the_specification(self) -> None:
        """A config that sets nothing means root, in the root directory."""
        expected = ContainerSettings(environment=(), user="root", working_directory="/", command=())
        self.assertEqual(expected, read_container_settings(b'{"config":{}}'))

    def test_all_settings(self) -> None:
        """The entry point precedes the command."""
        config = (
            b'{"config":{"Env":["A=b"],"User":"65534:65534","WorkingDir":"/srv",'
            b'"Entrypoint":["/bin/env"],"Cmd":["git","log"]}}'
        )
        expected = ContainerSettings(
            environment=("A=b",),
            user="65534:65534",
            working_directory="/srv",
            command=("/bin/env", "git", "log"),
        )
        self.assertEqual(expected, read_container_settings(config))

    def test_bytes_that_are_no_config(self) -> None:
        """Other bytes are refused."""
        for wrong in (b"", b"[]", b"{}", b'{"config":[]}', b'{"config":{"Env":1}}', b"\xff"):
            with self.assertRaises(ValueError, msg=wrong):
                read_container_settings(wrong)
