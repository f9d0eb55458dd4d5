"""Anchors redrawn: planted spaces with known answers, and the page's tables from its CSV."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from invariances.paper import tables
from invariances.paper.studies import anchors
from invariances.zoo import workers

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "book" / "beyond"
COUNTS = (5, 20, 60)
TABLES = {
    "banner": lambda frame: tables.banner(frame, frame.profile[0]),
    "counts": anchors.table_of_counts,
    "spread": anchors.table_of_spread,
    "findings_anchors": anchors.findings_on_anchors,
}


def _space(n=500, d=16, seed=0):
    """Codes without classes, whose distances would survive a rotation in L1, too."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(3 * rng.normal(size=d) + rng.normal(size=(n, d)))


def _rotation(d=16, seed=1):
    return torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).normal(size=(d, d))))[0]


def _calibrated(other):
    """By invariance, metric and number of anchors, for a space and what `other` makes of it."""
    x = _space()
    pool, test = {"x": x[:300], "other": other(x[:300])}, {"x": x[300:], "other": other(x[300:])}
    found = [anchors.align_by_draw(pool, test, k, draw) for k in COUNTS for draw in range(2)]
    return pd.concat(found).groupby(["invariance", "metric", "k"]).calibrated.agg(["min", "max"])


def test_a_rotation_is_nothing_to_cosine_and_l2_by_any_anchors_but_much_to_l1_and_linf():
    found = _calibrated(lambda x: x @ _rotation())
    for metric in ("cosine", "pearson"):
        for invariance in ("relative", "relative-centered", "relative-euclidean"):
            assert found.loc[invariance, metric]["min"].min() > 1 - 1e-6
        for invariance in ("relative-l1", "relative-linf"):
            assert found.loc[invariance, metric]["max"].max() < 0.97
    # 16 features: a rotation is fixed by 20 anchors, an affine map that is not shrunk by 20, too; not by 5
    assert found.loc["orthogonal", "cosine"]["min"].loc[20:].min() > 1 - 1e-6
    assert found.loc[anchors.PLAIN, "cosine"]["min"].loc[20:].min() > 1 - 1e-6
    assert found.loc["orthogonal", "cosine"]["max"].loc[5] < 0.9


def test_a_shift_is_nothing_to_distances_and_centred_cosine_but_much_to_cosine():
    found = _calibrated(lambda x: x + 4)
    for invariance in ("relative-centered", "relative-euclidean", "relative-l1", "relative-linf"):
        assert found.loc[invariance, "pearson"]["min"].min() > 1 - 1e-6
    assert found.loc["relative", "pearson"]["max"].max() < 0.97


def test_spaces_that_share_nothing_are_at_chance_by_any_number_of_anchors():
    x, unrelated = _space(), torch.from_numpy(np.random.default_rng(5).normal(size=(500, 16)))
    pool, test = {"x": x[:300], "other": unrelated[:300]}, {"x": x[300:], "other": unrelated[300:]}
    for k in COUNTS:
        assert anchors.align_by_draw(pool, test, k, 0).calibrated.abs().max() < 0.2


def test_an_unpenalised_map_dips_where_anchors_are_one_more_than_features_and_the_penalised_one_does_not():
    rng = np.random.default_rng(3)
    classes = 3 * rng.normal(size=(4, 32))
    x = torch.from_numpy(classes[rng.integers(4, size=500)] + rng.normal(size=(500, 32)))
    y = x @ _rotation(32) + torch.from_numpy(2 * rng.normal(size=x.shape))
    pool, test = {"x": x[:300], "y": y[:300]}, {"x": x[300:], "y": y[300:]}
    frame = pd.concat([anchors.align_by_draw(pool, test, k, draw) for k in (16, 33, 150) for draw in range(3)])
    means = frame.groupby(["invariance", "k"]).calibrated.mean()
    assert means[anchors.PLAIN, 33] < means[anchors.PLAIN, 16] - 0.1
    assert means["affine"].is_monotonic_increasing
    said = anchors.findings_on_anchors(frame.assign(profile="smoke", row="planted", n_pool=300))
    assert "affine map falls nowhere" in said
    ends = [f"{means[anchors.PLAIN, k]:z.2f} with {k}" for k in (16, 33)]
    assert (
        f"{anchors.NAMES[anchors.PLAIN]} falls, by more than the deviation over draws, on planted ({', '.join(ends)})"
        in said
    )


