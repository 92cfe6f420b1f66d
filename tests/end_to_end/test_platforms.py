"""Tests of tags that serve several platforms, with the real Nix."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from tests.end_to_end.case import (
    EndToEndCase,
    Once,
    containerd,
    demo_registry,
    docker,
    podman,
    skopeo,
)
from tests.end_to_end.client_tree import ClientTree
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.engines import require
from tests.end_to_end.images import check_image
from tests.end_to_end.package_sets import PlatformSet
from tests.end_to_end.processes import private_directory, run
from tests.end_to_end.wire import DOCKER_MANIFEST, OCI_MANIFEST, Answer

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
CLIENTS = f"{DOCKER_MANIFEST}, {DOCKER_LIST}, {OCI_MANIFEST}, {OCI_INDEX}"

HOST = f"{os.uname().machine}-linux"
FOREIGN = "aarch64-linux" if HOST == "x86_64-linux" else "x86_64-linux"
ARCHITECTURES = {"x86_64-linux": "amd64", "aarch64-linux": "arm64"}

OPTIONS = ("--system", HOST, "--platforms", f"{FOREIGN},{HOST}")


CONTAINERD = """
cat >/run/containerd.toml <<EOF
version = 3
root = "/run/containerd/root"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
    "io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd/socket"
EOF
containerd --config /run/containerd.toml >/run/containerd.log 2>&1 &
trap "kill $!" EXIT
ctr() { command ctr --address /run/containerd/socket "$@"; }
until ctr version >/dev/null 2>&1; do
    kill -0 $! || { cat /run/containerd.log; exit 1; }
    sleep 0.1
