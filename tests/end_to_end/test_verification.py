"""
Clients that verify signatures, and those that list and copy what is attached to an image.

They run where a tree has them, see :mod:`tests.end_to_end.client_tree`; the unit tests verify the
same bytes by code of their own.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.end_to_end.case import EndToEndCase, Once, demo_registry
from tests.end_to_end.client_tree import ClientTree
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.package_sets import PlatformSet, demo_set
from tests.end_to_end.processes import private_directory

VERIFY = "cosign verify --key /run/nixery.pub --insecure-ignore-tlog=true"
ATTEST = "cosign verify-attestation --key /run/nixery.pub --insecure-ignore-tlog=true"

POLICY = """
printf '%s' "$KEY" >/run/nixery.pub
printf '%s' "$OTHER" >/run/other.pub
policy() { # KEY IDENTITY
cat >/etc/containers/policy.json <<EOF
{"default": [{"type": "reject"}], "transports": {"docker": {"127.0.0.1": [{"type": "reject"}],
 "$REGISTRY": [{"type": "sigstoreSigned", "keyPath": "$1", "signedIdentity": $2}],
 "$UNSIGNED": [{"type": "sigstoreSigned", "keyPath": "$1", "signedIdentity": $2}],
 "$MIRROR": [{"type": "sigstoreSigned", "keyPath": "$1", "signedIdentity": $2}]}}}
EOF
}
mkdir -p /etc/containers/registries.d
for host in "$REGISTRY" "$UNSIGNED" "$MIRROR"; do
    printf 'docker:\\n  %s:\\n    use-sigstore-attachments: true\\n' "$host" \\
        >"/etc/containers/registries.d/$(echo "$host" | tr : -).yaml"
