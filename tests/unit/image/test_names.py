"""
Tests for ``nixery.image.names``.
"""

from __future__ import annotations

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.errors import InvalidDigest, InvalidName, InvalidReference
from nixery.image.names import (
    DEFAULT_PACKAGES,
    MAX_NAME_CHARACTERS,
    SHELL,
    ImageName,
    PackageRequest,
    Tag,
    canonical_repository,
    escape_attribute,
    is_referrers_tag,
    parse_digest,
    parse_image_name,
    parse_reference,
    parse_single_image_name,
)
from tests.support.strategies import attribute_paths, components, repositories, tags

SYSTEM = "x86_64-linux"


def parse(repository: str) -> ImageName:
    return parse_image_name(repository, SYSTEM)


def names_of(repository: str) -> list[str]:
    """Return the packages a name asks for, without those that every image contains."""
    return [item.name for item in parse(repository).package_requests if not item.optional]


class ImageNameTests(SynchronousTestCase):
    """Tests for :func:`parse_image_name`."""

    def test_single_name_asks_for_one_package(self) -> None:
        """A name of one component asks for one package, and for what is always there."""
        name = parse("git")
        self.assertEqual(name.repository, "git")
        self.assertEqual(name.system, SYSTEM)
        self.assertEqual(
            name.package_requests,
            (
                PackageRequest(name="cacert", exact=True, optional=True),
                PackageRequest(name="git"),
                PackageRequest(name="iana-etc", exact=True, optional=True),
            ),
        )

    def test_meta_package_shell_stands_for_its_packages_spelled_exactly(self) -> None:
        """The meta-package ``shell`` stands for its packages, spelled exactly."""
        requests = parse("shell/git").package_requests
        for name in SHELL:
            self.assertIn(PackageRequest(name=name, exact=True), requests)
        self.assertEqual(len(requests), len(SHELL) + len(DEFAULT_PACKAGES) + 1)

    def test_meta_package_arm64_chooses_the_system_and_is_no_package(self) -> None:
        """The meta-package ``arm64`` chooses the system and is no package."""
        self.assertEqual(parse("arm64/git").system, "aarch64-linux")
        self.assertEqual(parse("arm64/git").package_requests, parse("git").package_requests)

    def test_only_meta_packages(self) -> None:
        """A name may consist of meta-packages; any order and number of them is fine."""
        for repository in ("shell/arm64", "arm64/shell", "shell/arm64/shell/arm64"):
            name = parse(repository)
            self.assertEqual(name.system, "aarch64-linux")
            self.assertEqual(names_of(repository), sorted(SHELL))

    def test_meta_package_amd64(self) -> None:
        """The meta-package ``amd64`` chooses the other system; of several, the last one counts."""
        self.assertEqual(parse_image_name("amd64/git", "aarch64-linux").system, SYSTEM)
        self.assertEqual(parse("amd64/git"), parse("git"))
        self.assertEqual(parse("arm64/multi/amd64/git"), parse("git"))
        self.assertEqual(parse("arm64/multi/git"), parse("multi/git"))

    def test_meta_package_multi(self) -> None:
        """The meta-package ``multi`` asks for an index, with the registry's own system in it."""
        name = parse("shell/multi/git")
        self.assertEqual((name.system, name.platforms), (SYSTEM, (SYSTEM, "aarch64-linux")))
        self.assertEqual(name.package_requests, parse("shell/git").package_requests)
        self.assertNotEqual(name, parse("shell/git"))
        self.assertEqual(
            parse_image_name("multi/git", "riscv64-linux").platforms,
            (SYSTEM, "aarch64-linux", "riscv64-linux"),
        )

    def test_platforms_of_the_configuration(self) -> None:
        """A name that chooses no system is an index of the configured platforms, amd64 first."""
        platforms = ("riscv64-linux", "aarch64-linux", SYSTEM)
        name = parse_image_name("git", "aarch64-linux", platforms)
        self.assertEqual(
            (name.system, name.platforms),
            ("aarch64-linux", (SYSTEM, "riscv64-linux", "aarch64-linux")),
        )
        self.assertEqual(parse_image_name("multi/git", "aarch64-linux", platforms), name)
        for chosen in ("amd64/git", "arm64/git"):
            self.assertEqual(parse_image_name(chosen, SYSTEM, platforms), parse(chosen))
        self.assertEqual(names_of("git/multi/amd64"), ["amd64", "git", "multi"])

    def test_one_platform_of_an_index(self) -> None:
        """The name of one platform of an index chooses its system, and the same packages."""
        name = parse("multi/shell/git/arm64")
        for system, repository in (
            (SYSTEM, "amd64/shell/git/arm64"),
            ("aarch64-linux", "arm64/shell/git/arm64"),
        ):
            one = name.for_system(system)
            self.assertEqual(one.repository, repository)
            self.assertEqual(one, parse(repository))
        self.assertEqual(name.for_system("riscv64-linux").repository, "shell/git/arm64")

    def test_later_meta_packages(self) -> None:
        """Behind an ordinary component, meta-packages are ordinary names."""
        name = parse("git/shell/arm64")
        self.assertEqual(name.system, SYSTEM)
        self.assertEqual(names_of("git/shell/arm64"), ["arm64", "git", "shell"])

    def test_dots_join_the_parts_of_an_attribute_path_and_an_output(self) -> None:
        """Dots join the parts of an attribute path, and an output."""
        self.assertEqual(
            names_of("curl.dev/python3packages.setuptools"),
            ["curl.dev", "python3packages.setuptools"],
        )

    def test_always_asked_for(self) -> None:
        """A default package that is asked for is not optional, and is there once."""
        requests = parse("cacert").package_requests
        self.assertEqual(
            requests,
            (
                PackageRequest(name="cacert"),
                PackageRequest(name="iana-etc", exact=True, optional=True),
            ),
        )
        self.assertEqual(
            parse(escape_attribute("cacert")).package_requests[0],
            PackageRequest(name="cacert", exact=True),
        )

    def test_cacert_out_is_a_name_of_its_own_and_displaces_nothing(self) -> None:
        """``cacert.out`` is a name of its own and displaces nothing."""
        self.assertEqual(len(parse("cacert.out").package_requests), 3)

    @settings(max_examples=100)
    @given(
        st.lists(st.one_of(components, st.sampled_from(["cacert", "git"])), max_size=6), st.data()
    )
    def test_order_and_duplicates(self, parts: list[str], data: st.DataObject) -> None:
        """Neither the order of packages matters nor how often they are asked for."""
        parts = [part for part in parts if part not in ("shell", "arm64")]
        repeated = data.draw(st.lists(st.sampled_from(parts))) if parts else []
        other_parts = data.draw(st.permutations([*parts, *repeated]))
        leading = data.draw(st.permutations(["shell", "arm64", "shell"]))
        one = "/".join(["arm64", "shell", *parts])
        other = "/".join([*leading, *other_parts])
        assume(len(one) <= MAX_NAME_CHARACTERS and len(other) <= MAX_NAME_CHARACTERS)
        self.assertEqual(parse(one), parse(other))
        self.assertEqual(hash(parse(one)), hash(parse(other)))

    @settings(max_examples=100)
    @given(repositories)
    def test_requirements_are_sorted_distinct_and_hold_what_every_image_contains(
        self, repository: str
    ) -> None:
        """Requirements are sorted, distinct, and hold what every image contains."""
        assume(len(repository) <= MAX_NAME_CHARACTERS)
        requests = parse(repository).package_requests
        self.assertEqual(list(requests), sorted(requests))
        keys = [(item.name, item.exact) for item in requests]
        self.assertEqual(len(keys), len(set(keys)))
        self.assertTrue({item.name for item in requests}.issuperset(DEFAULT_PACKAGES))
        for item in requests:
            self.assertTrue(item.name)
            if item.optional:
                self.assertIn(item.name, DEFAULT_PACKAGES)

    @settings(max_examples=200)
    @given(st.one_of(st.text(), st.text("abAB09._-/ \n%", max_size=12)))
    @example("")
    @example("/")
    @example("git\n")
    @example("attr--")
    @example("attr--0a")
    @example("attr---67")
    @example("attr--6")
    @example("attr--ff")
    @example("attr--67.69")
    def test_any_text_is_a_name_or_the_one_error(self, repository: str) -> None:
        """Any text is a name or the one error, whose message has no control characters."""
        try:
            name = parse(repository)
        except InvalidName as error:
            self.assertTrue(error.message.isprintable())
        else:
            for item in name.package_requests:
                self.assertTrue(item.name.isprintable())

    def test_component_outside_the_grammar_is_refused_and_named_in_the_error(self) -> None:
        """A component outside the grammar is refused, and named in the error."""
        for component in ("Git", "git_", "git__", ".git", "a..b", "a___b", "gtk+", "-x", "x-", "é"):
            error = self.assertRaises(InvalidName, parse, f"shell/{component}")
            self.assertIn(repr(component), error.message)
        for repository in ("", "/git", "git/", "git//htop"):
            self.assertRaises(InvalidName, parse, repository)

    def test_name_is_as_long_as_registries_agree_on_and_no_longer(self) -> None:
        """A name is as long as registries agree on, and no longer."""
        self.assertEqual(names_of("a" * MAX_NAME_CHARACTERS), ["a" * MAX_NAME_CHARACTERS])
        error = self.assertRaises(InvalidName, parse, "a" * 100_000)
        self.assertLess(len(error.message), 300)

    def test_meta_package_alone_is_no_prefix(self) -> None:
        """Components that begin like a meta-package are ordinary."""
        self.assertEqual(names_of("shell2/shell.out"), ["shell.out", "shell2"])


