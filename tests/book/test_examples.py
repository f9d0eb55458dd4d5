"""The examples of the reference pages give the output that stands below them."""

import doctest
from pathlib import Path

import pytest

API = Path(__file__).parents[2] / "book" / "api"
PAGES = sorted(path.name for path in API.glob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_an_example_gives_the_output_that_it_shows(page):
    text = (API / page).read_text(encoding="utf-8")
    blocks = text.replace("```pycon\n", "").replace("\n```\n", "\n\n", 1)
    found = doctest.DocTestParser().get_doctest(blocks, {}, page, str(API / page), 0)
    assert page == "zoo.md" or len(found.examples) >= 5  # what trains is shown by the notebooks
    failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found)
    assert failed == 0


def test_every_page_of_the_reference_is_in_the_index():
    index = (API.parent / "api.md").read_text(encoding="utf-8")
    assert all(f"(api/{page})" in index for page in PAGES)
