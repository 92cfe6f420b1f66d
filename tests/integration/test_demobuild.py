"""
The build of a unit of the demo set: Debian packages as they may be, made here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.integration.demokit import SetTestCase, build, checked, demo_set, run
from tests.integration.nixenv import nix_environment

POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    update-alternatives --install /usr/bin/tool tool /usr/bin/tool.real 10 \\
        --slave /usr/bin/tl tl /usr/bin/tool.real \\
        --slave /usr/share/man/man1/tool.1.gz tool.1.gz /usr/share/man/man1/tool.real.1.gz
    update-alternatives --install /usr/bin/$name name /usr/bin/tool.real 10
    update-alternatives --install /usr/bin/absent absent /usr/bin/of-nobody 10
    update-alternatives --install /usr/bin/kept kept /usr/bin/tool.real 10
fi
touch POSTINST_WAS_RUN
"""


class UnitTests(SetTestCase):
    """A Debian package takes the place of the one that ``hello`` is made of."""

    def setUp(self) -> None:
        super().setUp()
        if shutil.which("dpkg-deb") is None:
            raise SkipTest("dpkg-deb is not installed: this is no Debian machine")

    def make(
        self, files: Mapping[str, str], links: Mapping[str, str] | None = None, postinst: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """
        Build the unit of a package.

        :param files: programs of the package, by their paths.
        :param links: targets of its symbolic links, by their paths.
        """
        tree = self.directory / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            "Package: tool\nVersion: 1\nArchitecture: amd64\n"
            "Maintainer: nobody <nobody@example.org>\nDescription: a tool\n"
        )
        if postinst:
            script = tree / "DEBIAN/postinst"
            script.write_text(postinst.replace("POSTINST_WAS_RUN", f"{self.directory}/run"))
            script.chmod(0o755)
        for path, text in files.items():
            file = tree / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
        for path, target in (links or {}).items():
            link = tree / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        deb = self.directory / "tool_1_amd64.deb"
        checked("dpkg-deb", "--root-owner-group", "--build", tree, deb, environ=nix_environment())
        copy = self.directory / "set"
        shutil.copytree(demo_set(), copy)
        lock = json.loads((copy / "lock.json").read_text())
        unit = lock["systems"]["x86_64-linux"]["hello"]
        unit["debs"] = [
            {
                "name": "tool",
                "version": "1",
                "url": deb.as_uri(),
                "size": deb.stat().st_size,
                "sha256": hashlib.sha256(deb.read_bytes()).hexdigest(),
            }
        ]
        (copy / "lock.json").write_text(json.dumps(lock))
        # What it refers to is in the store, or is made.
        build("dash")
        return run(
            ["nix-build", "--no-out-link", copy, "--attr", "hello"], environ=nix_environment()
        )

    def built(
        self, files: Mapping[str, str], links: Mapping[str, str] | None = None, postinst: str = ""
    ) -> Path:
        """The store path of a unit that must build."""
        done = self.make(files, links, postinst)
        self.assertEqual(done.returncode, 0, done.stderr)
        return Path(done.stdout.strip())

    def test_alternatives_are_links(self) -> None:
        """Names that Debian makes at the installation are links, and nothing is run for them."""
        out = self.built(
            {
                "usr/bin/tool.real": "#!/bin/sh\necho real\n",
                "usr/sbin/kept": "#!/bin/sh\necho kept\n",
            },
            {"etc/tool": "/usr/bin/tool"},
            POSTINST,
        )
        self.assertEqual(
            sorted(path.name for path in (out / "bin").iterdir()),
            ["kept", "tl", "tool", "tool.real"],
        )
        for path, printed in (("bin/tool", "real"), ("bin/tl", "real"), ("bin/kept", "kept")):
            self.assertEqual(checked(out / path), f"{printed}\n")
        # A link to such a name leads somewhere.
        self.assertEqual((out / "etc/tool").resolve(), out / "bin/tool.real")
        self.assertFalse((self.directory / "run").exists())

    def test_script_finds_what_it_starts_in_its_package_by_path_that_is_debians(self) -> None:
        """A script finds what it starts in its package, by a path that is Debian's."""
        out = self.built(
            {
                "usr/bin/tool": (
                    "#!/bin/sh\nif [ -d /usr/share/tool ]; then exit 9; fi\n"
                    'PATH=/usr/bin:/usr/lib/tool/run+x:/usr/lib/tool/run+x; echo "$PATH"\n'
                    'exec /usr/lib/tool/run+x "$@"\n'
                ),
                "usr/lib/tool/run+x": '#!/bin/sh\necho "$1"\n',
                "usr/lib/tool/run": "#!/bin/sh\n",
            }
        )
        place = f"{out}/lib/tool/run+x"
        self.assertEqual(checked(out / "bin/tool", "42"), f"/usr/bin:{place}:{place}\n42\n")

    def test_interpreters_of_others(self) -> None:
        """An interpreter that the unit does not need is the image's own, in /bin."""
        out = self.built(
            {
                "usr/bin/tool": "#!/usr/bin/perl -w\n",
                "usr/bin/asked": "#!/usr/bin/env perl\n",
            }
        )
        self.assertEqual((out / "bin/tool").read_text(), "#!/bin/perl -w\n")
        self.assertEqual((out / "bin/asked").read_text(), "#!/usr/bin/env perl\n")

    def test_program_of_another_package(self) -> None:
        """A program that is a link to a package that is not there fails the build by name."""
        done = self.make({}, {"usr/bin/tool": "../lib/other/tool", "usr/share/x": "/etc/x"})
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("hello: links that lead nowhere", done.stderr)
        self.assertIn("bin/tool, a link to /lib/other/tool", done.stderr)
        self.assertNotIn("share/x, a link", done.stderr.partition("lead nowhere")[2])

    def test_link_that_is_no_program_and_leads_to_another_package_is_left_out(self) -> None:
        """A link that is no program and leads to another package is left out."""
        out = self.built({"usr/bin/tool": "#!/bin/sh\n"}, {"usr/share/x": "/etc/x"})
        self.assertFalse((out / "share").exists() and list((out / "share").iterdir()))
