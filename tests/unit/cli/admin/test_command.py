"""Tests of ``nixery-admin``."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.artifacts.attachment import attach_document, encode_attachments
from nixery.artifacts.document import SPDX, Document
from nixery.builds.documents import DOCUMENTS
from nixery.cli.admin.command import admin
from nixery.cli.admin.prewarm import PrewarmResult, PullResponse, prewarm
from nixery.cli.admin.registry_client import local_url
from nixery.image.manifests import OCI_MANIFEST, Manifest, digest_of
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.inspection.catalog import REPORTS
from nixery.inspection.report import ReportedLicense, make_report
from nixery.inspection.report_file import encode_report
from nixery.pulls.tag_records import tag_record_key
from nixery.runtime.errors import FetchFailed
from nixery.storage.filesystem import scan
from tests.support.inspection import made_of
from tests.support.stores import StoreCase
from tests.support.strategies import graph_of
from tests.unit.storage.test_contract import finish

SYSTEM = "x86_64-linux"


class AdminCase(StoreCase):
    """The command, on a storage of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(scan, "TIMESTAMP_RESOLUTION_SECONDS", float("-inf"))
        self.patch(os, "environ", {"HOME": "/nonexistent"})

    def serve(self, name: str, tag: str, *layers: bytes) -> tuple[str, ...]:
        """Publish an image, and note it as the daemon does."""
        key = f"{name}:{tag}".replace("/", "-")
        for layer in layers:
            self.layer(layer)
        manifests = self.name(key, *layers)
        parsed = parse_image_name(name, SYSTEM)
        place = tag_record_key(parsed, Tag(tag))
        finish(self.storage.set_record("served", place, key.encode()))
        finish(self.storage.add_record("name", place.partition("/")[0], name.encode()))
        return manifests

    def serve_index(self, name: str, images: Mapping[str, Sequence[bytes]]) -> tuple[Digest, ...]:
        """Publish an index of images by their keys, and note it as the daemon does."""
        key = name.replace("/", "-")
        manifests = self.index(key, images)
        place = tag_record_key(parse_image_name(name, SYSTEM), Tag("latest"))
        finish(self.storage.delete_record("served", f"n-{key}/latest"))
        finish(self.storage.set_record("served", place, key.encode()))
        finish(self.storage.add_record("name", place.partition("/")[0], name.encode()))
        return manifests

    def run_admin(self, *arguments: str, status: int = 0) -> str:
        """Return a command's output; the command has to exit with ``status``."""
        out, err = io.StringIO(), io.StringIO()
        command, *rest = arguments
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            self.assertRaises(SystemExit) as ended,
        ):
            admin([command, "--storage-path", str(self.root), *rest])
        self.assertEqual(status, ended.exception.code or 0, err.getvalue())
        return out.getvalue() + err.getvalue()


class SignedCase(AdminCase):
    """The command, where a key is configured."""

    def setUp(self) -> None:
        super().setUp()
        key = Path(self.mktemp()).absolute()
        key.write_bytes(
            Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
        )
        self.config = Path(self.mktemp()).absolute()
        self.config.write_text(f"{{signing_key: {key}, public_url: 'https://reg.example'}}")

    def run_signed(self, *arguments: str, status: int = 0) -> str:
        command, *rest = arguments
        return self.run_admin(command, "--config", str(self.config), *rest, status=status)


