"""What the book's own extension adds to the pages."""

import importlib.util
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def companion():
    spec = importlib.util.spec_from_file_location("companion", ROOT / "book" / "_ext" / "companion.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(companion, folder):
    config = types.SimpleNamespace(html_theme_options={"extra_footer": "invariances 1.2.3"})
    companion.add_origin(types.SimpleNamespace(srcdir=folder), config)
    return config.html_theme_options


def test_a_local_build_links_to_no_repository(companion, monkeypatch, tmp_path):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert options_of(companion, tmp_path) == {"extra_footer": "invariances 1.2.3, MIT licence"}


def test_a_published_build_links_to_the_repository_that_published_it(companion, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_REPOSITORY", "somebody/companion")
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    options = options_of(companion, tmp_path)
    assert options["repository_url"] == "https://github.com/somebody/companion"
    assert options["use_repository_button"]


def test_the_footer_names_the_commit(companion):
    assert companion.commit(ROOT).startswith("commit ")


def test_the_theme_s_gaps_are_mended_once(companion, tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<summary><span class="toctree-toggle"></span></summary><figure class="align-default" id="x">')
    for _ in range(2):
        companion.mend(types.SimpleNamespace(outdir=tmp_path), None)
        assert page.read_text() == (
            '<summary aria-label="Pages below"><span class="toctree-toggle"></span></summary>'
            '<figure tabindex="0" class="align-default" id="x">'
        )