class SingleImageNameTests(SynchronousTestCase):
    """Names for commands that work on one image."""

    def test_name_of_an_index_is_refused_with_what_to_write(self) -> None:
        """The name of an index is refused, with what to write in its place; others are parsed."""
        error = self.assertRaises(InvalidName, parse_single_image_name, "multi/git", SYSTEM)
        self.assertIn("write amd64 or arm64", error.message)
        self.assertEqual("aarch64-linux", parse_single_image_name("arm64/git", SYSTEM).system)


class CanonicalRepositoryTests(SynchronousTestCase):
    """Tests of the one spelling of names that list the same components."""

    def test_order_and_repetition_do_not_count(self) -> None:
        """Meta-packages come first, then packages, sorted; a package may be called like one."""
        for name, expected in (
            ("git", "git"),
            ("zsh/git/zsh", "git/zsh"),
            ("arm64/shell/shell/htop/git", "arm64/shell/git/htop"),
            ("shell/arm64/multi/amd64/git/multi", "amd64/shell/git/multi"),
            ("shell/arm64", "arm64/shell"),
            ("zsh/shell", "zsh/shell"),
            ("shell/zsh/shell/git", "shell/git/zsh/shell"),
        ):
            self.assertEqual(canonical_repository(name), expected)

    @given(
        names=st.lists(
            st.sampled_from(["shell", "amd64", "arm64", "multi", "git", "zsh", "attr--61"]),
            min_size=1,
        )
    )
    def test_it_means_the_same(self, names: list[str]) -> None:
        """The canonical name requests what the name requests, and is its own canonical name."""
        name = "/".join(names)
        canonical = canonical_repository(name)
        self.assertEqual(
            parse_image_name(canonical, "x86_64-linux"), parse_image_name(name, "x86_64-linux")
        )
        self.assertEqual(canonical_repository(canonical), canonical)


