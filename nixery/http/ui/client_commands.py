"""
Write the commands that pull and run an image, for the clients that people have.

The pages of images, of builds and of the package box show the same commands.  Of an index, a client
picks the image of its own platform; a command for each platform is written as well.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from attrs import frozen

from nixery.image.config import platform_of
from nixery.image.image_index import platform_label
from nixery.image.names import META_PACKAGES

__all__ = ["ClientCommands", "Command", "CommandImage", "client_commands", "guess_program"]

_MAX_LABEL_CHARACTERS = 50
"""The most characters of an image's name in the name of a container: Kubernetes allows 63."""


@frozen(kw_only=True)
class CommandImage:
    """
    An image, as commands name it.

    :param host: the registry's address, which precedes the name: ``registry.example:8080``.
    :param secure: false if the registry is reached without TLS, which clients have to be told.
    :param tag: ``None``: commands name none where the client takes ``latest`` by itself.
    :param digest: of the manifest or the index; ``None``: it is not known yet.
    :param systems: the Nix systems of an index; empty for the image of one system.
    :param program: the program to run; empty: whatever the image itself says.
    """

    host: str
    repository: str
    secure: bool = True
    tag: str | None = None
    digest: str | None = None
    systems: Sequence[str] = ()
    program: str = ""

    @property
    def tagged(self) -> str:
        """The image by its tag."""
        return f"{self.host}/{self.repository}" + (f":{self.tag}" if self.tag else "")

    @property
    def pinned(self) -> str:
        """The image by its digest, where that is known."""
        return f"{self.host}/{self.repository}@{self.digest}"

    @property
    def label(self) -> str:
        """A name for a container or a file."""
        named = re.sub(r"[^a-z0-9]+", "-", self.repository)[:_MAX_LABEL_CHARACTERS].strip("-")
        return f"nixery-{named}"

    @property
    def words(self) -> str:
        """The program as a word for a shell; a package set may call it anything."""
        return shlex.quote(self.program) if self.program and self.program.isprintable() else ""

    @property
    def has_shell(self) -> bool:
        """True if the meta-package ``shell`` is requested."""
        return "shell" in itertools.takewhile(
            META_PACKAGES.__contains__, self.repository.split("/")
        )

    @property
    def service(self) -> Sequence[str]:
        """The command of a container that nobody is attached to: a shell would end at once."""
        return ["sleep", "infinity"] if self.has_shell else [self.program] if self.program else []


@frozen(kw_only=True)
class Command:
    """
    A command, or a file for a client that reads one.

    :param key: ``pull``, ``run``, ``digest``, or the label of a platform.
    :param title: says what it does.
    """

    key: str
    title: str
    text: str


@frozen(kw_only=True)
class ClientCommands:
    """The commands for one client; ``client`` is a short name for it."""

    client: str
    title: str
    commands: tuple[Command, ...]

    def text(self, key: str) -> str:
        """Return the text of a command."""
        return next(command.text for command in self.commands if command.key == key)


_Writer: TypeAlias = Callable[[CommandImage, str, str], str]
"""Writes a file that runs an image, given its reference and a platform; empty: any."""


def client_commands(image: CommandImage) -> tuple[ClientCommands, ...]:
    """Return the commands for an image, by client."""
    return (
        _engine("docker", "Docker", image),
        _engine("podman", "podman", image, insecure="--tls-verify=false"),
        _engine("nerdctl", "nerdctl", image, leading="--insecure-registry"),
        _containerd(image),
        _skopeo(image),
        _files("kubernetes", "Kubernetes", image, _pod),
        _files("compose", "Compose", image, _compose),
    )


def guess_program(repository: str, pnames: Mapping[str, str]) -> str:
    """
    Guess the program that somebody wants to run: a shell where one is asked for, or else the
    program that is called as the first package.

    :param pnames: the names of packages in the package set, by the components that request them.
    """
    components = repository.split("/")
    if "shell" in itertools.takewhile(META_PACKAGES.__contains__, components):
        return "bash"
    first = next(itertools.dropwhile(META_PACKAGES.__contains__, components), "")
    return pnames.get(first, first)


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


def _platforms(image: CommandImage) -> Iterator[tuple[str, str]]:
    """Yield the label and the platform of each system of an index, as clients write them."""
    for system in image.systems:
        platform, label = platform_of(system), platform_label(system)
        variant = "" if label == platform.architecture else f"/{platform.variant}"
        yield label, f"{platform.os}/{platform.architecture}{variant}"


