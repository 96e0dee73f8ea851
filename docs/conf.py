"""How Sphinx builds the site: `.ci/dev docs`.

Every page is a notebook in MyST Markdown: its Python runs as the site is built, and what it prints
and draws is what the page shows. Formulas are MathML, so that no page needs a script for them, and
nothing is fetched while building or reading.
"""

from __future__ import annotations

import inspect
import os
import pathlib
import re
import shutil
from importlib.util import find_spec
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.util.logging import getLogger

import xentfast

HERE = pathlib.Path(__file__).parent
os.environ["PYTHONPATH"] = str(HERE)  # the notebooks draw with pictures.py

project = "xentfast"
author = "The xentfast developers"
copyright = author
release = version = xentfast.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
exclude_patterns = ["_build"]
nitpicky = True
# A name in docstrings is a link where there is such a thing, and else an argument.
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", ".*")]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "inline"
nb_execution_raise_on_error = True
nb_execution_timeout = 60
nb_output_stderr = "warn"
nb_merge_streams = True
nb_render_markdown_format = "myst"

autodoc_typehints = "none"  # the docstrings say more
autodoc_mock_imports = [name for name in ("dask", "torch") if not find_spec(name)]
autodoc_inherit_docstrings = False
autosummary_ignore_module_all = False
numpydoc_show_class_members = False
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_title = "xentfast"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_sidebars = {"*": [], "zh/*": [], "reference/**": ["sidebar-nav-bs"]}
html_theme_options = {
    "header_links_before_dropdown": 8,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "show_toc_level": 2,
}

# --- the reference --------------------------------------------------------------------------------

# The first pattern that is found in a name says where the function is listed.
GROUPS = {
    "Cross-entropy": "cross_entropy|focal|shard",
    "Entropy and divergences": "entropy|divergence|is_distribution",
    "Softmax": "softmax|logsumexp",
    "Evaluation": "[Ee]valuat|[Cc]ompar",
    "Threads and configuration": "threads|config",
    "Others": "",
}


def write_reference(app: Sphinx, config: Any) -> None:
    """Write a page of all public names and a page for each module, from what the package has."""
    folder = HERE / "reference" / "generated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in xentfast.__all__:
        if not inspect.ismodule(getattr(xentfast, name)):
            group = next(group for group, pattern in GROUPS.items() if re.search(pattern, name))
            names[group].append(name)
    lines = [heading("Functions", "="), ".. currentmodule:: xentfast"]
    for group, members in names.items():
        if members:
            lines += [heading(group, "-"), ".. autosummary::\n   :toctree: .\n   :nosignatures:\n"]
            lines += ["\n".join(f"   {name}" for name in members)]
    (folder / "functions.rst").write_text("\n\n".join(lines) + "\n")

    dropins = sorted(path.stem for path in (HERE.parent / "xentfast" / "dropin").glob("[a-z]*.py"))
    for dotted in ("reference", "dask", *(f"dropin.{name}" for name in dropins)):
        module = f"xentfast.{dotted}"
        lines = [
            heading(module, "="),
            f".. automodule:: {module}\n   :members:\n   :ignore-module-all:",
        ]
        (folder / f"module-{dotted}.rst").write_text("\n\n".join(lines) + "\n")


def hide_signature(app: Sphinx, what: str, name: str, *_: Any) -> tuple[str, None] | None:
    """Leave out how results, which nobody makes by hand, are made."""
    return ("", None) if what == "class" and name.count(".") == 1 else None


def heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}"


# --- libraries that may be missing ----------------------------------------------------------------


def show_only(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make cells tagged `needs-LIBRARY` plain listings where the library is not installed."""

    def replace(match: re.Match[str]) -> str:
        return match[0] if find_spec(match[1]) else "```python\n"

    source[0] = re.sub(
        r"^```\{code-cell\}.*\n:tags: \[needs-(\w+)\]\n", replace, source[0], flags=re.M
    )


# --- Chinese --------------------------------------------------------------------------------------


def code_of(page: str) -> str:
    """Return the code of a page without what is translated: strings, comments and their layout."""
    text = (HERE / page).read_text()
    cells = re.findall(r"^```\{code-cell\}\n(.*?)^```$", text, flags=re.M | re.S)
    return re.sub(r'"[^"]*"|#.*|[\s,]', "", "".join(cells))


def check_translation(app: Sphinx) -> None:
    if code_of("guide.md") != code_of("zh/guide.md"):
        getLogger(__name__).warning("guide.md and zh/guide.md must have the same code")


def join_lines(app: Sphinx, docname: str, source: list[str]) -> None:
    """Join lines that end and begin in Chinese, between which HTML would show a space."""
    if docname.startswith("zh/"):
        wide = "[\u2014\u3000-\u9fff\uff00-\uffef]"
        source[0] = re.sub(f"(?<={wide})\n(?={wide})", "", source[0])


class Search(SearchEnglish):
    """English words, and of Chinese, which has no spaces, each character and each pair."""

    def split(self, text: str) -> list[str]:
        """Return the words to index."""
        words: list[str] = super().split(text)
        for run in re.findall("[\u4e00-\u9fff]+", text):
            words += [run[i : i + n] for n in (1, 2) for i in range(len(run) - n + 1)]
        return words


def set_language(app: Sphinx, page: str, template: str, context: dict[str, Any], *_: Any) -> None:
    if page.startswith("zh/"):
        context["language"] = "zh-Hans"


# --- formulas -------------------------------------------------------------------------------------


def inline_math(self: Any, node: nodes.Element) -> None:
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def display_math(self: Any, node: nodes.Element) -> None:
    self.body.append(f'<div class="formula">{tex2mathml(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.connect("config-inited", write_reference)
    app.connect("autodoc-process-signature", hide_signature)
    app.connect("builder-inited", check_translation)
    app.connect("source-read", show_only)
    app.connect("source-read", join_lines)
    app.connect("html-page-context", set_language)
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.add_search_language(Search)
