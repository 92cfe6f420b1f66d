"""
Parsers of texts from outside: each takes any bytes, and fails in no other way than the
one that it promises.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path

from attrs import frozen
from zstandard import ZstdCompressor

from nixery.access.errors import LoginFailed, PasswordFileUnusable
from nixery.access.passwords import parse_passwords
from nixery.builds.candidates import find_candidates
from nixery.builds.layer_cache import LayerRecord
from nixery.config.config import Config
from nixery.config.errors import ConfigError
from nixery.config.load import load_config
from nixery.errors import UnexpectedOutput
from nixery.http.credentials import parse_authorization
from nixery.http.error_responses import printable
from nixery.http.ui.package_query import parse_query
from nixery.image.closure import parse_db_dump
from nixery.image.errors import InvalidDigest, InvalidName, InvalidReference, PackageProblem
from nixery.image.manifests import digest_of, parse_manifest
from nixery.image.names import PackageRequest, parse_image_name, parse_reference
from nixery.image.packages import Package
from nixery.inspection.image_list import decode_entry
from nixery.inspection.report_file import decode_report
from nixery.layers.chunked_stream import ANNOTATION_PREFIX
from nixery.layers.contents_table import TablePlaces, find_tables, read_files
from nixery.layers.partial_pull import PullCounter
from nixery.layers.popularity_file import parse_popularity
from nixery.nix.arguments import NixSettings
from nixery.nix.build_errors import build_failure
from nixery.nix.dry_run import parse_dry_run
from nixery.nix.error_parsing import MAX_TEXT_CHARACTERS
from nixery.nix.errors import BuildFailed
from nixery.nix.evaluation_log import EvaluationLog
from nixery.nix.internal_json import BuildLog
from nixery.nix.narinfo import parse_references, parse_store_paths
from nixery.nix.progress import Phase
from nixery.nix.resolve_output import parse_results
from nixery.nix.suggestions import NameIndexes
from nixery.popularity.decompress import decompress
from nixery.process.errors import CommandOutput, ProcessFailed
from nixery.runtime.terminal import plain_text
from nixery.sources.git_arguments import parse_lfs_environment, parse_refs
from nixery.sources.lfs import parse_pointer
from tests.support.nix_events import NixEvents

__all__ = ["TEXTS", "Text"]

SYSTEM = "x86_64-linux"

_TABLE_ANNOTATIONS = ("manifest-checksum", "manifest-position", "tarsplit-position")

_HASH = "0" * 32

_FAILING = f"/nix/store/{_HASH}-failing-1.drv"
_NEEDED_BY = f"/nix/store/{_HASH}-needed-1.drv"
_NIX = NixSettings(state_directory=Path("/state"), home=Path("/home"))


@frozen(kw_only=True)
class Text:
    """
    One parser.

    :param read: takes any bytes; raises what is a fault of ours.
    :param seeds: valid texts, to begin with.
    """

    read: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


class _Listener:
    """Progress that insists on being told what is so."""

    def phase(self, phase: Phase) -> None:
        assert isinstance(phase, Phase)

    def derivation(self, path: str) -> None:
        assert isinstance(path, str)

    def derivation_phase(self, path: str, phase: str) -> None:
        assert isinstance(path, str)
        assert "\x1b" not in phase

    def count(self, phase: Phase, done: int, expected: int, unit: str) -> None:
        assert isinstance(done, int)
        assert isinstance(expected, int)

    def derivation_ended(self, path: str, succeeded: bool) -> None:
        assert isinstance(path, str)
        assert isinstance(succeeded, bool)

    def log(self, line: str, derivation: str) -> None:
        assert isinstance(derivation, str)
        assert "\n" not in line


def _config(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "nixery.yaml")
        file.write_bytes(data)
        with suppress(ConfigError):
            try:
                config = load_config({"config": str(file)}, {})
            except ConfigError as error:
                assert error.message
                raise
            assert isinstance(config, Config)


def _answers(data: bytes) -> None:
    requests = [PackageRequest(name="git"), PackageRequest(name="curl.dev")]
    with suppress(UnexpectedOutput):
        for answer in parse_results(data, requests, NameIndexes()):
            package = answer.result
            if isinstance(package, PackageProblem):
                [problem] = find_candidates([package], lambda: 0.0)
                assert all(parse_image_name(name, SYSTEM) for name in problem.candidates)
            if isinstance(package, Package):
                texts = [package.attribute, package.name, package.pname, package.version]
                texts += [package.derivation, *(item.path for item in package.outputs)]
                assert all(isinstance(text, str) for text in texts), texts
                assert isinstance(package.priority, int)


def _build_log(data: bytes) -> None:
    log = BuildLog(progress=_Listener())
    for line in data.split(b"\n"):
        log.feed(line)
    assert isinstance(log.text(), str)
    for derivation in log.unfinished():
        log.tail(derivation)


def _build_failure(data: bytes) -> None:
    """A builder that prints anything, also as events of Nix, has failed and nothing else."""
    lines = [line.decode("utf-8", "replace") for line in data.split(b"\n")]
    for daemon, forge, needed_by in product((False, True), (False, True), ("", _NEEDED_BY)):
        log = BuildLog(progress=_Listener())
        nix = NixEvents(log.feed, daemon=daemon)
        nix.builder_fails(_FAILING, lines, forge=forge, needed_by=needed_by)
        output = CommandOutput(argv=("nix-build",), status=1 if daemon else 100)
        error = build_failure(ProcessFailed(output=output), log, _NIX)
        assert type(error) is BuildFailed, error
        assert error.derivation == _FAILING, error.derivation
        assert error.reason == "builder failed with exit code 1", error.reason


def _evaluation_error(data: bytes) -> None:
    """A package's thrown or traced text is told as its words, and is never a fault of Nix."""
    text = data.decode("utf-8", "replace")
    log = EvaluationLog(source=Path("/set"))
    for event in (
        {"action": "msg", "level": 0, "msg": f"trace: {text}"},
        {"action": "msg", "level": 0, "msg": f"error: {text}", "raw_msg": text, "file": None},
        {"action": "msg", "level": 0, "msg": "(use '--show-trace' to show more)"},
    ):
        log.feed(b"@nix " + json.dumps(event).encode())
    reason = log.reason(_NIX)
    said = [line.strip() for line in plain_text(text).splitlines() if line.strip()]
    assert reason == ("\n".join(said)[:MAX_TEXT_CHARACTERS] or "Nix did not say why"), reason


