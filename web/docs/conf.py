"""
Settings of Sphinx, which builds the documentation.

    tox -e docs        builds it into build/docs, warnings as errors, and checks it

A wheel brings it along, see setup.py.  The settings and the errors are rendered from
the code beside this folder, which needs attrs and PyYAML and nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent.parent), str(_HERE / "_ext")]

from nixery.version import VERSION  # noqa: E402  # found by the line above

project = "Nixery in Python"
release = version = VERSION
language = "en"

extensions = ["myst_parser", "nixery_docs"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_*"]

myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3
# Links to nowhere are mistakes, whatever they were meant to be.
myst_all_links_external = False

html_theme = "nixery"
html_theme_path = [str(_HERE / "_theme")]
html_title = "Nixery documentation"
html_permalinks_icon = "#"
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
html_domain_indices = False
# The look is that of the other pages of the site.
html_static_path = [
    str(_HERE.parent / "static" / name)
    for name in ("site.css", "site.js", "commands.js", "text.js", "logo.svg", "favicon.svg")
]
html_css_files = [("site.css", {"priority": 100})]
html_js_files = [("docs.js", {"type": "module"})]
smartquotes = False
