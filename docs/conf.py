"""Sphinx's configuration of the site: ``sphinx-build -W --keep-going docs build/site``.

The pages are Markdown that reads well on a forge too; docs/site_pages.py adds what is made from the source.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, os.fspath(Path(__file__).parent))
sys.path.insert(0, os.fspath(Path(__file__).parent.parent))

import site_pages

import trio_smtp.tls  # noqa: F401  # the package has no circle, whatever autodoc imports first

project = "trio-smtp"
author = "The trio-smtp authors"
html_title = "trio-smtp"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
]
root_doc = "README"
exclude_patterns = ["build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"

# Headings have the anchors that GitHub gives them; pages link them.
myst_heading_anchors = 4
myst_enable_extensions: list[str] = []

# `Name` in a docstring is a link where there is such a name, and plain code where there is none.
default_role = "py:obj"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("RFC", "notes")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88


def show_bases(_: Sphinx, __: str, ___: object, ____: object, bases: list[type]) -> None:
    """Leave out the bases that no program can name."""
    shown = [base for base in bases if not getattr(base, "__name__", "").startswith("_")]
    bases[:] = shown or [object]


def show_tables(_: Sphinx, __: str, ___: str, ____: object, _____: object, lines: list[str]) -> None:
    """Tables of docstrings are Markdown's: help() and editors show them as they are."""
    lines[:] = site_pages.with_tables(lines)


def read(_: Sphinx, docname: str, source: list[str]) -> None:
    """Have links lead to pages of the site, and add the contents to the first page."""
    page = site_pages.DOCS / f"{docname}.md"
    if not page.exists() or docname.startswith("site/"):
        return
    text = source[0]
    source[0] = site_pages.relinked(text, page, page)
    if docname == root_doc:
        source[0] += "\n" + site_pages.navigation(text)


def finish(app: Sphinx, error: Exception | None) -> None:
    """Have the site begin at index.html too."""
    first = Path(app.outdir) / f"{root_doc}.html"
    if error is None and first.exists():
        shutil.copyfile(first, first.with_name("index.html"))


def setup(app: Sphinx) -> None:
    """Sphinx calls it before it looks for pages."""
    site_pages.write()
    app.connect("autodoc-process-bases", show_bases)
    app.connect("autodoc-process-docstring", show_tables, priority=100)
    app.connect("source-read", read)
    app.connect("build-finished", finish)
