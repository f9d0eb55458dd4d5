"""The committed book, built and opened in a real browser."""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from bs4 import BeautifulSoup

from screens import CHROMIUM, chromium, served

from invariances.paper import claims, findings, tables

ROOT = Path(__file__).parents[2]
PAGES = [
    "intro",
    "method",
    "glossary",
    "results/initialization",
    "results/architecture",
    "results/training",
    "results/stitching",
    "findings",
    "structure",
    "texts",
    "anchors",
    "combinations",
    "definitions",
    "characteristics",
    "speed",
    "zoo",
    "own",
    "tutorial",
    "reproduce",
    "api",
    *(f"api/{path.stem}" for path in sorted((ROOT / "book" / "api").glob("*.md"))),
    "references",
]
LEADS = ("Alignment across", "Zero-shot", "Calibrated alignment across and within", "Which maps", "Rank correlation")
"""Captions of the tables that decide; the others may scroll."""
RESULTS = [page for page in PAGES if page.startswith("results/")]


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The book, built strictly from a copy, so that the tests leave the repository as it is."""
    place = tmp_path_factory.mktemp("book")
    shutil.copytree(ROOT / "book", place / "book")
    shutil.copy(ROOT / "_config.yml", place)
    # what a run that was killed leaves behind is no page of the book
    left = place / "book" / "results" / ".running-killed"
    left.mkdir()
    shutil.copy(ROOT / "notebooks" / "initialization.ipynb", left)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "-W", "-n", "--keep-going", "book"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return place / "_build" / "html"


def test_every_page_of_the_contents_is_built(html):
    for page in PAGES:
        assert (html / f"{page}.html").is_file()
    assert not list(html.rglob(".running*"))


def test_links_to_a_term_show_its_definition_and_the_paper_is_linked(html):
    method = BeautifulSoup((html / "method.html").read_text(), "html.parser")
    terms = method.select("article a[href*='#term-']")
    assert len(terms) > 5
    glossary = BeautifulSoup((html / "glossary.html").read_text(), "html.parser")
    for link in terms:
        term = glossary.find(id=link["href"].partition("#")[2])
        assert link["title"].split() == term.find_next("dd").get_text().split() or "$" in link["title"]
    intro = BeautifulSoup((html / "intro.html").read_text(), "html.parser")
    assert intro.select("article a[href='https://openreview.net/forum?id=mCm4iiNoNc']")
    assert "MIT licence" in intro.select_one(".extra_footer").get_text()


def test_every_results_page_says_its_size_and_its_data(html):
    for page in RESULTS:
        text = " ".join((html / f"{page}.html").read_text().split())
        frame = pd.read_csv(ROOT / "book" / f"{page}.csv")
        size = tables.banner(frame, frame.profile.iloc[0]).split("**")[1]
        assert f"<strong>{size}</strong>" in text
        for data in frame.data.unique():
            assert data in text


def test_every_figure_of_a_results_page_has_a_picture_and_a_number(html):
    for page in RESULTS:
        figures = BeautifulSoup((html / f"{page}.html").read_text(), "html.parser").select("article figure")
        assert len(figures) >= 3
        for figure in figures:
            assert figure.find("img"), figure.get_text()[:80]
            assert figure.select_one(".caption-number"), figure.get_text()[:80]
        captions = [figure.figcaption.get_text() for figure in figures]
        assert len(set(captions)) == len(captions)


def test_the_intro_shows_the_verdicts_of_the_notebooks(html):
    text = (html / "intro.html").read_text()
    for page in RESULTS:
        section = page.removeprefix("results/")
        verdict = claims.judge(section, pd.read_csv(ROOT / "book" / f"{page}.csv")).verdict
        assert re.search(rf"<td><p>(<span[^>]*>)?{verdict}(</span>)?</p></td>\s*<td><p><a[^>]*{page}", text), section


def test_the_findings_page_shows_all_verdicts_and_links_to_the_evidence(html):
    text = (html / "findings.html").read_text()
    verdicts = findings.judged(findings.read(ROOT / "book" / "results"))
    for number, verdict in verdicts.items():
        assert f'href="#finding-{number[0]}"' in text
        assert f"<strong>Verdict: {findings.shown(verdict)}.</strong>" in text
    for page in RESULTS:
        assert f'href="{page}.html"' in text


@pytest.fixture(scope="module")
def address(html):
    with served(html) as at:
        yield at


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the system's package 'chromium' to check pages in a browser")
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize("page", PAGES)
def test_page_in_a_browser(page, browser, address):
    errors, elsewhere = [], []
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda e: errors.append(str(e)))
    tab.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else elsewhere.append(r.url))
    tab.goto(f"{address}/{page}.html", wait_until="load")
    tab.wait_for_timeout(300)
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        pictures = tab.evaluate(
            "[...document.querySelectorAll('article img')]"
            ".map(i => [i.getBoundingClientRect().width, i.naturalWidth, i.alt])"
        )
        if page in [*RESULTS, "definitions"]:
            assert pictures
        for shown, natural, alt in pictures:
            assert shown > 100
            assert natural > 100
            assert alt
    assert errors == []
    assert elsewhere == []
    tab.close()


@pytest.mark.parametrize("page", RESULTS)
def test_a_results_page_answers_on_its_first_screen_in_tables_that_fit(page, browser, address):
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.goto(f"{address}/{page}.html", wait_until="load")
    place = tab.evaluate(
        "[...document.querySelectorAll('article strong')].find(s => s.textContent.startsWith('What came out'))"
        ".getBoundingClientRect().bottom"
    )
    assert place < 600
    widths = tab.evaluate(
        "[...document.querySelectorAll('article .table-scroll')].filter(t => !t.closest('details'))"
        ".map(t => [t.querySelector('table').offsetWidth, t.clientWidth, t.querySelector('caption').textContent])"
    )
    assert widths
    leads = [width for width in widths if width[2].startswith(LEADS)]
    assert leads
    for table, box, caption in leads:
        assert table <= box + 1, caption
    tab.close()


@pytest.mark.parametrize("page", RESULTS)
def test_print_loses_nothing_of_a_table(page, browser, address):
    tab = browser.new_page(viewport={"width": 1000, "height": 900})
    tab.goto(f"{address}/{page}.html", wait_until="load")
    tab.emulate_media(media="print")
    heights = tab.evaluate("[...document.querySelectorAll('details.whole-table table')].map(t => t.offsetHeight)")
    assert heights
    assert min(heights) > 50
    widths = tab.evaluate(
        "[...document.querySelectorAll('.table-scroll')].map(t => [t.querySelector('table').offsetWidth, t.clientWidth])"
    )
    for table, box in widths:
        assert table <= box + 1
    tab.close()


def test_the_keyboard_s_focus_can_be_seen(browser, address):
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(f"{address}/results/training.html", wait_until="load")
    for _ in range(60):
        tab.keyboard.press("Tab")
        where, outline, shadow = tab.evaluate(
            "(e => [e.outerHTML.slice(0, 90), getComputedStyle(e).outlineStyle, getComputedStyle(e).boxShadow])"
            "(document.activeElement)"
        )
        assert outline != "none" or (shadow != "none" and not shadow.startswith("rgba(0, 0, 0, 0)")), where
    tab.close()


def test_figures_and_tables_follow_a_dark_page(browser, address):
    colours = {}
    for theme in ("light", "dark"):
        tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=theme)
        tab.goto(f"{address}/results/training.html", wait_until="load")
        figure = tab.query_selector("article figure img")
        figure.scroll_into_view_if_needed()
        tab.wait_for_timeout(200)
        picture = Image.open(io.BytesIO(figure.screenshot())).convert("L")
        cell = tab.query_selector("article .table-scroll td")
        text = cell.evaluate("c => getComputedStyle(c).color")
        colours[theme] = (np.median(np.asarray(picture)), sum(map(int, re.findall(r"\d+", text)[:3])))
        tab.close()
    assert colours["light"][0] > 200 > 60 > colours["dark"][0]
    assert colours["light"][1] < 300 < 450 < colours["dark"][1]


def test_formulas_are_typeset(browser, address):
    tab = browser.new_page()
    tab.goto(f"{address}/method.html", wait_until="load")
    tab.wait_for_selector("mjx-container svg", timeout=15_000)
    tab.close()
