"""Anchors redrawn and similarities combined: planted spaces with known answers, and the page's tables from its CSVs."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from invariances.paper import beyond
from invariances.paper.profiles import PROFILES
from invariances.product import Product

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "book" / "beyond"
COUNTS = (5, 20, 60)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("anchors", ROOT / "benchmarks" / "anchors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _space(n=500, d=16, classes=4, seed=0, apart=3.0):
    """Codes in classes, in float64, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    codes = apart * rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d))
    return torch.from_numpy(codes), labels


def _rotation(d=16, seed=1):
    return torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).normal(size=(d, d))))[0]


def _calibrated(other):
    """By invariance, metric and number of anchors, for a space and what `other` makes of it."""
    x, _ = _space(classes=1)  # without classes, whose distances would survive a rotation in L1, too
    pool, test = {"x": x[:300], "other": other(x[:300])}, {"x": x[300:], "other": other(x[300:])}
    frames = [beyond.align_by_draw(pool, test, k, draw) for k in COUNTS for draw in range(2)]
    return pd.concat(frames).groupby(["invariance", "metric", "k"]).calibrated.agg(["min", "max"])


def test_a_rotation_is_nothing_to_cosine_and_l2_by_any_anchors_but_much_to_l1_and_linf():
    found = _calibrated(lambda x: x @ _rotation())
    for metric in ("cosine", "pearson"):
        for invariance in ("relative", "relative-centered", "relative-euclidean"):
            assert found.loc[invariance, metric]["min"].min() > 1 - 1e-6
        for invariance in ("relative-l1", "relative-linf"):
            assert found.loc[invariance, metric]["max"].max() < 0.97
    # 16 features: a rotation is fixed by 20 anchors, an affine map that is not shrunk by 20, too; not by 5
    assert found.loc["orthogonal", "cosine"]["min"].loc[20:].min() > 1 - 1e-6
    assert found.loc[beyond.PLAIN, "cosine"]["min"].loc[20:].min() > 1 - 1e-6
    assert found.loc["orthogonal", "cosine"]["max"].loc[5] < 0.9


def test_a_shift_is_nothing_to_distances_and_centred_cosine_but_much_to_cosine():
    found = _calibrated(lambda x: x + 4)
    for invariance in ("relative-centered", "relative-euclidean", "relative-l1", "relative-linf"):
        assert found.loc[invariance, "pearson"]["min"].min() > 1 - 1e-6
    assert found.loc["relative", "pearson"]["max"].max() < 0.97


def test_spaces_that_share_nothing_are_at_chance_by_any_number_of_anchors():
    unrelated = torch.from_numpy(np.random.default_rng(5).normal(size=(500, 16)))
    x, _ = _space(classes=1)
    pool, test = {"x": x[:300], "other": unrelated[:300]}, {"x": x[300:], "other": unrelated[300:]}
    for k in COUNTS:
        assert beyond.align_by_draw(pool, test, k, 0).calibrated.abs().max() < 0.2


def test_an_unpenalised_map_dips_where_anchors_are_one_more_than_features_and_the_penalised_one_does_not():
    rng = np.random.default_rng(3)
    x, _ = _space(d=32)
    y = x @ _rotation(32) + torch.from_numpy(2 * rng.normal(size=x.shape))
    pool, test = {"x": x[:300], "y": y[:300]}, {"x": x[300:], "y": y[300:]}
    frame = pd.concat([beyond.align_by_draw(pool, test, k, draw) for k in (16, 33, 150) for draw in range(3)])
    means = frame.groupby(["invariance", "k"]).calibrated.mean()
    assert means[beyond.PLAIN, 33] < means[beyond.PLAIN, 16] - 0.1
    assert means["affine"].is_monotonic_increasing
    said = beyond.findings_on_anchors(
        frame.assign(profile="smoke", row="planted", n_pool=300, k=frame.k.replace(33, 150))
    )
    assert "affine map falls nowhere" in said
    found = beyond.by_count(frame.assign(row="planted"))
    assert "on planted" in beyond._dip(found, beyond.PLAIN)


