"""The commands for the clients that people have."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import yaml
from twisted.trial.unittest import SynchronousTestCase

from nixery.http.ui.client_commands import CommandImage, client_commands, guess_program

DIGEST = "sha256:" + "0" * 64
IMAGE = CommandImage(host="reg.example:1", repository="shell/git", program="bash")


def texts(image: CommandImage) -> Mapping[tuple[str, str], str]:
    return {
        (each.client, command.key): command.text
        for each in client_commands(image)
        for command in each.commands
    }


class ClientCommandTests(SynchronousTestCase):
    def test_image_by_its_tag(self) -> None:
        """Each client gets the image under its tag; containerd never without one."""
        told = texts(IMAGE)
        reference = "reg.example:1/shell/git"
        for client in ("docker", "podman", "nerdctl"):
            self.assertEqual(f"{client} pull {reference}", told[client, "pull"])
            self.assertEqual(f"{client} run --rm -it {reference} bash", told[client, "run"])
        self.assertEqual(f"ctr images pull {reference}:latest", told["containerd", "pull"])
        self.assertEqual(
            f"ctr run --rm -t {reference}:latest nixery-shell-git bash", told["containerd", "run"]
        )
        self.assertEqual(
            f"skopeo copy docker://{reference} oci-archive:nixery-shell-git.tar",
            told["skopeo", "pull"],
        )
        self.assertNotIn(("docker", "digest"), told)
        tagged = texts(
            CommandImage(host="reg.example:1", repository="git", tag="v1", program="git")
        )
        for (client, key), text in tagged.items():
            self.assertIn("reg.example:1/git:v1", text, (client, key))
            self.assertNotIn(":latest", text)

    def test_files_run_the_image(self) -> None:
        """Kubernetes and Compose get files; a shell alone would end at once there."""
        told = texts(IMAGE)
        pod = yaml.safe_load(told["kubernetes", "run"])
        self.assertEqual("Pod", pod["kind"])
        self.assertRegex(pod["metadata"]["name"], r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
        [container] = pod["spec"]["containers"]
        self.assertEqual("reg.example:1/shell/git", container["image"])
        self.assertEqual(["sleep", "infinity"], container["command"])
        self.assertEqual(
            {
                "services": {
                    "main": {"image": "reg.example:1/shell/git", "command": ["sleep", "infinity"]}
                }
            },
            yaml.safe_load(told["compose", "run"]),
        )

    def test_image_by_its_digest(self) -> None:
        """The digest takes the tag's place for every client."""
        image = CommandImage(host="reg.example:1", repository="git", tag="v1", digest=DIGEST)
        told = texts(image)
        for each in client_commands(image):
            text = told[each.client, "digest"]
            self.assertIn(f"reg.example:1/git@{DIGEST}", text)
            self.assertNotIn(":v1", text)

    def test_platforms_of_an_index(self) -> None:
        """Each client is told a platform in its own words, with ARM's variant where it counts."""
        systems = ("x86_64-linux", "aarch64-linux", "armv7l-linux")
        told = texts(CommandImage(host="reg.example:1", repository="git", systems=systems))
        for client in ("docker", "podman", "nerdctl", "containerd"):
            for label, platform in (
                ("amd64", "linux/amd64"),
                ("arm64", "linux/arm64"),
                ("armv7", "linux/arm/v7"),
            ):
                words = shlex.split(told[client, label])
                self.assertEqual(platform, words[words.index("--platform") + 1])
        self.assertTrue(
            told["skopeo", "armv7"].startswith(
                "skopeo --override-arch arm --override-variant v7 copy "
            )
        )
        pod = yaml.safe_load(told["kubernetes", "arm64"])
        self.assertEqual({"kubernetes.io/arch": "arm64"}, pod["spec"]["nodeSelector"])
        compose = yaml.safe_load(told["compose", "arm64"])
        self.assertEqual("linux/arm64", compose["services"]["main"]["platform"])

    def test_registry_without_tls(self) -> None:
        """Clients that have an option for it are told that the registry speaks no TLS."""
        told = texts(CommandImage(host="reg.example:1", repository="git", secure=False))
        for command, option in (
            (("podman", "pull"), "podman pull --tls-verify=false "),
            (("podman", "run"), "podman run --rm -it --tls-verify=false "),
            (("nerdctl", "run"), "nerdctl --insecure-registry run "),
            (("containerd", "pull"), "ctr images pull --plain-http "),
            (("skopeo", "pull"), "skopeo copy --src-tls-verify=false "),
        ):
            self.assertTrue(told[command].startswith(option), told[command])

    def test_program_that_a_package_set_names_is_no_shell_code(self) -> None:
        """The program is one word of a command, and one string of a file, whatever its name is."""
        for program, words in (
            ("x; rm -rf ~", ["x; rm -rf ~"]),
            ("$(reboot)'`id`", ["$(reboot)'`id`"]),
            ("a\x1b[201~\nb", []),
            ("\u202ereversed", []),
            ('"]\nkind: Secret', []),
            ("", []),
        ):
            told = texts(CommandImage(host="reg:1", repository="git", program=program))
            self.assertEqual(
                ["docker", "run", "--rm", "-it", "reg:1/git", *words],
                shlex.split(told["docker", "run"]),
            )
            self.assertTrue(told["docker", "run"].isprintable())
            command = [program] if program else None
            pod = yaml.safe_load(told["kubernetes", "run"])
            self.assertEqual("Pod", pod["kind"])
            self.assertEqual(command, pod["spec"]["containers"][0].get("command"))
            service = yaml.safe_load(told["compose", "run"])["services"]["main"]
            # Compose reads two dollars as one, and one as the beginning of a variable.
            escaped = [program.replace("$", "$$")] if program else None
            self.assertEqual(escaped, service.get("command"))

    def test_guessed_program(self) -> None:
        """A shell is run where the meta-package is asked for, and not a package of that name."""
        for repository, program in (
            ("shell/git", "bash"),
            ("arm64/shell", "bash"),
            ("git/shell", "git"),
            ("multi/ripgrep/git", "rg"),
            ("amd64", ""),
        ):
            self.assertEqual(program, guess_program(repository, {"ripgrep": "rg"}))
