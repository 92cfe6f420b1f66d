"""
Package sets that are generated: one of a large closure, and one of many tiny packages.

Their builders are a line of shell each, run by ``/bin/sh`` of this machine.  All
packages of a set are built by one command before anything is measured: what is measured
is the daemon, and not Nix.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.end_to_end.daemon import single_user_nix
from tests.end_to_end.processes import private_directory, run

__all__ = ["LARGE", "large_set", "tiny_set"]

LARGE = "large"
"""The package of :func:`large_set`."""

_LARGE_SET = """\
{{ system ? builtins.currentSystem, ... }}:
let
  make = name: script: derivation {{
    inherit name system;
    builder = "/bin/sh";
    args = [ "-c" "PATH=/usr/bin:/bin; ${{script}}" ];
  }};
  # Half of each large path is noise, half is text; the seed makes it the same always.
  part = number: make "part-${{toString number}}" ''
    mkdir -p $out/share
    openssl enc -aes-128-ctr -nosalt -pass pass:${{toString number}} -pbkdf2 -in /dev/zero \\
      2>/dev/null | head -c {half} > $out/share/noise
    seq -f 'line %.0f of ${{toString number}}' 1 100000000 | head -c {half} > $out/share/text
  '';
  small = number: make "small-${{toString number}}" ''
    mkdir -p $out/share
    for file in $(seq 1 200); do
      head -c 20000 /dev/zero | tr '\\0' $((file % 10)) > $out/share/$file
    done
  '';
  parts = builtins.genList part {parts} ++ builtins.genList small 10;
in
{{
  {name} = make "{name}-{parts}x{half}" "mkdir $out; echo ${{toString parts}} > $out/parts";
}}
"""

_TINY_SET = """\
{{ system ? builtins.currentSystem, ... }}:
builtins.listToAttrs (builtins.genList (number: rec {{
  name = "tiny${{toString number}}";
  value = derivation {{
    inherit name system;
    builder = "/bin/sh";
    args = [ "-c" "PATH=/usr/bin:/bin; mkdir -p $out/bin; echo ${{name}} > $out/bin/${{name}}" ];
  }};
}}) {count})
"""


def large_set(size: int) -> Path:
    """
    A package set whose package ``large`` has a closure of about this size.

    :param size: in bytes, of files; most of them in large ones, half of them noise.
    """
    parts = 8
    return _made(
        "large", _LARGE_SET.format(name=LARGE, parts=parts, half=size // parts // 2), [LARGE]
    )


def tiny_set(count: int) -> Path:
    """A package set of packages ``tiny0`` to ``tinyN``, that share nothing."""
    return _made("tiny", _TINY_SET.format(count=count), [])


def _made(name: str, expression: str, attributes: list[str]) -> Path:
    directory = private_directory(name) / "set"
    directory.mkdir()
    (directory / "default.nix").write_text(expression)
    run(
        [
            "nix-build",
            "--no-out-link",
            "--max-jobs",
            "4",
            str(directory),
            *(argument for attribute in attributes for argument in ("-A", attribute)),
        ],
        environ={**os.environ, **single_user_nix()},
        seconds=3600,
    ).checked()
    return directory