def test_all_models_have_the_same_anchors_and_every_draw_others():
    x = _space()
    pool, test = {"x": x[:300], "same": x[:300].clone()}, {"x": x[300:], "same": x[300:].clone()}
    found = anchors.align_by_draw(pool, test, 5, 0)  # 5 anchors fix no map, but equal profiles
    assert found[found.invariance.isin(anchors.PROFILED)].calibrated.min() > 1 - 1e-6
    other = {"x": x[300:], "same": x[300:] @ _rotation()}
    turned = {"x": x[:300], "same": x[:300] @ _rotation()}
    first, again, second = (anchors.align_by_draw(turned, other, 5, draw) for draw in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert (first.score - second.score).abs().max() > 1e-3


def test_a_row_of_few_codes_has_fewer_counts_and_the_findings_say_so():
    x = _space()
    y = x @ _rotation() + 0.5 * _space(seed=2)
    frames = []
    for row, n_pool in (("many", 300), ("few", 60)):
        pool, test = {"x": x[:n_pool], "y": y[:n_pool]}, {"x": x[300:], "y": y[300:]}
        for k in sorted({min(k, n_pool) for k in anchors.SIZES["smoke"].counts}):
            found = [anchors.align_by_draw(pool, test, k, draw) for draw in range(2)]
            frames.append(pd.concat(found).assign(profile="smoke", row=row, n_pool=n_pool))
    frame = pd.concat(frames)
    head, _, *lines = anchors.table_of_counts(frame).splitlines()
    assert head == "| Row | Compared by | 5 | 49 | 60 | 150 |"
    cells = {line.split(" | ")[0]: line.strip("| ").split(" | ")[2:] for line in lines}
    assert [cell == "-" for cell in cells["| many"]] == [False, False, True, False]
    assert [cell == "-" for cell in cells["| few"]] == [False, False, False, True]
    spread = anchors.table_of_spread(frame).splitlines()
    assert sum(line.startswith("| few |") for line in spread) == len(anchors.NAMES)
    said = anchors.findings_on_anchors(frame, ["- none was not run: why."])
    assert "At 150 or 60 anchors" in said
    assert "- few has only 60 stored codes to draw from. Where more anchors were planned (150), it has all 60" in said
    assert "many has only" not in said
    assert said.endswith("- none was not run: why.")


def test_the_smoke_study_runs_and_its_tables_follow_from_its_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(anchors, "ANCHORED", ("MNIST",))
    monkeypatch.setattr(workers, "cores", lambda: 1)  # no processes
    anchors.run("smoke", tmp_path / "new")
    frame = pd.read_csv(tmp_path / "new" / "anchors.csv")
    size = anchors.SIZES["smoke"]
    assert len(frame) == len(size.counts) * size.draws * (2 * len(anchors.PROFILED) + len(anchors.MAPS))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "new").glob("*.md")}
    assert texts == {name: table(frame).rstrip() + "\n" for name, table in TABLES.items()}
    assert "Smoke size" in texts["banner"]
    assert (tmp_path / "new" / "anchors.svg").is_file()


@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_the_page_follows_from_its_csv(name):
    made = TABLES[name](pd.read_csv(PAGE / "anchors.csv")).rstrip() + "\n"
    assert (PAGE / f"{name}.md").read_text(encoding="utf-8") == made


def test_the_published_study_is_whole():
    frame = pd.read_csv(PAGE / "anchors.csv")
    (profile,) = set(frame.profile)
    size = anchors.SIZES[profile]
    cells = frame.groupby(["row", "invariance", "metric", "k"]).draw.nunique()
    assert (cells == size.draws).all()
    kinds = 2 * len(anchors.PROFILED) + len(anchors.MAPS)
    assert cells.groupby("row").size().eq(kinds * len(size.counts)).all()
    assert set(frame.row) == set(anchors.ANCHORED)
    assert frame[["score", "null", "calibrated"]].notna().all(axis=None)


def test_the_published_profiles_by_distance_agree_by_chance_when_read_by_cosine():
    """The reason why they are read by Pearson correlation: field experience, held by the published numbers."""
    frame = pd.read_csv(PAGE / "anchors.csv")
    distances = frame[frame.invariance == "relative-euclidean"]
    nulls = distances.groupby("metric")["null"].mean()
    assert nulls["cosine"] > nulls["pearson"] + 0.2


def test_the_page_types_no_result_and_shows_every_file():
    names = ("structure", "texts", "anchors", "combinations")
    page = "\n".join((ROOT / "book" / f"{name}.md").read_text(encoding="utf-8") for name in names)
    shown = {line.split()[-1] for line in page.splitlines() if line.startswith("```{")}
    files = {f"beyond/{path.name}" for path in PAGE.iterdir() if path.suffix in (".md", ".svg")}
    assert shown - {"full-width"} >= files
    words = [word.strip("().,") for word in page.split()]
    assert not [word for word in words if "." in word and word.replace(".", "", 1).isdigit()]
