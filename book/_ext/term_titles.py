"""Show a term's definition when the mouse, or the keyboard's focus, is on a link to the glossary."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx


def add_titles(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give every link to a term the definition as its title."""
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


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", add_titles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
