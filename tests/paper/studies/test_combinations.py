"""Similarities combined: planted spaces with known answers, and the page's tables from its CSV."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from invariances.paper.profiles import PROFILES
from invariances.paper.studies import combinations
from invariances.paper.studies.panels import MODELS
from invariances.product import Product
from invariances.zoo import workers

PAGE = Path(__file__).resolve().parents[3] / "book" / "beyond"
TABLES = {
    "subsets": combinations.table_of_subsets,
    "differences": combinations.table_of_differences,
    "findings_subsets": combinations.findings_on_subsets,
}


def _rotation(d=16, seed=1):
    return torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).normal(size=(d, d))))[0]


def _three_models(noise=0.3, apart=3.0, n=500, d=16, classes=4):
    """Pool and test codes of three models, rotations of one space in classes, and the labels of both splits."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=n)
    x = torch.from_numpy(apart * rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)))
    rng = np.random.default_rng(4)
    models = {}
    for i in range(3):
        models[f"m {i}"] = x @ _rotation(seed=i) + noise * torch.from_numpy(rng.normal(size=x.shape))
    return {n: x[:300] for n, x in models.items()}, {n: x[300:] for n, x in models.items()}, labels[:300], labels[300:]


def _components(names, pool, test, k=40):
    def made(codes, anchors):
        return Product(names, anchors=k, width=1, aggregation="concat").double()(codes, anchors[:k]).detach()

    return ({name: made(split[name], pool[name]) for name in pool} for split in (pool, test))


def test_a_product_aligns_as_the_mean_of_its_members():
    pool, test, *labels = _three_models()
    names = ("cosine", "l1", "linf")
    own = [combinations.combine(*_components((name,), pool, test), *labels, 1).alignment for name in names]
    together = combinations.combine(*_components(names, pool, test), *labels, 3)
    np.testing.assert_allclose(together.alignment, np.mean(own, axis=0), atol=1e-8)
    assert (together.features == 120).all()
    assert (together.parameters == 121 * 4).all()


def test_stitching_keeps_what_a_rotation_leaves_and_loses_what_it_mixes():
    pool, test, *labels = _three_models(noise=0, apart=0.6)
    cosine, linf = (combinations.combine(*_components((name,), pool, test), *labels, 1) for name in ("cosine", "linf"))
    assert len(cosine) == 6
    assert (cosine.retention == 1).all()
    assert cosine.ceiling.min() > 0.7
    assert linf.retention.mean() < 0.97
    shuffled = {
        n: x[torch.from_numpy(np.random.default_rng(i).permutation(len(x)))] for i, (n, x) in enumerate(test.items())
    }
    chance = combinations.combine(*_components(("cosine",), pool, shuffled), *labels, 1)
    assert chance.score.max() < 0.45
    assert chance.majority_share.iloc[0] == pytest.approx(np.unique(labels[1], return_counts=True)[1].max() / 200)


def test_the_same_member_twice_gives_the_same_head():
    pool, test, *labels = _three_models()
    once = [*_components(("cosine",), pool, test)]
    twice = [{name: torch.cat([x, x], dim=1) for name, x in split.items()} for split in once]
    one, two = combinations.combine(*once, *labels, 1), combinations.combine(*twice, *labels, 2)
    np.testing.assert_allclose(one.score, two.score, atol=0.011)  # two of 200 samples: the solver stops elsewhere


def test_there_are_fifteen_subsets_singles_first():
    found = combinations.subsets()
    assert len({frozenset(subset) for subset in found}) == len(found) == 15
    assert [len(subset) for subset in found] == sorted(map(len, found))


@pytest.mark.parametrize(("gain", "said"), [(0.05, "**beat"), (-0.05, "are beaten"), (0.0, "no difference")])
def test_the_verdict_follows_the_interval(gain, said):
    rng = np.random.default_rng(0)
    lines = []
    for members, name, base in ((1, "cosine", 0.8), (1, "L2", 0.6), (4, "all", 0.8 + gain)):
        for a, b in [(a, b) for a in range(5) for b in range(5) if a != b]:
            score = base + 0.005 * rng.normal()
            sizes = {"row": "r", "similarities": name, "members": members, "k": 10, "parameters": members}
            scores = dict.fromkeys(("score", "retention", "calibrated"), score)
            lines.append({"model_a": a, "model_b": b, **sizes, **scores})
    table = combinations.table_of_differences(pd.DataFrame(lines))
    assert "| r | cosine | 10 | +3 |" in table
    assert said in table


def test_rows_with_different_numbers_of_anchors_stand_in_one_figure():
    lines = []
    for row, anchors in (("many", 40), ("few", 20)):
        subsets = [(("cosine",), anchors), (("cosine", "L2", "L1", "L∞"), anchors)]
        for names, k in [*subsets, (("cosine", "L2", "L1", "L∞"), anchors // 4)]:
            facts = {"row": row, "similarities": " + ".join(names), "members": len(names), "k": k, "ceiling": 0.9}
            lines += [{"model_a": a, "model_b": b, **facts, "score": 0.8} for a in "xyz" for b in "xyz" if a != b]
    figure = combinations.draw_subsets(pd.DataFrame(lines))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["cosine", "cosine + L2 + L1 + L∞", "all four, 10 or 5 anchors"]
    heights = [{float(line.get_ydata()[0]) for line in ax.lines[1:]} for ax in figure.axes]
    assert heights[0] == heights[1] == set(figure.axes[0].get_yticks())


def test_the_smoke_study_runs_and_its_tables_follow_from_its_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(combinations, "COMBINED", ("MNIST",))
    monkeypatch.setattr(workers, "cores", lambda: 1)  # no processes
    combinations.run("smoke", tmp_path / "new")
    frame = pd.read_csv(tmp_path / "new" / "subsets.csv")
    assert len(frame) == 16 * 6
    assert frame.groupby(["similarities", "k"]).features.first()["cosine + L2 + L1 + L∞"].loc[150] == 600
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "new").glob("*.md")}
    assert texts == {name: table(frame).rstrip() + "\n" for name, table in TABLES.items()}
    assert (tmp_path / "new" / "subsets.svg").is_file()


@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_the_page_follows_from_its_csv(name):
    made = TABLES[name](pd.read_csv(PAGE / "subsets.csv")).rstrip() + "\n"
    assert (PAGE / f"{name}.md").read_text(encoding="utf-8") == made


def test_the_published_study_is_whole():
    frame = pd.read_csv(PAGE / "subsets.csv")
    (profile,) = set(frame.profile)
    models = min(MODELS, PROFILES[profile].seeds)
    assert frame.groupby("row").size().eq(16 * models * (models - 1)).all()
    assert set(frame.row) == set(combinations.COMBINED)
    assert frame.score.notna().all()