class EscapeTests(SynchronousTestCase):
    """Tests for escaped components."""

    def test_example_in_the_documentation_is_true(self) -> None:
        """The example in the documentation is true."""
        self.assertEqual(escape_attribute("libsigc++"), "attr--6c6962736967632b2b")
        self.assertEqual(names_of("attr--6c6962736967632b2b"), ["libsigc++"])

    @settings(max_examples=150)
    @given(attribute_paths)
    def test_attribute_path_comes_back_exact_behind_any_component(self, path: str) -> None:
        """An attribute path comes back as it was, exact, behind any other component."""
        component = escape_attribute(path)
        assume(len(component) + len("git/") <= MAX_NAME_CHARACTERS)
        for repository in (component, f"git/{component}"):
            self.assertIn(PackageRequest(name=path, exact=True), parse(repository).package_requests)

    def test_not_an_attribute_path(self) -> None:
        """Escapes of what no attribute path can be are refused."""
        for path in ("a..b", ".a", "a.", "a\nb", "a\x1b[31m", "\u202e", "\u2028", "\x00"):
            self.assertRaises(InvalidName, parse, escape_attribute(path))

    def test_name_and_its_escape_are_two_requirements(self) -> None:
        """A name and its escape are two requirements: only one may be corrected."""
        self.assertEqual(
            [
                item
                for item in parse(f"git/{escape_attribute('git')}").package_requests
                if item.name == "git"
            ],
            [PackageRequest(name="git"), PackageRequest(name="git", exact=True)],
        )

    def test_escaped_meta_package(self) -> None:
        """An escape reaches a package that is called like a meta-package."""
        name = parse(f"{escape_attribute('arm64')}/git")
        self.assertEqual(name.system, SYSTEM)
        self.assertIn(PackageRequest(name="arm64", exact=True), name.package_requests)


