"""What the theme leaves out: where the book comes from, definitions on links to the glossary, names of buttons."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

MENDED = {
    '<summary><span class="toctree-toggle"': '<summary aria-label="Pages below"><span class="toctree-toggle"',
    '<figure class="align-default"': '<figure tabindex="0" class="align-default"',  # scrolls on a phone
    'role="doc-biblioentry"': 'role="listitem"',
}
"""HTML as the theme writes it, and as it should be."""


def add_origin(app: Sphinx, config: Config) -> None:
    """Say in the footer of which commit a page is and under which licence, and link to the repository if it is known.

    ``GITHUB_REPOSITORY`` names it where a workflow publishes; a local build has no link rather than a wrong one.
    """
    options = config.html_theme_options
    options["extra_footer"] = ", ".join(filter(None, (options.get("extra_footer"), commit(app.srcdir), "MIT licence")))
    name = os.environ.get("GITHUB_REPOSITORY")
    if name:
        address = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
        options |= {"repository_url": address, "path_to_docs": "book", "repository_branch": "main"}
        options |= {"use_repository_button": True, "use_issues_button": True}


def commit(folder: str | Path) -> str:
    """The commit and its date, or nothing outside of a repository."""
    command = ["git", "-C", str(folder), "log", "-1", "--format=commit %h of %cs"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def unwrap(app: Sphinx, doctree: nodes.document) -> None:
    """Take the caption off outputs that are no figures: myst-nb gives that of a cell's figure to all its outputs."""
    for figure in list(doctree.findall(nodes.figure)):
        if not list(figure.findall(nodes.image)):
            figure.replace_self([child for child in figure.children if not isinstance(child, nodes.caption)])


def add_titles(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give every link to a term its definition as the title, which browsers show."""
    glossary = app.env.get_doctree("glossary")
    definitions = {
        name: item.next_node(nodes.definition).astext().replace("\n", " ")
        for item in glossary.findall(nodes.definition_list_item)
        for term in item.findall(nodes.term)
        for name in term["ids"]
    }
    for link in doctree.findall(nodes.reference):
        place = link.get("refid") or link.get("refuri", "").partition("#")[2]
        if place in definitions:
            link["reftitle"] = definitions[place]


def mend(app: Sphinx, error: Exception | None) -> None:
    """Correct what the theme's templates write."""
    if error is not None:
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for old, new in MENDED.items():
            text = text.replace(old, new)
        page.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", add_origin)
    app.connect("doctree-read", unwrap)
    app.connect("doctree-resolved", add_titles)
    app.connect("build-finished", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