def _collect(
    pull: Sequence[Command], pinned: str, image: CommandImage, by_platform: Mapping[str, str]
) -> tuple[Command, ...]:
    commands = [*pull]
    if image.digest is not None:
        title = "Exactly this image, whatever the tag will mean later"
        commands.append(Command(key="digest", title=title, text=pinned))
    commands += [
        Command(key=label, title=f"The image for {label}", text=text)
        for label, text in by_platform.items()
    ]
    return tuple(commands)


def _engine(
    client: str, title: str, image: CommandImage, *, insecure: str = "", leading: str = ""
) -> ClientCommands:
    """
    Write the commands for an engine with Docker's command line.

    :param insecure: its option for a registry without TLS, behind the command.
    :param leading: the same, before the command.
    """
    option = "" if image.secure else insecure
    program = _joined(client, "" if image.secure else leading)

    def pull(reference: str, platform: str = "") -> str:
        return _joined(program, "pull", option, platform, reference)

    run = _joined(program, "run --rm -it", option, image.tagged, image.words)
    return ClientCommands(
        client=client,
        title=title,
        commands=_collect(
            (
                Command(key="pull", title="Pull it", text=pull(image.tagged)),
                Command(key="run", title="Run it", text=run),
            ),
            pull(image.pinned),
            image,
            {
                label: pull(image.tagged, f"--platform {platform}")
                for label, platform in _platforms(image)
            },
        ),
    )


def _containerd(image: CommandImage) -> ClientCommands:
    option = "" if image.secure else "--plain-http"
    # ctr takes no tag for granted.
    tagged = image.tagged if image.tag else f"{image.tagged}:latest"

    def pull(reference: str, platform: str = "") -> str:
        return _joined("ctr images pull", option, platform, reference)

    run = _joined("ctr run --rm -t", tagged, image.label, image.words)
    return ClientCommands(
        client="containerd",
        title="containerd",
        commands=_collect(
            (
                Command(key="pull", title="Pull it", text=pull(tagged)),
                Command(key="run", title="Run it, when it is pulled", text=run),
            ),
            pull(image.pinned),
            image,
            {
                label: pull(tagged, f"--platform {platform}")
                for label, platform in _platforms(image)
            },
        ),
    )


def _skopeo(image: CommandImage) -> ClientCommands:
    option = "" if image.secure else "--src-tls-verify=false"

    def copy(reference: str, choice: str = "") -> str:
        target = f"oci-archive:{image.label}.tar"
        return _joined("skopeo", choice, "copy", option, f"docker://{reference}", target)

    def choose(platform: str) -> str:
        _, architecture, *variant = platform.split("/")
        return " ".join(
            [f"--override-arch {architecture}", *(f"--override-variant {v}" for v in variant)]
        )

    return ClientCommands(
        client="skopeo",
        title="skopeo",
        commands=_collect(
            (Command(key="pull", title="Copy it to a file", text=copy(image.tagged)),),
            copy(image.pinned),
            image,
            {label: copy(image.tagged, choose(each)) for label, each in _platforms(image)},
        ),
    )


def _files(client: str, title: str, image: CommandImage, write: _Writer) -> ClientCommands:
    run = Command(key="run", title=f"Run it with {title}", text=write(image, image.tagged, ""))
    return ClientCommands(
        client=client,
        title=title,
        commands=_collect(
            (run,),
            write(image, image.pinned, ""),
            image,
            {label: write(image, image.tagged, platform) for label, platform in _platforms(image)},
        ),
    )


def _pod(image: CommandImage, reference: str, platform: str) -> str:
    # JSON's strings are YAML's, whatever they hold.
    lines = [
        "apiVersion: v1",
        "kind: Pod",
        "metadata:",
        f"  name: {json.dumps(image.label)}",
        "spec:",
    ]
    if platform:
        architecture = platform.split("/")[1]
        lines += ["  nodeSelector:", f"    kubernetes.io/arch: {json.dumps(architecture)}"]
    lines += ["  containers:", "    - name: main", f"      image: {json.dumps(reference)}"]
    if image.service:
        lines.append(f"      command: {json.dumps(image.service)}")
    return "\n".join(lines) + "\n"


def _compose(image: CommandImage, reference: str, platform: str) -> str:
    lines = ["services:", "  main:", f"    image: {json.dumps(reference)}"]
    if platform:
        lines.append(f"    platform: {json.dumps(platform)}")
    if image.service:
        # Compose puts a variable's value in the place of `$name`, and a dollar in that of two.
        command = json.dumps(image.service).replace("$", "$$")
        lines.append(f"    command: {command}")
    return "\n".join(lines) + "\n"