done
pull() { # IMAGE
    rm -rf /run/image
    skopeo --policy /etc/containers/policy.json copy --src-tls-verify=false \\
        "docker://$1" dir:/run/image
}
refused() { # TEXT COMMAND...
    text=$1; shift
    if "$@" >/run/said 2>&1; then echo "not refused: $*"; exit 1; fi
    grep -q "$text" /run/said || { cat /run/said; echo "refused, but not for: $text"; exit 1; }
}
mirror() {
    crane registry serve --address "$MIRROR" >/run/mirror.log 2>&1 &
    echo $! >/run/mirror.pid
    trap 'kill $(cat /run/mirror.pid)' EXIT
    until crane catalog --insecure "$MIRROR" >/dev/null 2>&1; do sleep 0.1; done
}
"""


class SignedRegistry:
    """A registry that signs, and its public key; the public key of somebody else."""

    def __init__(self) -> None:
        directory = private_directory("keys")
        self.key, self.pem = _make_key(directory, "own")
        _, self.other_pem = _make_key(directory, "other")
        self.daemon = Daemon(demo_set(), name="signed", signing_key=self.key).start()


def _make_key(directory: Path, name: str) -> tuple[Path, str]:
    path = directory / f"{name}.pem"
    subprocess.run(
        [
            *("openssl", "genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    public = subprocess.run(
        ["openssl", "pkey", "-in", str(path), "-pubout"], check=True, capture_output=True
    )
    return path, public.stdout.decode()


clients = Once(ClientTree)
signed_registry = Once(SignedRegistry)


class VerificationTests(EndToEndCase):
    """Tests of the clients that verify."""

    def setUp(self) -> None:
        super().setUp()
        self.clients = clients()
        self.signed = signed_registry()
        self.host = self.signed.daemon.address

    def shell(self, script: str, registry: str | None = None) -> str:
        """
        Run a script with the clients, the keys and the registries; return what it prints.

        :param registry: the address of the one that signs, if it is another one.
        """
        environ = {
            "KEY": self.signed.pem,
            "OTHER": self.signed.other_pem,
            "REGISTRY": registry or self.host,
            "UNSIGNED": demo_registry().address,
            "MIRROR": "127.0.0.1:39017",
        }
        return self.clients.run(POLICY + script, environ).checked().output

    def test_public_key_is_served(self) -> None:
        """The registry serves the public key of the private one that it was given."""
        answer = self.signed.daemon.registry.get("/keys/nixery.pub")
        self.assertEqual((answer.status, answer.body.decode()), (200, self.signed.pem))

    def test_cosign_verifies_images(self) -> None:
        """cosign verifies an image by tag and by digest, and refuses others."""
        self.shell(f"""
            {VERIFY} "$REGISTRY/hello:latest"
            {VERIFY} "$REGISTRY/hello@$(crane digest --insecure "$REGISTRY/hello:latest")"
            refused '' {VERIFY.replace("nixery.pub", "other.pub")} "$REGISTRY/hello:latest"
            refused '' {VERIFY} "$UNSIGNED/hello:latest"
        """)

    def test_cosign_verifies_signatures_under_tags(self) -> None:
        """cosign verifies the signatures that versions before 3 look for."""
        self.shell(f"""
            {VERIFY} --new-bundle-format=false "$REGISTRY/hello:latest"
            for kind in cyclonedx spdxjson slsaprovenance1; do
                {ATTEST} --new-bundle-format=false --type $kind "$REGISTRY/hello:latest"
            done
        """)

    def test_cosign_verifies_what_is_said_of_images(self) -> None:
        """cosign verifies the SBOMs and the provenance."""
        for kind in ("cyclonedx", "spdxjson", "slsaprovenance1"):
            said = self.shell(f'{ATTEST} --type {kind} "$REGISTRY/hello:latest"')
            payload = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
            self.assertEqual(payload["payloadType"], "application/vnd.in-toto+json")
            other = ATTEST.replace("nixery.pub", "other.pub")
            self.shell(f"refused '' {other} --type {kind} \"$REGISTRY/hello:latest\"")

    def test_oras_lists_and_pulls(self) -> None:
        """oras lists what is attached, by type, and pulls it."""
        said = self.shell("""
            cd /run
            oras discover --plain-http --format json "$REGISTRY/hello:latest" >all.json
            oras discover --plain-http --format json \\
                --artifact-type application/vnd.cyclonedx+json "$REGISTRY/hello:latest" >some.json
            digest=$(tr , '\\n' <some.json | sed -n 's/.*"digest": *"\\(.*\\)".*/\\1/p' | tail -1)
            oras pull --plain-http "$REGISTRY/hello@$digest" >/dev/null
            cat all.json
        """)
        found = json.loads(said[said.index("{") :])
        types = [each["artifactType"] for each in found["referrers"]]
        self.assertEqual(len(types), 7)
        self.assertIn("application/spdx+json", types)

    def test_policies_are_kept(self) -> None:
        """skopeo copies what is signed, and nothing unsigned, by another key or changed."""
        self.shell("""
            policy /run/nixery.pub '{"type": "matchRepository"}'
            pull "$REGISTRY/hello:latest"
            refused 'signature was required' pull "$UNSIGNED/hello:latest"
            policy /run/nixery.pub '{"type": "matchRepoDigestOrExact"}'
            pull "$REGISTRY/hello:latest"
            policy /run/other.pub '{"type": "matchRepository"}'
            refused 'cryptographic signature verification failed' pull "$REGISTRY/hello:latest"

            mirror
            crane copy --insecure "$REGISTRY/hello:latest" "$MIRROR/hello:latest"
            crane mutate --insecure --label changed=yes --tag "$MIRROR/hello:changed" \\
                "$MIRROR/hello:latest"
            was=$(crane digest --insecure "$MIRROR/hello:latest" | tr : -)
            is=$(crane digest --insecure "$MIRROR/hello:changed" | tr : -)
            crane copy --insecure "$REGISTRY/hello:$was.sig" "$MIRROR/hello:$was.sig"
            crane copy --insecure "$REGISTRY/hello:$was.sig" "$MIRROR/hello:$is.sig"
            policy /run/nixery.pub "{\\"type\\": \\"exactRepository\\",
                \\"dockerRepository\\": \\"$REGISTRY/hello\\"}"
            pull "$MIRROR/hello:latest"
            refused 'ignature' pull "$MIRROR/hello:changed"
        """)

    def test_podman_pulls_what_is_signed(self) -> None:
        """podman pulls what is signed, and refuses what is not."""
        self.shell("""
            printf '[storage]\\ndriver = "vfs"\\nrunroot = "/run/r"\\ngraphroot = "/run/g"\\n' \\
                >/etc/containers/storage.conf
            policy /run/nixery.pub '{"type": "matchRepository"}'
            podman pull --tls-verify=false "$REGISTRY/hello:latest"
            refused 'signature was required' podman pull --tls-verify=false "$UNSIGNED/hello:latest"
            policy /run/other.pub '{"type": "matchRepository"}'
            podman rmi "$REGISTRY/hello:latest"
            refused 'signature verification failed' \\
                podman pull --tls-verify=false "$REGISTRY/hello:latest"
        """)

    def test_indexes_are_verified(self) -> None:
        """The index is verified by cosign, the image of each platform by those who pull it."""
        options = ["--platforms", "x86_64-linux,aarch64-linux"]
        daemon = Daemon(
            PlatformSet().path, name="signed-index", options=options, signing_key=self.signed.key
        ).start()
        self.addCleanup(daemon.stop)
        script = f"""
            image=$REGISTRY/portable:latest
            index=$(crane digest --insecure "$image")
            for platform in amd64 arm64; do
                digest=$(crane digest --insecure --platform linux/$platform "$image")
                test "$digest" != "$index"
                crane manifest --insecure "$image" | grep -q "$digest"
                crane pull --insecure --platform linux/$platform "$image" /run/$platform.tar
                crane config --insecure --platform linux/$platform "$image" | grep -q $platform
                {VERIFY} "$REGISTRY/portable@$digest"
                {ATTEST} --type cyclonedx "$REGISTRY/portable@$digest"
            done
            {VERIFY} "$image"
            {VERIFY} "$REGISTRY/portable@$index"
            {VERIFY} --new-bundle-format=false "$image"
            refused '' {VERIFY.replace("nixery.pub", "other.pub")} "$image"

            policy /run/nixery.pub '{{"type": "matchRepoDigestOrExact"}}'
            pull "$image"
            rm -rf /run/image
            skopeo --policy /etc/containers/policy.json copy --all --src-tls-verify=false \\
                "docker://$image" dir:/run/image
            policy /run/other.pub '{{"type": "matchRepository"}}'
            refused 'signature verification failed' pull "$image"

            mirror
            oras copy -r --from-plain-http --to-plain-http "$image" "$MIRROR/portable:latest"
            {VERIFY} "$MIRROR/portable:latest"
        """
        self.shell(script, daemon.address)

    def test_copies_keep_signatures(self) -> None:
        """Copies in another registry, by oras and by skopeo, are verified there."""
        self.shell(f"""
            mirror
            oras copy -r --from-plain-http --to-plain-http "$REGISTRY/hello:latest" \\
                "$MIRROR/by-oras:latest"
            {VERIFY} "$MIRROR/by-oras:latest"
            {ATTEST} --type cyclonedx "$MIRROR/by-oras:latest"

            policy /run/nixery.pub '{{"type": "matchRepository"}}'
            skopeo copy --src-tls-verify=false --dest-tls-verify=false \\
                "docker://$REGISTRY/hello:latest" "docker://$MIRROR/hello:latest"
            {VERIFY} "$MIRROR/hello:latest"
        """)