class SigningTests(SignedCase):
    """Tests of the command that signs, and of the one that verifies what is signed."""

    def test_images_are_signed_under_their_names(self) -> None:
        """Images are signed under the names and tags that mean them, once."""
        self.serve("shell/git", "v1", b"1")
        self.serve("htop", "latest", b"2")
        self.assertIn("htop:latest: 4 signatures added", self.run_signed("sign", "htop"))
        self.assertEqual(2, len(finish(self.storage.list_records("signature"))))
        said = json.loads(self.run_signed("sign", "--json"))
        self.assertEqual(
            {("shell/git:v1", 4), ("htop:latest", 0)},
            {(each["image"], each["added"]) for each in said},
        )
        self.assertIn("all is well", self.run_signed("verify"))
        [shown] = json.loads(self.run_admin("inspect", "shell/git:v1"))
        self.assertEqual(
            ["reg.example/shell/git:v1"] * 2, [each["reference"] for each in shown["signatures"]]
        )
        self.assertEqual(2, len(json.loads(self.run_admin("list", "--json"))))

    def test_without_a_key_nothing_is_signed(self) -> None:
        """Without a key the command says which setting names one."""
        self.serve("git", "v1", b"1")
        self.assertIn("signing_key", self.run_admin("sign", "git", status=1))
        self.assertEqual([], finish(self.storage.list_records("signature")))

    def test_wrong_signatures_are_found_and_made_again(self) -> None:
        """A signature that the key does not verify is found, removed, and made again."""
        self.serve("git", "v1", b"1")
        self.run_signed("sign")
        good = {
            key: finish(self.storage.get_record("signature", key))
            for key in finish(self.storage.list_records("signature"))
        }
        key = min(good)
        value = json.loads(good[key] or b"")
        value["signature"] = "AAAA" + value["signature"][4:]
        finish(self.storage.set_record("signature", key, json.dumps(value).encode()))
        # Of what another key has signed nothing is known.
        self.assertIn("all is well", self.run_admin("verify"))
        said = self.run_signed("verify", status=1)
        self.assertIn(f"damaged: signature record {key}", said)
        self.run_signed("verify", "--repair", status=1)
        self.assertIsNone(finish(self.storage.get_record("signature", key)))
        self.run_signed("sign")
        self.assertEqual(good[key], finish(self.storage.get_record("signature", key)))
        self.assertIn("all is well", self.run_signed("verify"))

    def test_lost_payload_is_found(self) -> None:
        """A signature whose payload is gone, and a record that says nothing, are found."""
        self.serve("git", "v1", b"1")
        self.run_signed("sign")
        key, other = finish(self.storage.list_records("signature"))
        payload = json.loads(finish(self.storage.get_record("signature", key)) or b"")["payload"]
        path = self.inventory().path(payload["digest"])
        os.unlink(path)
        os.unlink(path + ".json")
        finish(self.storage.set_record("signature", other, b"nothing"))
        said = self.run_signed("verify", status=1)
        self.assertIn(f"dangling: signature record {key}", said)
        self.assertIn(f"damaged: signature record {other}", said)


