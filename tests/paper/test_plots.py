"""Figures as SVG: words stay as they are, greys turn on a dark page, colours do not."""

import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from invariances.paper.plots import MANY, WIDTH, as_svg, draw_heatmap


def figure(points=3):
    drawn, ax = plt.subplots(figsize=(WIDTH, 2), layout="constrained")
    rng = np.random.default_rng(0)
    ax.plot(rng.normal(size=points), rng.normal(size=points), "o", color="#d55e00", label="LR 0.001")
    ax.axhline(0, color="0.6")
    ax.set_title("between 0.12345 and 0.6789", fontsize=7)
    ax.legend()
    plt.close(drawn)
    return drawn


def style(text):
    light, dark = re.search(r"<style>svg\{(.*?)\}@media \(prefers-color-scheme: dark\)\{svg\{(.*?)\}\}", text).groups()
    return tuple(dict(re.findall(r"--(\w\w):(#\w{6})", part)) for part in (light, dark))


def words(text):
    return {found.text for found in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")}


def test_words_stay_as_they_are():
    assert {"LR 0.001", "between 0.12345 and 0.6789"} <= words(as_svg(figure()))


def test_the_same_figure_gives_the_same_text():
    assert as_svg(figure()) == as_svg(figure())
    assert as_svg(figure()) != as_svg(figure(points=4))


def test_a_figure_is_as_wide_as_the_page_and_its_words_can_be_read():
    root = ElementTree.fromstring(as_svg(figure()))
    assert int(root.get("width")) == pytest.approx(100 * WIDTH, abs=10)
    shown = int(root.get("width")) / float(root.get("viewBox").split()[2])
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", as_svg(figure()))]
    assert min(sizes) * shown == pytest.approx(700 / 72, rel=1e-3)


def test_greys_turn_on_a_dark_page_and_colours_stay():
    text = as_svg(figure())
    light, dark = style(text)
    assert light["00"] == "#000000"
    assert light["99"] == "#999999"
    brightness = {name: int(value[1:3], 16) for name, value in dark.items()}
    assert brightness["00"] > 200 > brightness["99"] > brightness["ff"]
    assert set(light) == set(dark)
    assert "#d55e00" in text
    assert not re.findall(r"#(\w\w)\1\1", text.split("<style>svg")[0])


def test_text_on_a_coloured_cell_does_not_turn():
    drawn, ax = plt.subplots()
    draw_heatmap(ax, pd.DataFrame([[0.0, 1.0]]), np.array([["low", "high"]]), 8, vmin=0, vmax=1, cmap="cividis")
    plt.close(drawn)
    text = as_svg(drawn)
    assert {"low", "high"} <= words(text)
    assert {"#fffffe", "#262627"} <= set(re.findall(r"#\w{6}", text))


@pytest.mark.parametrize(("side", "pictures"), [(int(MANY**0.5), 0), (int(MANY**0.5) + 1, 1)])
def test_many_cells_are_drawn_as_pixels(side, pictures):
    drawn, ax = plt.subplots()
    draw_heatmap(ax, pd.DataFrame(np.eye(side)), None, 8)
    plt.close(drawn)
    assert as_svg(drawn).count("<image") == pictures
