"""The documentation site: `scripts/docs` builds it, and every warning is an error."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

import chrek  # noqa: E402  (the path above comes first)

project = "chrek"
author = "the chrek authors"
copyright = author
version = release = chrek.__version__

extensions = ["myst_parser", "repository", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "description"
nitpick_ignore_regex = [("py:.*", r"(typing\.|collections\.|chrek\.worker\.)?[A-Za-z]+")]
"""No address is asked for what Python's own types are; links between pages are all checked."""
exclude_patterns = ["_ext", "_static", "bench"]
myst_heading_anchors = 4
highlight_language = "text"

html_theme = "furo"
html_title = f"chrek {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