class IndexTests(SignedCase):
    """Tests of indexes, which are one image each."""

    def setUp(self) -> None:
        super().setUp()
        images = {"one": (b"1", b"2"), "two": (b"3",)}
        self.manifests = self.serve_index("multi/git", images)

    def test_it_is_listed_once(self) -> None:
        """An index is one line, with its platforms and all that they take."""
        [shown] = json.loads(self.run_admin("list", "--json"))
        self.assertEqual(
            (shown["images"], shown["digest"], list(shown["platforms"]), shown["skipped"]),
            (["multi/git:latest"], self.manifests[0], ["amd64", "arm64"], {}),
        )
        self.assertEqual(shown["own"], shown["size"])
        said = self.run_admin("list")
        self.assertIn("multi/git:latest (amd64, arm64)", said)
        self.assertIn("1 images", said)

    def test_image_that_is_served_alone_too(self) -> None:
        """An image of an index that is served under a name of its own is listed, too."""
        place = tag_record_key(parse_image_name("arm64/git", SYSTEM), Tag("latest"))
        finish(self.storage.set_record("served", place, b"two"))
        finish(self.storage.add_record("name", place.partition("/")[0], b"arm64/git"))
        listed = json.loads(self.run_admin("list", "--json"))
        self.assertEqual(
            {"arm64/git:latest", "multi/git:latest"}, {each["images"][0] for each in listed}
        )
        [index] = [each for each in listed if "platforms" in each]
        self.assertLess(index["own"], index["size"])
        self.run_admin("purge", "multi/git")
        self.assertEqual({"two"}, self.images())

    def test_its_platforms_are_shown(self) -> None:
        """The properties of an index are those of its images; names are the configured."""
        config = Path(self.mktemp()).absolute()
        config.write_text(f"platforms: [{SYSTEM}, aarch64-linux]")
        for arguments in (
            ["multi/git"],
            ["git", "--config", str(config)],
            [self.manifests[0]],
            # The platforms may be options of the daemon, which this command does not see.
            ["git"],
            ["git:latest"],
        ):
            [shown] = json.loads(self.run_admin("inspect", *arguments))
            self.assertEqual([2, 1], [len(each["layers"]) for each in shown["platforms"].values()])
            self.assertEqual(2, len(shown["manifests"]))
        for name in ("arm64/git", "git:v1"):
            self.assertIn("not stored", self.run_admin("inspect", name, status=1))

    def test_it_is_purged_with_its_images(self) -> None:
        """An index takes along the images that nothing else names."""
        self.serve("htop", "latest", b"9")
        self.serve_index("multi/htop", {"one": (b"1", b"2"), "three": (b"4",)})
        said = self.run_admin("purge", "multi/git")
        self.assertIn("removed 2 images", said)
        self.assertEqual({"htop:latest", "multi-htop", "one", "three"}, self.images())
        self.assert_sound()
        self.assertIn("removed 3 images", self.run_admin("purge", "multi/htop"))
        self.assertEqual({"htop:latest"}, self.images())

    def test_all_of_it_is_signed(self) -> None:
        """The index and the manifests of its platforms are signed under its name."""
        self.assertIn("multi/git:latest: 12 signatures added", self.run_signed("sign"))
        self.assertIn("multi/git:latest: signed before", self.run_signed("sign", "multi/git"))
        [shown] = json.loads(self.run_admin("inspect", "multi/git"))
        for each in (shown, *shown["platforms"].values()):
            self.assertEqual(
                ["reg.example/multi/git:latest"] * 2,
                [signature["reference"] for signature in each["signatures"]],
            )
        self.assertIn("all is well", self.run_signed("verify"))

    def test_damage_is_found(self) -> None:
        """A blob of one platform is missing from the index, and both are made again."""
        os.unlink(self.inventory().path(digest_of(b"3")))
        said = self.run_admin("verify", status=1)
        self.assertIn("dangling: multi/git:latest: the image lacks 1 blobs", said)
        self.run_admin("verify", "--repair", status=1)
        self.assertEqual({"one"}, self.images())
        self.assertIn("all is well", self.run_admin("verify"))