class ReferenceTests(SynchronousTestCase):
    """Tests for :func:`parse_reference` and :func:`parse_digest`."""

    digest = "sha256:" + "0123456789abcdef" * 4

    def test_digest_is_recognised(self) -> None:
        """A digest is a digest."""
        self.assertEqual(parse_reference(self.digest), self.digest)
        self.assertEqual(parse_digest(self.digest), self.digest)

    @settings(max_examples=60)
    @given(tags)
    def test_any_text_within_the_grammar_is_a_tag(self, tag: str) -> None:
        """Any text within the grammar is a tag."""
        self.assertEqual(parse_reference(tag), tag)

    def test_malformed_digest_is_an_invalid_digest_and_no_tag(self) -> None:
        """A malformed digest is an invalid digest and no tag."""
        for text in (
            self.digest[:-1],
            self.digest + "0",
            self.digest + "\n",
            self.digest.upper(),
            self.digest.replace("sha256", "sha512"),
            "latest:",
            ":",
        ):
            self.assertRaises(InvalidDigest, parse_reference, text)

    def test_malformed_tag_is_an_invalid_reference(self) -> None:
        """A malformed tag is an invalid reference."""
        for text in ("", ".a", "-a", "a b", "a/b", "a" * 129, "latest\n", "é", "\u0661"):
            self.assertRaises(InvalidReference, parse_reference, text)

    @settings(max_examples=100)
    @given(st.text())
    def test_any_text_is_a_reference_or_one_of_the_two_errors(self, text: str) -> None:
        """Any text is a reference or one of the two errors."""
        try:
            self.assertEqual(parse_reference(text), text)
        except (InvalidDigest, InvalidReference) as error:
            self.assertTrue(error.message.isprintable())

    def test_fallback_tags_of_referrers_and_signatures_are_recognised(self) -> None:
        """Fallback tags of referrers and signatures are recognised, others are not."""
        digest = "sha256-" + "0" * 64
        for tag in (digest, f"{digest}.sig", f"{digest}.att", f"{digest}.sbom"):
            self.assertTrue(is_referrers_tag(Tag(tag)))
        for tag in ("latest", digest[:-1], f"{digest}0", "sha256-" + "A" * 64, f"x{digest}"):
            self.assertFalse(is_referrers_tag(Tag(tag)))