def _dump(data: bytes) -> None:
    with suppress(UnexpectedOutput):
        graph = parse_db_dump(data)
        assert graph.nar_size >= 0
        graph.closure_sizes()


def _name(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with suppress(InvalidName):
        name = parse_image_name(text, SYSTEM)
        assert all(item.name.isprintable() and item.name for item in name.package_requests)
        assert "\n" not in name.repository
        assert ".." not in name.repository


def _reference(data: bytes) -> None:
    with suppress(InvalidDigest, InvalidReference):
        text = parse_reference(data.decode("utf-8", "replace"))
        assert text.isascii()
        assert text.isprintable()
        assert "/" not in text


def _passwords(data: bytes) -> None:
    with suppress(PasswordFileUnusable):
        passwords = parse_passwords(data, "the file")
        for user in passwords.hashes:
            assert passwords.fingerprint(user)
            # Those that are cheap to check are checked.
            if passwords.hashes[user][4:6] == b"04":
                passwords.verify(user, b"secret")


def _expanded(data: bytes) -> None:
    with suppress(UnexpectedOutput):
        assert len(decompress(data, 10_000)) <= 10_000


def _popularity(data: bytes) -> None:
    with suppress(UnexpectedOutput):
        parse_popularity(data)


def _refs(data: bytes) -> None:
    with suppress(ValueError):
        parse_refs(data).find(["HEAD", "refs/heads/main"])
    with suppress(ValueError):
        assert parse_lfs_environment(data).media.is_absolute()
    pointer = parse_pointer(data)
    assert pointer is None or len(pointer.oid) == 64


def _dry_run(data: bytes) -> None:
    with suppress(UnexpectedOutput):
        found = parse_dry_run(data.decode("utf-8", "replace").split("\n"))
        assert min(found.download_size, found.unpacked_size) >= 0


def _narinfo(data: bytes) -> None:
    with suppress(UnexpectedOutput):
        parse_store_paths(data)
    with suppress(UnexpectedOutput):
        assert not {"", ".", ".."} & {*parse_references(f"{_HASH}-git", data)}


def _records(data: bytes) -> None:
    for decode in (decode_report, decode_entry, LayerRecord.decode):
        with suppress(ValueError):
            decode(data)
    with suppress(UnexpectedOutput):
        parse_manifest(data)


def _contents_tables(data: bytes) -> None:
    for table in (data, ZstdCompressor().compress(data)):
        places = TablePlaces(
            start=1, stop=2, uncompressed_size=len(data), digest=digest_of(table), size=0
        )
        with suppress(ValueError):
            PullCounter().pull(read_files(table, places), places.size)
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        find_tables({f"{ANNOTATION_PREFIX}{name}": text for name in _TABLE_ANNOTATIONS}, 1_000_000)


def _authorization(data: bytes) -> None:
    with suppress(LoginFailed):
        parse_authorization(data)


def _wishes(data: bytes) -> None:
    with suppress(InvalidName):
        parse_query(data.decode("utf-8", "replace"), SYSTEM)


def _printable(data: bytes) -> None:
    text = printable(data.decode("utf-8", "surrogateescape"))
    assert all(each in "\n\t" or each.isprintable() for each in text)


_EVENT = b'@nix {"action":"%s","id":1,"type":%d,"level":3,"text":"","fields":[%s]}\n'

_PACKAGE = (
    b'{"path":["git"],"name":"git-1","pname":"git","version":"1","description":"d",'
    b'"priority":5,"derivation":"/nix/store/x.drv","outputs":[{"name":"out","path":"/nix/store/x"}],'
    b'"otherOutputs":[],"licenses":[{"spdx":"MIT","name":""}],"cpe":""}'
)

TEXTS: Mapping[str, Text] = {
    "answers": Text(
        read=_answers,
        seeds=(
            b'{"levels":{},"answers":[' + _PACKAGE + b"," + _PACKAGE + b"]}",
            (
                b'{"levels":{"[]":["git","curl"]},"answers":['
                b'{"error":"not-found","level":[],"name":"git"},'
                b'{"error":"ambiguous","candidates":[["git"],["Git"]]}]}'
            ),
            b"[" * 100_000,
            *(
                b'{"levels":{},"answers":[' + spoilt + b"," + spoilt + b"]}"
                for spoilt in (
                    _PACKAGE.replace(b'"git-1"', b"5"),
                    _PACKAGE.replace(b'"pname":"git"', b'"pname":{}'),
                    _PACKAGE.replace(b"5,", b'"5",'),
                    _PACKAGE.replace(b'"/nix/store/x"', b"[]"),
                )
            ),
        ),
    ),
    "authorization": Text(
        read=_authorization, seeds=(b"Basic YTpi", b"Bearer a.b.c", b"Basic \xff", b"bearer")
    ),
    "build-log": Text(
        read=_build_log,
        seeds=(
            _EVENT % (b"start", 105, b'"/nix/store/x.drv","",1,1')
            + _EVENT % (b"result", 101, b'"line"')
            + _EVENT % (b"stop", 0, b""),
            _EVENT % (b"start", 101, b'"https://x"') + _EVENT % (b"result", 105, b"1,2,0,0"),
            _EVENT % (b"result", 105, b"1e999,2,0,0"),
            _EVENT % (b"result", 106, b"101,Infinity"),
            b'@nix {"action":"msg","level":0,"msg":"error: \\u001b[31mno"}\n',
            b'@nix {"action":"stop","id":' + b"[" * 100_000,
            (
                b'@nix {"action":"start","id":"x","type":105,"fields":[[1]]}\n'
                b'@nix {"action":"result","id":"x","type":101,"fields":["a\\nb"]}\n'
            ),
        ),
    ),
    "build-failure": Text(
        read=_build_failure,
        seeds=(
            b"FAIL: test_login timed out after 30 seconds",
            b"error: failed to obtain derivation of the function",
            b"error: building of '" + _FAILING.encode() + b"!out' timed out after 3600 seconds",
            b"       last 2 log lines:\n> error: writing to file: No space left on device",
            b"error: cannot connect to socket at '/nix': Connection refused",
            b'@nix {"action":"msg","level":0,"msg":"error: cannot build missing derivation"}',
        ),
    ),
    "evaluation-error": Text(
        read=_evaluation_error,
        seeds=(
            b"first line\nerror: second line",
            b"error: out of memory",
            b"No space left on device",
            b"syntax error, unexpected '}'",
            b"This version of Nixpkgs requires Nix >= 2.3",
            b'@nix {"action":"msg","level":0,"msg":"error: out of memory"}',
        ),
    ),
    "config": Text(
        read=_config,
        seeds=(
            b"channel: nixos-unstable\nport: 8080\nrevisions: [a, 'b*']\n",
            b"listen: [tcp:8080]\nshow_builds: no\nlayers: 12\n",
            b"auth_rules: {anonymous: [hello], '*': ['git*']}\n",
            b"port: 2001-99-99\n",
            b"port: !!int x\n",
            b"port: !!timestamp x\n",
            b"port: !!bool x\n",
            b"port: !!float x\n",
            b"port: !!binary x\n",
            b"port: 0b\n",
            b"port: 1" + b"0" * 5000 + b"\n",
            b"port: .inf\n",
            b"? [a]\n: 1\n",
            b"&a channel: *a\n",
            b"channel: &a [*a]\n",
            b"channel: &a {<<: *a}\n",
            b"a: &a [x,x]\nb: &b [*a,*a]\nchannel: [*b,*b]\n",
            b"---\n---\n",
            b"\xff",
            b"channel: \x00",
            b"[" * 400,
            b'nix_config: {a: "b\\nc"}\n',
        ),
    ),
    "dump": Text(
        read=_dump,
        seeds=(
            f"/nix/store/{_HASH}-git\n{'0' * 64}\n120\n\n1\n/nix/store/{_HASH}-git\n".encode(),
            f"/nix/store/{_HASH}-git\n{'0' * 64}\n120\n\n99999999999999999999\n".encode(),
        ),
    ),
    "dry_run": Text(
        read=_dry_run,
        seeds=(
            f"this derivation will be built:\n  /nix/store/{_HASH}-git.drv\n".encode(),
            b"these 2 paths will be fetched (293.8 KiB download, 5.1 MiB unpacked):\n",
            b"don't know how to build these paths:\n  /nix/store/x\n",
            b"warning: unable to download 'http://a/b': no\n",
        ),
    ),
    "expansion": Text(
        read=_expanded,
        seeds=(b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\xfd7zXZ\0\0\4", b"(\xb5/\xfd", b"{}"),
    ),
    "name": Text(
        read=_name,
        seeds=(b"shell/git/htop", b"arm64/curl.dev", b"attr--676974", b"a/../b", b"attr--0a"),
    ),
    "narinfo": Text(
        read=_narinfo,
        seeds=(
            f"StorePath: /nix/store/{_HASH}-git\nReferences: {_HASH}-a\n".encode(),
            f"/nix/store/{_HASH}-git\n".encode(),
        ),
    ),
    "passwords": Text(
        read=_passwords,
        seeds=(
            b"a:$2y$04$" + b"a" * 53 + b"\n",
            b"a:$2b$04$" + b"." * 53 + b"\n",
            b"# x\n\nb:$2y$05$abcdefghijklmnopqrstuuJ3Uop9aQnyGoCQsW0pyAp2O8lTMhUZe\r\n",
        ),
    ),
    "popularity": Text(
        read=_popularity,
        seeds=(
            b'{"git":5}',
            (
                b'{"format":"nixery-popularity","version":2,"setsize":9,"source":"",'
                b'"transitive":{"git":5},"direct":{"git":1}}'
            ),
            b'{"format":{},"version":[]}',
            b"[" * 100_000,
        ),
    ),
    "printable": Text(
        read=_printable, seeds=(b"\x1b[31m\r\n", "\u202e\u2028".encode(), b"\xff\x85")
    ),
    "records": Text(
        read=_records,
        seeds=(
            b'{"digest":"sha256:%s","size":1,"diff_id":"sha256:%s","uncompressed_size":1}'
            % (b"0" * 64, b"0" * 64),
            b'{"size":Infinity,"digest":"sha256:%s","diff_id":"sha256:%s"}'
            % (b"0" * 64, b"0" * 64),
            b'{"repository":"git","tag":"latest","system":"x","digest":"sha256:%s","size":1e999,'
            b'"layers":[],"served":1}' % (b"0" * 64),
            b'{"config":{},"layers":[]}',
            b"[" * 100_000,
        ),
    ),
    "contents tables": Text(
        read=_contents_tables,
        seeds=(
            b"1:100:200:1",
            b'{"version":1,"entries":[{"type":"reg","name":"a","digest":"sha256:%s","size":3,'
            b'"offset":10,"endOffset":30,"chunkSize":2,"chunkDigest":"sha256:%s"},'
            b'{"type":"chunk","name":"a","offset":20,"chunkOffset":2,"chunkSize":1,'
            b'"chunkDigest":"sha256:%s"},{"type":"dir","name":"b/"}],"tarSplitDigest":""}'
            % (b"0" * 64, b"1" * 64, b"2" * 64),
            b'{"version":1,"entries":[' + b"[" * 100_000,
        ),
    ),
    "reference": Text(
        read=_reference, seeds=(b"latest", b"sha256:" + b"0" * 64, b"SHA256:" + b"F" * 64, b"\n")
    ),
    "refs": Text(
        read=_refs,
        seeds=(b"ref: refs/heads/main\tHEAD\n" + b"0" * 40 + b"\trefs/tags/a^{}\n",),
    ),
    "wishes": Text(
        read=_wishes, seeds=(b"shell git htop", b"libsigc++ python3Packages.requests", b"/..\n")
    ),
}
"""All of them, by their names."""