class StoredTests(AdminCase):
    """Commands on what is stored."""

    def test_variables_of_settings_count_and_unknown_ones_are_warned_of(self) -> None:
        """Variables of settings count as for the daemon, and unknown ones are warned of."""
        self.serve("htop", "v1", b"layer")
        variables = {"NIXERY_STORAGE_PATH": str(self.root), "NIXERY_STORAGE_PAHT": "/x"}
        self.patch(os, "environ", {**os.environ, **variables})
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            self.assertRaises(SystemExit) as ended,
        ):
            admin(["list"])
        self.assertEqual(0, ended.exception.code or 0, err.getvalue())
        self.assertIn("htop:v1", out.getvalue())
        self.assertIn("NIXERY_STORAGE_PAHT (environment): there is no such", err.getvalue())
        self.assertIn("did you mean NIXERY_STORAGE_PATH", err.getvalue())

    def test_images_are_listed_by_their_names_with_what_is_theirs_alone(self) -> None:
        """Images are listed by their names, with what is theirs alone."""
        self.serve("shell/git", "latest", b"own" * 1000, b"shared" * 1000)
        self.serve("htop", "v1", b"shared" * 1000)
        text = self.run_admin("list")
        self.assertIn("shell/git:latest", text)
        self.assertIn("2 images", text)
        rows = {row["images"][0]: row for row in json.loads(self.run_admin("list", "--json"))}
        self.assertEqual({"shell/git:latest", "htop:v1"}, rows.keys())
        self.assertEqual(6000, rows["htop:v1"]["shared"])
        self.assertGreaterEqual(rows["shell/git:latest"]["own"], 3000)
        self.assertEqual([], rows["htop:v1"]["missing"])

    def test_image_is_found_by_name_by_tag_in_any_spelling_and_by_digest(self) -> None:
        """An image is found by name, by tag, in any spelling, and by digest."""
        manifests = self.serve("htop/git", "v1", b"1")
        for image in ("htop/git", "git/htop:v1", manifests[0], f"git@{manifests[1]}"):
            (found,) = json.loads(self.run_admin("inspect", image))
            self.assertEqual(list(manifests), [each["digest"] for each in found["manifests"]])
            self.assertEqual([digest_of(b"1")], [each["digest"] for each in found["layers"]])
        self.assertIn("is not stored", self.run_admin("inspect", "git:v1", status=1))

    def test_documents_and_licences_are_shown(self) -> None:
        """The documents about an image are shown, and its licences by store paths."""
        [oci, *_] = self.serve("git", "v1", b"1")
        (found,) = json.loads(self.run_admin("inspect", "git:v1"))
        self.assertEqual(([], None), (found["documents"], found["licenses"]))
        subject = Manifest(media_type=OCI_MANIFEST, digest=Digest(oci), body=b"")
        document = Document(media_type=SPDX, predicate_type="p", data=b"{}")
        attachment = attach_document(subject, document).attachment
        record = encode_attachments(subject.digest, [attachment])
        finish(self.storage.set_record(DOCUMENTS, oci, record))
        report = evolve(
            make_report(made_of(graph_of({"a": 1, "b": 1, "c": 1}, {}))),
            licenses=(ReportedLicense(text="MIT", paths=(0, 2)),),
        )
        finish(self.storage.set_record(REPORTS, oci, encode_report(report)))
        (found,) = json.loads(self.run_admin("inspect", "git:v1"))
        self.assertEqual(
            [{"type": SPDX, "digest": digest_of(b"{}"), "size": 2}], found["documents"]
        )
        self.assertEqual(({"MIT": 2}, 1), (found["licenses"], found["paths_without_license"]))

    def test_limits_come_from_the_command_line(self) -> None:
        """Limits come from the command line; a rehearsal removes nothing."""
        self.serve("git", "latest", b"1" * 1000)
        self.age()
        self.assertIn(
            "would remove 1 images", self.run_admin("gc", "--max-storage-size=0", "--dry-run")
        )
        self.assertIn("removed 0 images", self.run_admin("gc", "--max-bytes=1MiB"))
        done = json.loads(self.run_admin("gc", "--max-age=60", "--json"))
        self.assertEqual((1, 0), (done["images"], done["total"]))
        self.assertIn("0 images", self.run_admin("list"))

    def test_former_name_of_setting_in_file_is_warned_of_beside_results(self) -> None:
        """A former name of a setting in the file is warned of, beside the results."""
        config = Path(self.mktemp())
        config.write_text("max_bytes: 1 GiB")
        self.assertIn(
            f"nixery-admin: warning: max_bytes ({config}): this name is deprecated: use"
            " max_storage_size\n",
            self.run_admin("list", "--config", str(config)),
        )

    def test_purge_removes_the_images_that_are_named(self) -> None:
        """Purge removes the images that are named: one tag, or all tags of a name."""
        for tag in ("v1", "v2", "v3"):
            self.serve("git", tag, tag.encode())
        self.serve("htop", "v1", b"htop")
        self.run_admin("purge", "git:v2")
        self.assertEqual({"git:v1", "git:v3", "htop:v1"}, self.images())
        self.run_admin("purge", "--dry-run", "git")
        self.assertEqual({"git:v1", "git:v3", "htop:v1"}, self.images())
        self.run_admin("purge", "git")
        self.assertEqual({"htop:v1"}, self.images())
        self.assertNotIn(digest_of(b"v1"), self.stored())
        self.assert_sound()
        # No record of a deleted layer is left for the next collection.
        self.assertIn("all is well", self.run_admin("verify"))
        self.run_admin("purge", "git", status=1)

    def test_sound_storage_is_well(self) -> None:
        """A sound storage is well."""
        self.serve("git", "latest", b"1")
        self.assertIn("all is well", self.run_admin("verify"))

    def test_damage_of_each_kind_is_found(self) -> None:
        """Damage of each kind is found, and put out of the way where that is wanted."""
        self.serve("one", "latest", b"damaged", b"fine")
        self.serve("two", "latest", b"short")
        self.serve("three", "latest", b"lost")
        self.serve("four", "latest", b"fine")
        found = self.inventory()
        Path(found.path(digest_of(b"damaged"))).write_bytes(b"DAMAGED")
        os.truncate(found.path(digest_of(b"short")), 2)
        os.unlink(found.path(digest_of(b"lost")))
        finish(self.storage.set_record("image", "garbage", b"{}"))
        finish(self.storage.set_record("served", "a/b", b"nothing"))
        for _ in range(2):  # looking changes nothing
            result = json.loads(self.run_admin("verify", "--json", status=1))
            findings = {(each["kind"], each["what"]) for each in result["findings"]}
            for finding in (
                ("damaged", digest_of(b"damaged")),
                ("damaged", digest_of(b"short")),
                ("incomplete", digest_of(b"lost")),
                ("dangling", "one:latest"),
                ("dangling", "two:latest"),
                ("dangling", "three:latest"),
                ("dangling", f"layer record {digest_of(b'lost')[7:]}"),
                ("damaged", "image record garbage"),
                ("dangling", "served record a/b"),
            ):
                self.assertIn(finding, findings)
            self.assertNotIn(("dangling", "four:latest"), findings)
        self.run_admin("verify", "--repair", status=1)
        self.assertEqual({"four:latest"}, self.images())
        self.assert_sound()
        self.run_admin("verify")  # what is left is well
        aside = [path for path in self.root.glob("damaged/*") if path.suffix != ".json"]
        self.assertEqual({b"DAMAGED", b"sh"}, {path.read_bytes() for path in aside})
        for path in aside:
            self.assertIn('"size": ', os.readlink(f"{path}.json"))
        self.serve("one", "latest", b"damaged", b"fine")
        self.assert_sound()

    def test_directory_without_a_storage_is_none_and_nothing_is_made_in_it(self) -> None:
        """A directory without a storage is none, and nothing is made in it."""
        self.root = Path(self.mktemp())
        self.root.mkdir()
        for command in ("gc", "list", "verify"):
            self.assertIn("there is no storage", self.run_admin(command, status=1))
        self.assertEqual([], list(self.root.iterdir()))

    def test_bucket_takes_care_of_itself_and_the_command_says_so(self) -> None:
        """A bucket takes care of itself, and the command says so."""
        config = Path(self.mktemp())
        config.write_text("{storage_backend: gcs, gcs_bucket: images}")
        out = io.StringIO()
        with contextlib.redirect_stderr(out), self.assertRaises(SystemExit) as ended:
            admin(["gc", "--config", str(config)])
        self.assertEqual(1, ended.exception.code)
        self.assertIn("lifecycle rule", out.getvalue())

    def test_nonsense_is_refused_with_status_2(self) -> None:
        """Nonsense is refused with status 2."""
        for arguments in (["gc", "--max-bytes=x"], ["gc", "--grace=-1"], ["verify", "--jobs=0"]):
            self.run_admin(*arguments, status=2)


