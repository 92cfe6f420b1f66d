"""Tests for :mod:`nixery.http.ui.package_query`."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.http.ui.package_query import (
    MAX_QUERY_CHARACTERS,
    PackageQueries,
    describe_results,
    names_in,
    parse_query,
    program_of,
)
from nixery.image.errors import InvalidName, PackageProblem, ProblemKind
from nixery.image.names import SHELL, PackageRequest, parse_image_name
from nixery.image.packages import LookupResult, Output, Package

SYSTEM = "x86_64-linux"


def found(request: PackageRequest) -> LookupResult:
    name = request.name
    return LookupResult(
        request=request,
        result=Package(
            requested=(name,),
            attribute=name,
            name=f"{name}-1",
            pname=name,
            version="1",
            description="<b>",
            priority=5,
            derivation=f"/nix/store/{name}.drv",
            outputs=(Output(name="out", path=f"/nix/store/{name}"),),
        ),
    )


def missing(request: PackageRequest, candidates: tuple[str, ...] = ("near",)) -> LookupResult:
    problem = PackageProblem(
        name=request.name,
        kind=ProblemKind.NOT_FOUND,
        message=f"there is no package {request.name}",
        candidates=candidates,
    )
    return LookupResult(request=request, result=problem)


def parsed(text: str) -> PackageQueries:
    queries = parse_query(text, SYSTEM)
    assert queries is not None
    return queries


class ParsingTests(SynchronousTestCase):
    """Tests of the parsing of typed queries."""

    def test_spaces_commas_and_slashes_part_names(self) -> None:
        """Spaces, commas and slashes part names; each counts once."""
        for text in ("shell git htop", "shell/git/htop", " shell, git;htop git\n"):
            self.assertEqual("shell/git/htop", parsed(text).name.repository)

    def test_names_are_typed_as_the_package_set_spells_them_or_as_it_does_not(self) -> None:
        """Names are typed as the package set spells them, or as it does not."""
        queries = parsed("python3Packages.requests libsigc++")
        self.assertEqual(
            "python3packages.requests/attr--6c6962736967632b2b", queries.name.repository
        )
        self.assertEqual(
            PackageRequest(name="libsigc++", exact=True), queries.queries[1].package_request
        )

    def test_commands_that_were_pasted_are_understood(self) -> None:
        """The names in commands of engines and of Nix are understood."""
        digest = "sha256:" + "0" * 64
        for command, names in (
            ("docker pull registry.example:8080/shell/git:latest", "shell/git"),
            ("$ docker run --rm -it localhost/shell/git bash", "shell/git"),
            (f"sudo podman pull registry.example/git/htop@{digest}", "git/htop"),
            ("docker run -v /srv:/data -v data:/data -w /data registry.example/git", "git"),
            ("podman run --rm docker.io/shell/git bash/x", "shell/git"),
            ("docker run -it 127.0.0.1:8080/shell/git:v1 cat a/b", "shell/git"),
            ("docker pull shell/git", "shell/git"),
            ("skopeo copy docker://registry.example/hello:x oci:y", "hello"),
            ("nix-shell -p git htop --run zsh", "git htop"),
            ("nix run nixpkgs#git", "git"),
            ("nix shell nixpkgs#git nixpkgs#lib.x", "git lib.x"),
            ("docker", "docker"),
            ("docker compose", "docker compose"),
            ("nix", "nix"),
            ("git htop", "git htop"),
        ):
            self.assertEqual(names, names_in(command), command)

    def test_meta_packages_lead_the_name(self) -> None:
        """They lead the name, wherever they were typed."""
        queries = parsed("git shell arm64")
        self.assertEqual("shell/arm64/git", queries.name.repository)
        self.assertEqual("aarch64-linux", queries.name.system)

    def test_names_that_were_moved_to_the_beginning_are_told(self) -> None:
        """Names that were moved to the beginning are told; those that stood there are not."""
        for text, notice in (
            ("shell arm64 git", None),
            ("git", None),
            ("git shell", "shell comes first in the name of the image."),
            ("arm64 git shell", "shell comes first in the name of the image."),
            ("git shell htop arm64", "shell and arm64 come first in the name of the image."),
        ):
            self.assertEqual(notice, parsed(text).notice, text)

    def test_nothing_is_no_mistake(self) -> None:
        """Nothing is no mistake."""
        for text in ("", "  ", " / , "):
            self.assertIsNone(parse_query(text, SYSTEM))

    def test_text_that_is_too_long_is_refused(self) -> None:
        """Text that is too long, too many names or no name is refused, with a reason."""
        for text in (
            "x" * (MAX_QUERY_CHARACTERS + 1),
            " ".join(f"p{number}" for number in range(31)),
            " ".join("x" * 60 + str(number) for number in range(8)),
            "a..b",
            "a\x1bb",
            "\u202e",
        ):
            self.assertRaises(InvalidName, parse_query, text, SYSTEM)

    @settings(max_examples=200)
    @given(st.text(max_size=60))
    def test_any_text_becomes_an_image_name_within_the_grammar_or_is_refused(
        self, text: str
    ) -> None:
        """Any text becomes an image name within the grammar, or is refused."""
        try:
            queries = parse_query(text, SYSTEM)
        except InvalidName:
            return
        if queries is None:
            return
        again = parse_image_name(queries.name.repository, SYSTEM)
        self.assertEqual(queries.name, again)
        answers = [found(item) for item in queries.package_requests]
        self.assertEqual(len(queries.queries), len(describe_results(queries, answers)))


class TellingTests(SynchronousTestCase):
    """Tests of the results and commands that are shown."""

    def test_package_that_is_there_with_what_is_known_of_it(self) -> None:
        """A package that is there, with what is known of it."""
        queries = parsed("git")
        [told] = describe_results(queries, [found(item) for item in queries.package_requests])
        self.assertEqual(
            {
                "name": "git",
                "component": "git",
                "status": "found",
                "attribute": "git",
                "pname": "git",
                "version": "1",
                "description": "<b>",
                "outputs": ["out"],
            },
            told,
        )

    def test_missing_package_is_told_with_what_may_be_meant(self) -> None:
        """One that is not, with what may have been meant, and no commands then."""
        queries = parsed("shell gti")
        answers = [
            missing(item) if item.name == "gti" else found(item)
            for item in queries.package_requests
        ]
        shell, gti = describe_results(queries, answers)
        self.assertEqual("meta", shell["status"])
        self.assertEqual(("not-found", ["near"]), (gti["status"], gti["candidates"]))
        self.assertIsNone(program_of(queries, answers))

    def test_shell_without_its_packages(self) -> None:
        """A package set may have no shell."""
        queries = parsed("shell")
        answers = [
            missing(item) if item.name == SHELL[0] else found(item)
            for item in queries.package_requests
        ]
        [told] = describe_results(queries, answers)
        self.assertEqual(("shell", "not-found"), (told["name"], told["status"]))

    def test_program_to_run(self) -> None:
        """It is a shell where one is asked for, or else the name of the first package."""
        for typed, program in (("git shell", "bash"), ("amd64 hello", "pname-of-hello")):
            queries = parsed(typed)
            answers = []
            for item in queries.package_requests:
                package = found(item).result
                assert isinstance(package, Package)
                named = evolve(package, pname=f"pname-of-{item.name}")
                answers.append(LookupResult(request=item, result=named))
            self.assertEqual(program, program_of(queries, answers))
