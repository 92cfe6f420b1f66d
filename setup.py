"""
Lists what is installed.

A plain ``pip install .`` brings the plugin of twistd, the expressions for Nix, the
files of the web pages and the documentation.  An editable install does not: it hides the
plugin from Twisted, which looks through directories and knows nothing of import hooks.
"""

import runpy
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithDocumentation(build_py):
    """Builds the documentation as well, into ``nixery/_docs``."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        if not (find_spec("sphinx") and find_spec("myst_parser")):
            self.warn("without documentation: Sphinx and MyST-Parser are not installed")
            return
        target = Path(self.build_lib, "nixery", "_docs").absolute()
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "sphinx", "-q", "-b", "dirhtml", "-d", scratch]
            subprocess.run([*command, "web/docs", str(target)], check=True)
        # What is for other builds, and for other projects.
        for leftover in (".buildinfo", "objects.inv"):
            (target / leftover).unlink(missing_ok=True)


setup(
    name="nixery",
    version=runpy.run_path("nixery/version.py")["VERSION"],
    description="A container registry that builds images on demand, with Nix",
    long_description=Path("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # Listed, not found: the folders nix and web would not be, and tests would.
    packages=[
        "nixery",
        "nixery.access",
        "nixery.artifacts",
        "nixery.builds",
        "nixery.cli",
        "nixery.cli.admin",
        "nixery.config",
        "nixery.config.declarations",
        "nixery.http",
        "nixery.http.registry",
        "nixery.http.ui",
        "nixery.image",
        "nixery.inspection",
        "nixery.layers",
        "nixery.limits",
        "nixery.nix",
        "nixery.observability",
        "nixery.popularity",
        "nixery.process",
        "nixery.pulls",
        "nixery.runtime",
        "nixery.runtime.systemd",
        "nixery.runtime.tls",
        "nixery.sources",
        "nixery.storage",
        "nixery.storage.filesystem",
        "nixery.storage.gcs",
        "nixery.testing",
        "nixery.wiring",
        "nixery._nix",
        "nixery._web",
        "twisted.plugins",
    ],
    # nixery.http is a package of its own, so the folders have other names once installed.
    package_dir={"nixery._nix": "nix", "nixery._web": "web"},
    package_data={"nixery": ["py.typed"], "nixery._nix": ["**/*"], "nixery._web": ["**/*"]},
    exclude_package_data={
        # The demo package set is made from a checkout.
        "nixery._nix": ["demo/*"],
        # The documentation is installed as it was built, not as it was written.
        "nixery._web": ["docs/*"],
    },
    cmdclass={"build_py": BuildWithDocumentation},
    include_package_data=False,
    install_requires=[
        "Jinja2>=3.1",
        "PyJWT[crypto]>=2.8",
        "pyOpenSSL>=25.1",
        "Twisted[tls]>=24.7",
        "attrs>=23.1",
        "bcrypt>=4.0",
        "cachetools>=5.3",
        "cryptography>=44.0",
        "fastcrc>=0.3.2",
        # Brings google-auth, google-crc32c and requests, which are used as well.
        "google-cloud-storage>=3.1",
        "isal>=1.6",
        "klein>=24.8",
        "networkx>=3.1",
        # Has the SPDX licence list since this version.
        "packaging>=24.2",
        "PyYAML>=6.0",
        "prometheus-client>=0.22",
        "rapidfuzz>=3.0",
        "tqdm>=4.64",
        "treq>=24.9",
        "zstandard>=0.22",
    ],
    entry_points={
        "console_scripts": [
            "nixery-admin = nixery.cli.admin.command:admin",
            "nixery-layers = nixery.cli.layers:layers",
            "nixery-popcount = nixery.cli.popcount:popcount",
            "nixery-prepare-image = nixery.cli.prepare_image:prepare_image",
        ],
    },
    zip_safe=False,
    classifiers=[
        "Framework :: Twisted",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Software Distribution",
        "Typing :: Typed",
    ],
)