def test_all_models_have_the_same_anchors_and_every_draw_others():
    x, _ = _space()
    pool, test = {"x": x[:300], "same": x[:300].clone()}, {"x": x[300:], "same": x[300:].clone()}
    found = beyond.align_by_draw(pool, test, 5, 0)  # 5 anchors fix no map, but equal profiles
    assert found[found.invariance.isin(beyond.PROFILED)].calibrated.min() > 1 - 1e-6
    other = {"x": x[300:], "same": x[300:] @ _rotation()}
    turned = {"x": x[:300], "same": x[:300] @ _rotation()}
    first, again, second = (beyond.align_by_draw(turned, other, 5, draw) for draw in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert (first.score - second.score).abs().max() > 1e-3


def _components(names, pool, test, k=40):
    def made(codes, anchors):
        return Product(names, anchors=k, width=1, aggregation="concat").double()(codes, anchors[:k]).detach()

    return ({name: made(split[name], pool[name]) for name in pool} for split in (pool, test))


def _three_models(noise=0.3, apart=3.0):
    x, labels = _space(apart=apart)
    rng = np.random.default_rng(4)
    models = {}
    for i in range(3):
        models[f"m {i}"] = x @ _rotation(seed=i) + noise * torch.from_numpy(rng.normal(size=x.shape))
    return {n: x[:300] for n, x in models.items()}, {n: x[300:] for n, x in models.items()}, labels[:300], labels[300:]


def test_a_product_aligns_as_the_mean_of_its_members():
    pool, test, *labels = _three_models()
    names = ("cosine", "l1", "linf")
    own = [beyond.combine(*_components((name,), pool, test), *labels, 1).alignment for name in names]
    together = beyond.combine(*_components(names, pool, test), *labels, 3)
    np.testing.assert_allclose(together.alignment, np.mean(own, axis=0), atol=1e-8)
    assert (together.features == 120).all()
    assert (together.parameters == 121 * 4).all()


def test_stitching_keeps_what_a_rotation_leaves_and_loses_what_it_mixes():
    pool, test, *labels = _three_models(noise=0, apart=0.6)
    cosine, linf = (beyond.combine(*_components((name,), pool, test), *labels, 1) for name in ("cosine", "linf"))
    assert len(cosine) == 6
    assert (cosine.retention == 1).all()
    assert cosine.ceiling.min() > 0.7
    assert linf.retention.mean() < 0.97
    shuffled = {
        n: x[torch.from_numpy(np.random.default_rng(i).permutation(len(x)))] for i, (n, x) in enumerate(test.items())
    }
    chance = beyond.combine(*_components(("cosine",), pool, shuffled), *labels, 1)
    assert chance.score.max() < 0.45
    assert chance.guess.iloc[0] == pytest.approx(np.unique(labels[1], return_counts=True)[1].max() / 200)


def test_the_same_member_twice_gives_the_same_head():
    pool, test, *labels = _three_models()
    once = [*_components(("cosine",), pool, test)]
    twice = [{name: torch.cat([x, x], dim=1) for name, x in split.items()} for split in once]
    one, two = beyond.combine(*once, *labels, 1), beyond.combine(*twice, *labels, 2)
    np.testing.assert_allclose(one.score, two.score, atol=0.011)  # two of 200 samples: the solver stops elsewhere


def test_there_are_fifteen_subsets_singles_first():
    found = beyond.subsets()
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
    table = beyond.table_of_differences(pd.DataFrame(lines))
    assert "| r | cosine | 10 | +3 |" in table
    assert said in table


def test_the_smoke_study_runs_and_is_redrawn_from_its_files(script, tmp_path, monkeypatch):
    for name in ("ANCHORED", "COMBINED"):
        monkeypatch.setattr(beyond, name, ("MNIST",))
    arguments = ["--profile", "smoke", "--processes", "1", "--into", str(tmp_path)]
    result = CliRunner().invoke(script.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    anchors, subsets = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("anchors", "subsets"))
    size = beyond.SIZES["smoke"]
    assert len(anchors) == len(size.counts) * size.draws * (2 * len(beyond.PROFILED) + len(beyond.MAPS))
    assert len(subsets) == 16 * 6
    assert subsets.groupby(["similarities", "k"]).features.first()["cosine + L2 + L1 + L∞"].loc[150] == 600
    assert "Smoke size" in (tmp_path / "banner.md").read_text(encoding="utf-8")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert CliRunner().invoke(script.app, [*arguments, "--redraw"]).exit_code == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {f"{n}.md" for n in script.TABLES} | {
        f"{n}.{e}" for n in script.STUDIES for e in ("csv", "png")
    }


def test_what_cannot_be_run_is_one_sentence(script, tmp_path):
    assert CliRunner().invoke(script.app, ["--profile", "huge", "--into", str(tmp_path)]).exit_code == 2
    result = CliRunner().invoke(script.app, ["--redraw", "--into", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1


def test_every_table_of_the_page_follows_from_its_csv(script):
    for name, (frame, table) in script.TABLES.items():
        made = table(pd.read_csv(PAGE / f"{frame}.csv")) + "\n"
        assert (PAGE / f"{name}.md").read_text(encoding="utf-8") == made, name


def test_the_published_study_is_whole():
    anchors, subsets = (pd.read_csv(PAGE / f"{name}.csv") for name in ("anchors", "subsets"))
    (profile,) = {*anchors.profile, *subsets.profile}
    size, models = beyond.SIZES[profile], min(beyond.MODELS, PROFILES[profile].seeds)
    cells = anchors.groupby(["row", "invariance", "metric", "k"]).draw.nunique()
    assert (cells == size.draws).all()
    kinds = 2 * len(beyond.PROFILED) + len(beyond.MAPS)
    assert cells.groupby("row").size().eq(kinds * len(size.counts)).all()
    assert set(anchors.row) == set(beyond.ANCHORED)
    assert subsets.groupby("row").size().eq(16 * models * (models - 1)).all()
    assert set(subsets.row) == set(beyond.COMBINED)
    assert anchors[["score", "null", "calibrated"]].notna().all(axis=None)
    assert subsets.score.notna().all()


def test_the_published_profiles_by_distance_agree_by_chance_when_read_by_cosine():
    """The reason why they are read by Pearson correlation: field experience, held by the published numbers."""
    anchors = pd.read_csv(PAGE / "anchors.csv")
    distances = anchors[anchors.invariance == "relative-euclidean"]
    nulls = distances.groupby("metric")["null"].mean()
    assert nulls["cosine"] > nulls["pearson"] + 0.2


def test_the_page_types_no_result_and_shows_every_file():
    page = (ROOT / "book" / "beyond.md").read_text(encoding="utf-8")
    shown = {line.split()[-1] for line in page.splitlines() if line.startswith("```{")}
    files = {f"beyond/{path.name}" for path in PAGE.iterdir() if path.suffix in (".md", ".png")}
    assert shown - {"full-width"} >= files
    assert not [
        word for word in page.split() if word.strip("().,").replace(".", "", 1).isdigit() and "." in word.strip("().,")
    ]
