"""The report in a real browser: light and dark, wide and narrow, no request, no fault that axe finds."""

import re
import shutil

import numpy as np
import pytest

from invariances import discover

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SMALLEST = 9
"""Pixels that text in a figure has, as it is shown."""


def spaces(models):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 8))
    names = ["minilm-l6", "a model with a long name", "c", "<d> & e", "f"]
    return {
        name: x @ np.linalg.qr(rng.normal(size=(8, 8)))[0] + 0.1 * rng.normal(size=x.shape) for name in names[:models]
    }


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    labels = np.arange(400) % 3
    return {
        models: discover(spaces(models), anchors=100, labels=labels).to_html(folder / f"{models}.html")
        for models in (2, 5)
    }


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize(
    ("models", "theme", "width"), [(2, "light", 1280), (2, "dark", 390), (5, "light", 390), (5, "dark", 1280)]
)
def test_the_page_is_readable_and_accessible(models, theme, width, pages, browser):
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    requests, said = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(pages[models].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "best-practice"]})
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found.response["violations"]] == []
    assert requests == [pages[models].as_uri()]
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate(
        """[...document.querySelectorAll('svg text')].map(text =>
            parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b))"""
    )
    assert len(sizes) > 20
    assert min(sizes) >= SMALLEST
    answer = page.locator(".answer").bounding_box()
    assert answer["y"] < 200  # the decision is on the first screen
    page.close()


def test_a_figure_follows_the_theme(pages, browser):
    colours = {}
    for theme in ("light", "dark"):
        page = browser.new_page(color_scheme=theme)
        page.goto(pages[2].as_uri())
        colours[theme] = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        page.close()
    assert colours["light"] != colours["dark"]


def test_nothing_is_drawn_in_a_stand_in_colour(pages):
    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        assert not re.search("#0[1-9a]0[2-9b]0[3-9c]", text)
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(ids) == len(set(ids))


def test_many_models_have_groups_and_a_heatmap(pages):
    text = pages[5].read_text(encoding="utf-8")
    assert "All 5 models are interchangeable" in text
    assert "mapped into the space of" in text


def test_the_notebook_shows_the_answer_and_names_break_nothing():
    report = discover(spaces(4), anchors=100)
    shown = report._repr_html_()
    assert "<d>" not in shown
    assert "Fit and save the map" in shown
    assert shown.count("<table") == 1