class WarmTests(SynchronousTestCase):
    """Having images made ahead."""

    def warm(self, images: Sequence[str], jobs: int = 2) -> Deferred[Sequence[PrewarmResult]]:
        async def ask(path: str, /) -> PullResponse:
            self.asked.append(path)
            answer = self.answers.pop(0)
            if isinstance(answer, FetchFailed):
                raise answer
            return await answer if isinstance(answer, Deferred) else answer

        return Deferred.fromCoroutine(
            prewarm(
                images,
                client=ask,
                clock=self.clock,
                jobs=jobs,
                deadline=100,
                on_result=self.told.append,
            )
        )

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        self.told: list[PrewarmResult] = []
        self.answers: list[PullResponse | FetchFailed | Deferred[PullResponse]] = []

    def test_image_is_asked_for_by_name_and_tag_once(self) -> None:
        """An image is asked for by name and tag, once."""
        self.answers = [PullResponse(status=200, digest="d"), PullResponse(status=200, digest="e")]
        done = self.successResultOf(self.warm(["shell/git", "htop:v1", "shell/git"]))
        self.assertEqual(["/v2/shell/git/manifests/latest", "/v2/htop/manifests/v1"], self.asked)
        self.assertEqual(["d", "e"], [each.digest for each in done])
        self.assertEqual(list(done), self.told)

    def test_daemon_that_is_busy_is_asked_again_when_it_says_so(self) -> None:
        """A daemon that is busy is asked again when it says so."""
        self.answers = [
            PullResponse(status=429, retry_after=10),
            PullResponse(status=503, retry_after=3),
            PullResponse(status=429),
            PullResponse(status=200, digest="d"),
        ]
        done = self.warm(["git"])
        for wait in (10, 3, 5):
            self.clock.advance(wait - 0.5)
            self.assertNoResult(done)
            self.clock.advance(0.5)
        self.assertEqual("d", self.successResultOf(done)[0].digest)

    def test_image_that_fails_is_reported_with_the_daemons_message(self) -> None:
        """An image that fails is reported with the daemon's message; the others go on."""
        self.answers = [
            PullResponse(status=404, message="no such package"),
            FetchFailed(url="http://h", reason="refused"),
            PullResponse(status=507, retry_after=300, message="the disk is full"),
            PullResponse(status=200, digest="d"),
        ]
        done = self.successResultOf(self.warm(["a", "b", "c", "d"], jobs=1))
        self.assertEqual(3, sum(bool(each.error) for each in done))
        self.assertIn("no such package", done[0].error)
        self.assertIn("refused", done[1].error)

    def test_image_that_is_not_ready_in_time_is_given_up(self) -> None:
        """An image that is not ready in time is given up."""
        self.answers = [PullResponse(status=429, retry_after=60)] * 3
        done = self.warm(["git"])
        self.clock.advance(60)
        self.assertIn("not ready", self.successResultOf(done)[0].error)

    def test_few_at_once(self) -> None:
        """No more are asked for at once than is allowed."""
        pending: list[Deferred[PullResponse]] = [Deferred() for _ in range(5)]
        self.answers = list(pending)
        done = self.warm(["a", "b", "c", "d", "e"], jobs=2)
        for number, answer in enumerate(pending):
            self.assertEqual(min(5, number + 2), len(self.asked))
            answer.callback(PullResponse(status=200))
        self.successResultOf(done)

    def test_daemon_of_this_machine_is_found_by_its_endpoints(self) -> None:
        """The daemon of this machine is found by its endpoints."""
        for endpoint, address in (
            ("tcp:8080:interface=127.0.0.1", "http://127.0.0.1:8080"),
            ("tcp:80", "http://127.0.0.1:80"),
            ("tcp:port=81", "http://127.0.0.1:81"),
            ("tcp6:8080:interface=\\:\\:1", "http://[::1]:8080"),
            ("tcp:8080:interface=0.0.0.0", "http://127.0.0.1:8080"),
            ("tcp:0", "https://r.example"),
            ("systemd:domain=INET:index=0", "https://r.example"),
        ):
            self.assertEqual(address, local_url([endpoint], "https://r.example"))
        self.assertIsNone(local_url(["unix:/run/x"], None))