done
"""

platform_set = Once(PlatformSet)
registry = Once(lambda: Daemon(platform_set().path, name="platforms", options=OPTIONS).start())


class PlatformTests(EndToEndCase):
    """One registry whose tags are indexes; this machine builds for itself only."""

    def index(self, name: str, daemon: Daemon | None = None) -> Answer:
        answer = (daemon or registry()).registry.manifest(name, accept=CLIENTS)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(answer.headers["content-type"], OCI_INDEX)
        return answer

    def named(self, index: Answer) -> Mapping[str, Any]:
        """The descriptors of an index by their architectures."""
        return {each["platform"]["architecture"]: each for each in index.json()["manifests"]}

    def test_every_platform_has_its_files(self) -> None:
        """One tag names an image for each platform, with files that were made for that one."""
        index = self.index("portable")
        named = self.named(index)
        self.assertEqual(list(named), ["amd64", "arm64"])
        client = registry().registry
        for system, architecture in ARCHITECTURES.items():
            answer = client.manifest("portable", named[architecture]["digest"])
            self.assertEqual(len(answer.body), named[architecture]["size"])
            image = check_image(answer.body, lambda digest: client.blob("portable", digest))
            self.assertEqual(image.config["architecture"], architecture)
            [text] = [
                archive.extractfile(member).read()  # type: ignore[union-attr]  # it is a file
                for member, archive in image.members()
                if member.name.endswith("portable-1.0/share/portable")
            ]
            self.assertEqual(text.decode().strip(), system)
            # Alone it is the same image.
            alone = client.manifest(f"{architecture}/portable")
            self.assertEqual(alone.body, answer.body)
        head = client.head("/v2/portable/manifests/latest", accept=CLIENTS)
        for header in ("content-type", "content-length", "docker-content-digest", "etag"):
            self.assertEqual(head.headers[header], index.headers[header])
        own = client.manifest("portable", accept="*/*")
        self.assertEqual(own.headers["docker-content-digest"], named[ARCHITECTURES[HOST]]["digest"])
        listed = client.manifest("portable", accept=DOCKER_LIST)
        self.assertEqual(listed.headers["content-type"], DOCKER_LIST)
        for each in listed.json()["manifests"]:
            self.assertEqual(each["mediaType"], DOCKER_MANIFEST)
            answer = client.manifest("portable", each["digest"], accept=OCI_MANIFEST)
            self.assertEqual(answer.headers["content-type"], DOCKER_MANIFEST)

    def test_engines_pull_their_own(self) -> None:
        """Every engine pulls and runs the image of this machine's platform, of the same tag."""
        image = f"{registry().address}/portable"
        for engine in (docker(), podman(), containerd()):
            engine.pull(image).checked()
            said = engine.run(image, "/bin/busybox", "cat", "/share/portable").checked().stdout
            self.assertEqual(said.strip(), HOST)
            engine.remove(image).checked()

    def test_programs_of_the_other_platform_run(self) -> None:
        """The program in the image for arm64 runs in an emulator, with what the image has."""
        require("qemu-aarch64")
        client = demo_registry().registry
        named = self.named(self.index("multi/hello", demo_registry()))
        image = check_image(
            client.manifest("multi/hello", named["arm64"]["digest"]).body,
            lambda digest: client.blob("multi/hello", digest),
        )
        root = private_directory("arm64")
        for layer in image.layers:
            extract = ["tar", "--extract", f"--directory={root}"]
            subprocess.run(extract, input=layer, check=True)
        [program] = root.glob("nix/store/*-hello-*/bin/hello")
        said = run(["qemu-aarch64", "-L", str(root), str(program)], environ={}, cwd=root)
        self.assertEqual(said.checked().stdout, "Hello, world!\n")

    def test_docker_shows_the_platforms(self) -> None:
        """Docker's command line shows the platforms of a tag."""
        said = docker().inspect_manifest(f"{registry().address}/portable").checked().stdout
        platforms = [each["platform"] for each in json.loads(said)["manifests"]]
        self.assertEqual([each["architecture"] for each in platforms], ["amd64", "arm64"])
        self.assertEqual(platforms[1].get("variant"), "v8")

    def test_engines_pull_another(self) -> None:
        """Every engine gets the other platform of the same tag where it asks for it."""
        image, architecture = f"{registry().address}/portable", ARCHITECTURES[FOREIGN]
        # No emulator is needed: the program in the image is one of this machine.
        podman().pull(image, f"--arch={architecture}").checked()
        options = (f"--arch={architecture}",)
        said = podman().run(image, "/bin/busybox", "cat", "/share/portable", options=options)
        self.assertEqual(said.checked().stdout.strip(), FOREIGN)
        podman().remove(image).checked()
        containerd().pull(image, f"--platform=linux/{architecture}").checked()
        containerd().remove(image).checked()
        seen = skopeo().inspect(image, f"--override-arch={architecture}", "--config")
        self.assertEqual(json.loads(seen.checked().stdout)["architecture"], architecture)

    def test_skopeo_copies_all(self) -> None:
        """skopeo copies the index with the images of all platforms, byte for byte."""
        image = f"{registry().address}/portable"
        raw = skopeo().inspect(image, "--raw").checked().stdout.encode()
        self.assertEqual(raw, self.index("portable").body)
        directory = private_directory("all") / "copy"
        skopeo().copy(image, f"dir:{directory}", "--all").checked()
        self.assertEqual((directory / "manifest.json").read_bytes(), raw)
        for each in json.loads(raw)["manifests"]:
            digest = each["digest"].removeprefix("sha256:")
            copied = (directory / f"{digest}.manifest.json").read_bytes()
            client = registry().registry
            self.assertEqual(copied, client.manifest("portable", each["digest"]).body)
            for layer in json.loads(copied)["layers"]:
                self.assertTrue((directory / layer["digest"].removeprefix("sha256:")).exists())

    def test_a_platform_that_cannot_be_had(self) -> None:
        """Nobody builds the package for the other platform: the index says so."""
        foreign, own = ARCHITECTURES[FOREIGN], ARCHITECTURES[HOST]
        for name, words in (("native", f"built on {FOREIGN}"), ("local", "no package")):
            index = self.index(name)
            self.assertEqual(list(self.named(index)), [own])
            [(key, reason)] = index.json()["annotations"].items()
            self.assertEqual(key, f"nixery.platform.skipped.{foreign}")
            self.assertIn(words, reason)
            self.assertIn(words, registry().registry.manifest(f"{foreign}/{name}").message)
        found = registry().registry.get("/api/packages?names=portable+local").json()["packages"]
        self.assertEqual([each["status"] for each in found], ["found", "found"])
        self.assertEqual([each["platforms"] for each in found], [["amd64", "arm64"], [own]])
        self.assertIn("no package", found[1]["missing_platforms"][foreign])
        absent = registry().registry.manifest("nothing", accept=CLIENTS)
        self.assertEqual((absent.status, absent.error["code"]), (404, "MANIFEST_UNKNOWN"))

    def test_another_configuration(self) -> None:
        """After a restart digests are the same; where nothing may be missing, the pull fails."""
        directory = registry().directory
        before = {name: self.index(name) for name in ("portable", "native")}
        first = Daemon(platform_set().path, name="first", options=OPTIONS, directory=directory)
        registry().stop()
        daemon = first.start()
        for name, index in before.items():
            self.assertEqual(self.index(name, daemon).body, index.body)
        daemon.stop()
        strict = (*OPTIONS, "--platforms-missing", "fail")
        daemon = Daemon(
            platform_set().path, name="strict", options=strict, directory=directory
        ).start()
        self.addCleanup(registry().start)
        self.addCleanup(daemon.stop)
        self.assertEqual(self.index("portable", daemon).body, before["portable"].body)
        refused = daemon.registry.manifest("native", accept=CLIENTS)
        self.assertEqual(refused.status, 422)
        self.assertIn(f"built on {FOREIGN}", refused.message)
        self.assertEqual(json.loads(daemon.registry.get("/images").body)["total"], 3)


