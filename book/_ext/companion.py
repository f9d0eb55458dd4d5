"""What the theme leaves out: definitions on links to the glossary, names of the sidebar's buttons, a keyboard's way."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

MENDED = {
    '<summary><span class="toctree-toggle"': '<summary aria-label="Pages below"><span class="toctree-toggle"',
    '<figure class="align-default"': '<figure tabindex="0" class="align-default"',  # scrolls on a phone
}
"""HTML as the theme writes it, and as it should be."""


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
    app.connect("doctree-resolved", add_titles)
    app.connect("build-finished", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
