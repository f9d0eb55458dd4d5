"""The table and the figure on stitching, from planted scores of two groups with their controls."""

import pandas as pd
import pytest

from invariances import interval
from invariances.paper import figures, frames, stitched, tables
from invariances.paper.rows import FIVE_STARS, FROZEN_LANGUAGES

GROUPS = {"en 0": "en", "en 1": "en", "de 0": "de", "de 1": "de", "untrained en": "en", "untrained de": "de"}
ROW = FIVE_STARS
WITHIN, ACROSS = 0.8, {"none": 0.5, "shuffled anchors": 0.3, "untrained encoder": 0.2}


@pytest.fixture(scope="module")
def frame():
    """Every pair of one group scores higher than those of two, so that a table which mixes them shows it."""
    models, lines = [name for name in GROUPS if "untrained" not in name], []
    for space in ("absolute", "affine"):
        for b in models:
            lines.append((b, b, space, "self-stitch", 0.9))
            for a in GROUPS:
                kinds = ["untrained encoder"] if "untrained" in a else ["none", "shuffled anchors"] if a != b else []
                for control in kinds:
                    if not (space == "absolute" and control == "shuffled anchors"):
                        score = ACROSS[control] if GROUPS[a] != GROUPS[b] else WITHIN
                        lines.append((a, b, space, control, score))
    frame = pd.DataFrame(lines, columns=["model_a", "model_b", "invariance", "control", "score"])
    groups = {f"group_{end}": frame[f"model_{end}"].map(GROUPS) for end in "ab"}
    sizes = {"n_samples": frame.model_a.map(lambda a: 100 if "en" in a else 2_000), "n_anchors": 50, "data": "planted"}
    said = {"row": ROW, "metric": "f1", "ceiling": 1.0, "n_train": groups["group_a"].map({"en": 3_000, "de": 4_000})}
    return frame.assign(**said, **sizes, **groups, retention=frame.score)


def _intervals(frame):
    real = frame[frame.control == "none"]
    pairs = {key: frames.across_groups(part) for key, part in real.groupby(["row", "invariance"], sort=False)}
    return {key: interval(part, "score", frames.groups_of(part)) for key, part in pairs.items()}


def test_controls_are_read_on_the_pairs_that_are_scored(frame):
    table = tables.stitching(frame, _intervals(frame)).set_index(["Row", "Stitched"])
    affine, absolute = table.loc[ROW, "Affine"], table.loc[ROW, "Abs"]
    assert affine.Measured.startswith("50.00 ")
    assert (affine["Self-stitch"], affine["Shuffled anchors"], affine["Untrained encoder"]) == (
        "90.00",
        "30.00",
        "20.00",
    )
    assert affine.Calibrated == f"{(0.5 - 0.3) / (1 - 0.3):.2f}"
    # without anchors, the untrained encoder is the null
    assert (absolute["Shuffled anchors"], absolute["Untrained encoder"]) == ("-", "20.00")
    assert absolute.Calibrated == f"{(0.5 - 0.2) / (1 - 0.2):.2f}"


def test_the_figure_draws_the_same_controls(frame):
    (ax,) = figures.stitching(frame[frame.row == ROW]).figure.axes
    levels = {}
    for line in ax.lines:
        if len(line.get_xdata()):
            levels.setdefault(line.get_label(), []).append(float(line.get_xdata()[0]))
    assert levels["self-stitch"] == [0.9, 0.9]
    assert levels["shuffled anchors"] == [0.3]
    assert levels["untrained encoder"] == [0.2, 0.2]


def test_sizes_that_differ_between_languages_are_a_range(frame):
    data = tables.stitching(frame, _intervals(frame)).set_index(["Row", "Stitched"]).Data[ROW, "Affine"]
    assert data == "planted; 3,000 to 4,000 training samples, 50 anchors, 100 to 2,000 scored"


def test_groups_that_differ_make_a_correlation_that_is_gone_within_them():
    """Pairs of one group align and stitch better; nothing else relates the two."""
    names = {f"{group} {i}": group for group in "AB" for i in range(4)}
    pairs = pd.DataFrame([(a, b) for a in names for b in names if a != b], columns=["model_a", "model_b"])
    noise = pd.util.hash_pandas_object(pairs.model_a + pairs.model_b, index=False) / 2**64
    other = pd.util.hash_pandas_object(pairs.model_b + pairs.model_a, index=False) / 2**64
    same = pairs.model_a.map(names) == pairs.model_b.map(names)
    columns = {"group_a": pairs.model_a.map(names), "group_b": pairs.model_b.map(names), "row": "planted"}
    columns |= {"alignment_calibrated": same + 0.2 * noise, "retention": same + 0.2 * other}
    frame = pairs.assign(**columns, invariance="affine", control="none")
    (line,) = stitched.predictions(frame).itertuples()
    assert line.supports
    assert line.p < 0.05 < float(line.within)
    assert f"; p within groups: {line.within}" in line.evidence
    assert tables.prediction(frame)["p (within groups)"].tolist() == [line.within]
    related = frame.assign(retention=frame.alignment_calibrated)
    assert float(stitched.predictions(related).within.item()) < 0.05
    few = frame[frame.model_a.str.endswith(("0", "1")) & frame.model_b.str.endswith(("0", "1"))]
    assert stitched.predictions(few).within.item() == "too few models"
    alone = frame.assign(group_a="A", group_b="A")
    assert stitched.predictions(alone).evidence.item().count("within groups") == 0
    assert tables.prediction(alone)["p (within groups)"].tolist() == ["-"]


def test_a_row_of_two_encoders_names_its_controls_and_its_groups():
    models = [(language, encoder) for language in "xyz" for encoder in ("e", "u")]
    lines = [
        (f"{a} {e}", f"{b} {f}", a, b, e, f, "same encoder" if e == f else "same group" if a == b else "none")
        for a, e in models
        for b, f in models
        if (a, e) != (b, f)
    ]
    columns = ["model_a", "model_b", "group_a", "group_b", "encoder_a", "encoder_b", "control"]
    frame = pd.DataFrame(lines, columns=columns)
    score = frame.control.map({"none": 0.6, "same encoder": 0.8, "same group": 0.7})
    frame = frame.assign(row=FROZEN_LANGUAGES.name, invariance="affine", metric="f1", ceiling=1.0, n_anchors=50)
    frame = frame.assign(score=score, retention=score, n_train=9, n_samples=9, data="planted", profile="smoke")
    real = frames.over_groups(frame[frame.control == "none"])
    span = interval(real, "score")
    line = tables.stitching(frame, {(FROZEN_LANGUAGES.name, "affine"): span}).set_index(["Row", "Stitched"])
    line = line.loc[FROZEN_LANGUAGES.name, "Affine"]
    assert line.Measured.startswith("60.00 ")
    assert line.Models == "6 (3 groups, 2 encoders)"
    assert "same encoder: 80.00; same group: 70.00" in line.Note
    assert line["Reported stitched"] == "74.21 ± 0.45"


def test_a_banner_says_which_rows_were_run_when():
    plan = pd.DataFrame({"row": ["a", "b"], "data": ["d", "d"], "models": 3, "training samples": 9, "anchors": 5})
    plan = plan.assign(**{"test samples": 7, "date": ["2026-01-01", "2026-02-02"], "commit": "abc", "machine": "m"})
    said = tables.banner(plan, "laptop")
    assert "Run on 2026-01-01 by commit abc, m: a. Run on 2026-02-02 by commit abc, m: b." in said
    assert tables.banner(plan.assign(date="2026-01-01"), "laptop").endswith("commit abc, m.\n>\n> Data used: d.")