clients = Once(ClientTree)


class NewerClientTests(EndToEndCase):
    """Clients that Debian 12 does not have, on the same registry; see :class:`ClientTree`."""

    def setUp(self) -> None:
        super().setUp()
        self.registry = registry()
        answer = self.registry.registry.manifest("portable", accept=CLIENTS)
        self.index = answer.body
        self.manifests: Mapping[str, Any] = {
            each["platform"]["architecture"]: each for each in answer.json()["manifests"]
        }

    def shell(self, script: str, *programs: str) -> str:
        """Run a script with programs of the tree; return what it prints."""
        clients().require(*programs)
        environ = {"IMAGE": f"{self.registry.address}/portable:latest"}
        return clients().run(script, environ).checked().stdout

    def test_docker_and_buildx_show_the_platforms(self) -> None:
        """``docker manifest inspect`` and ``docker buildx imagetools inspect`` show both."""
        said = self.shell('docker manifest inspect --insecure "$IMAGE"', "usr/bin/docker")
        self.assertEqual(
            [each["digest"] for each in json.loads(said)["manifests"]],
            [each["digest"] for each in self.manifests.values()],
        )
        plugin = "usr/libexec/docker/cli-plugins/docker-buildx"
        raw = self.shell('docker buildx imagetools inspect --raw "$IMAGE"', plugin)
        self.assertEqual(raw.strip().encode(), self.index.strip())
        said = self.shell(
            "docker buildx imagetools inspect --format '{{json .Image}}' \"$IMAGE\"", plugin
        )
        images = json.loads(said)
        self.assertEqual(
            {platform: image["architecture"] for platform, image in images.items()},
            {f"linux/{architecture}": architecture for architecture in self.manifests},
        )

    def test_containerd_pulls_as_kubernetes_does(self) -> None:
        """containerd 2 fetches the manifests and configurations of all, and the layers of one."""
        own, other = ARCHITECTURES[HOST], ARCHITECTURES[FOREIGN]
        for option in ("--local", ""):
            begun = self.registry.log_size()
            self.shell(
                CONTAINERD + f'ctr images pull {option} --plain-http "$IMAGE" >/run/pulled\n',
                "usr/bin/containerd",
                "usr/bin/ctr",
            )
            asked = self.registry.log(begun)
            bodies = {
                architecture: self.registry.registry.manifest(
                    "portable", self.manifests[architecture]["digest"]
                ).json()
                for architecture in self.manifests
            }
            for architecture, manifest in bodies.items():
                self.assertIn(self.manifests[architecture]["digest"], asked)
                self.assertIn(manifest["config"]["digest"], asked)
            layers = {
                architecture: {each["digest"] for each in manifest["layers"]}
                for architecture, manifest in bodies.items()
            }
            for digest in layers[own]:
                self.assertIn(digest, asked)
            for digest in layers[other] - layers[own]:
                self.assertNotIn(digest, asked)

    def test_podman_and_skopeo_choose_and_copy(self) -> None:
        """podman 5 pulls either platform of the tag; skopeo copies all, byte for byte."""
        own, other = ARCHITECTURES[HOST], ARCHITECTURES[FOREIGN]
        said = self.shell(
            f"""
            printf '[storage]\\ndriver = "vfs"\\nrunroot = "/run/r"\\ngraphroot = "/run/g"\\n' \\
                >/etc/containers/storage.conf
            echo '{{"default": [{{"type": "insecureAcceptAnything"}}]}}' \\
                >/etc/containers/policy.json
            for platform in {own} {other}; do
                podman pull --quiet --tls-verify=false --platform linux/$platform "$IMAGE" >/run/id
                podman image inspect --format '{{{{.Architecture}}}}' "$(cat /run/id)"
                podman rmi "$(cat /run/id)" >/run/removed
            done
            skopeo copy --all --src-tls-verify=false "docker://$IMAGE" dir:/run/image >/run/copied
            sha256sum </run/image/manifest.json | cut -d' ' -f1
            ls /run/image/*.manifest.json | wc -l
            """
        )
        expected = [own, other, hashlib.sha256(self.index).hexdigest(), "2"]
        self.assertEqual(said.split(), expected)
