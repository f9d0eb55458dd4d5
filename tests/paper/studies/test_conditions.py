import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from invariances.intervals import interval
from invariances.paper.rows import INVARIANCES
from invariances.paper.studies import conditions

ROW = "CIFAR-10: SGD vs Adam"


def _frame(level, groups=("SGD", "Adam"), seeds=4, noise=0.01, control=None, row=ROW):
    """A tidy table: `level` gives the calibrated score of a pair by the groups of its ends."""
    rng = np.random.default_rng(0)
    names = [(f"{group} {seed}", group) for group in groups for seed in range(seeds)]
    lines = []
    for invariance in INVARIANCES:
        for (a, group_a), (b, group_b) in combinations(names, 2):
            score = level(group_a, group_b) + noise * rng.normal()
            lines.append((row, a, b, group_a, group_b, invariance, score, score / 2, "trained"))
            if invariance == "affine":  # both directions, which differ
                lines.append((row, b, a, group_b, group_a, invariance, score + 0.1, score / 2, "trained"))
        lines += [(row, a, a, group, group, invariance, 1.0, 1.0, "self") for a, group in names]
        lines += [
            (row, f"{group} 0", f"{group} 1", group, group, invariance, -9.0, -9.0, "untrained") for group in groups
        ]
        if control is not None:
            ends = [f"{group} shared 0" for group in groups]
            lines.append((row, *ends, *groups, invariance, control, control, "same initialization"))
    columns = ["row", "model_a", "model_b", "group_a", "group_b", "invariance", "calibrated", "score", "kind"]
    return pd.DataFrame(lines, columns=columns).assign(section="training")


def _planted(a, b):
    return {("SGD", "SGD"): 0.9, ("Adam", "Adam"): 0.7}.get((a, b), 0.5)


def test_cells_are_the_planted_levels_and_their_difference():
    found = conditions.cells(_frame(_planted, noise=0, control=0.95)).set_index(["invariance", "kind"])
    for invariance in INVARIANCES:
        # the two directions of a fitted map differ by 0.1 and are averaged
        extra = 0.05 if invariance == "affine" else 0
        own = found.loc[invariance]
        assert own.calibrated[["across", "first", "second"]].tolist() == pytest.approx(
            [0.5 + extra, 0.9 + extra, 0.7 + extra]
        )
        assert own.difference["across"] == pytest.approx(0.5 - 0.8)
        assert own.calibrated["control"] == 0.95
        assert math.isnan(own.low["control"])
        assert own.score["first"] == pytest.approx(0.45)
        assert own.condition.to_dict() == {
            "across": "SGD and Adam",
            "first": "SGD",
            "second": "Adam",
            "control": "SGD and Adam",
        }


def test_intervals_are_over_models_by_brute_force():
    """Three models: the delete-one jackknife with a t of 2 degrees, written out; the longer tail may be stretched."""
    frame = _frame(_planted, seeds=3, noise=0.05)
    own = frame[(frame.invariance == "relative") & (frame.kind == "trained")]
    pairs = own[(own.group_a == "SGD") & (own.group_b == "SGD")]
    left_out = np.array(
        [
            pairs[(pairs.model_a != name) & (pairs.model_b != name)].calibrated.mean()
            for name in ("SGD 0", "SGD 1", "SGD 2")
        ]
    )
    half = student.ppf(0.975, 2) * math.sqrt(2 / 3 * np.square(left_out - left_out.mean()).sum())
    found = conditions.cells(frame).set_index(["invariance", "kind"]).loc["relative"]
    first = found.loc["first"]
    assert first.calibrated == pytest.approx(pairs.calibrated.mean())
    assert min(first.calibrated - first.low, first.high - first.calibrated) == pytest.approx(half)
    assert "3 models" in first.note
    ends = [[f"{group} {i}" for i in range(3)] for group in ("SGD", "Adam")]
    span = interval(own[own.group_a != own.group_b], "calibrated", ends)
    assert (found.low["across"], found.high["across"]) == (span.low, span.high)


def _brute_p(frame, invariance):
    """Every way to deal the models to two conditions, with plain loops over dictionaries."""
    own = frame[(frame.invariance == invariance) & (frame.kind == "trained")]
    scores = {}
    for a, b, score in zip(own.model_a, own.model_b, own.calibrated, strict=True):
        scores.setdefault(frozenset((a, b)), []).append(score)
    names = list(dict.fromkeys([*own.model_a, *own.model_b]))

    def gap(first):
        kinds = {0: [], 1: [], 2: []}
        for pair, values in scores.items():
            kinds[len(pair & first)].append(np.mean(values))
        return np.mean(kinds[1]) - (np.mean(kinds[2]) + np.mean(kinds[0])) / 2

    half = len(names) // 2
    gaps = [gap(frozenset(chosen)) for chosen in combinations(names, half)]
    return gap(frozenset(names[:half])), np.mean([other <= gaps[0] + 1e-12 for other in gaps])


@pytest.mark.parametrize("noise", [0.01, 0.5])
def test_p_is_the_share_of_all_relabellings(noise):
    frame = _frame(_planted, noise=noise)
    found = conditions.cells(frame).query("kind == 'across'").set_index("invariance")
    for invariance in INVARIANCES:
        difference, p = _brute_p(frame, invariance)
        assert found.difference[invariance] == pytest.approx(difference)
        assert found.p[invariance] == pytest.approx(p)
    if noise == 0.01:
        assert found.p["relative"] == pytest.approx(2 / 70)  # the given deal and its mirror image


def _p(frame):
    """What the table says of pairs across, under the relative invariance."""
    found = conditions.cells(frame)
    return found.p[(found.kind == "across") & (found.invariance == "relative")].item()


def test_relabelling_rejects_rarely_where_the_condition_does_not_matter():
    rng = np.random.default_rng(1)
    ps = []
    for _ in range(80):
        effects = {f"{group} {i}": rng.normal() for group in ("SGD", "Adam") for i in range(4)}
        frame = _frame(lambda a, b: 0.0)
        frame = frame[frame.invariance == "relative"].copy()
        frame["calibrated"] = frame.model_a.map(effects) + frame.model_b.map(effects) + rng.normal(size=len(frame))
        ps.append(_p(frame))
    assert 0.01 <= np.mean(np.array(ps) <= 0.1) <= 0.2
    assert 0.4 < np.mean(ps) < 0.65


def test_more_models_than_can_all_be_dealt_are_drawn():
    assert _p(_frame(_planted, seeds=11)) == pytest.approx(1 / 10_000)


def test_rows_of_one_group_or_three_are_left_out():
    one = _frame(lambda a, b: 0.5, groups=("CNN-3",), row="one")
    three = _frame(lambda a, b: 0.5, groups=("A", "B", "C"), row="three")
    found = conditions.cells(pd.concat([one, three, _frame(_planted)]))
    assert set(found.row) == {ROW}


def test_table_and_figure_follow_from_the_csv(tmp_path):
    frame = _frame(_planted, control=0.95)
    frame.to_csv(tmp_path / "training.csv", index=False)
    again = pd.read_csv(tmp_path / "training.csv")
    table = conditions.table(frame)
    pd.testing.assert_frame_equal(table, conditions.table(again))
    assert table.Invariance.tolist() == list(INVARIANCES.values())
    line = table.set_index("Invariance").loc["Rotation Inv (Rel)"]
    assert line["Within the first"].startswith("0.90 [0.8")
    assert line["Across minus within"] == "-0.30"
    assert line["Control: same initial weights"] == "0.95"
    assert line["Models"] == "4 + 4"
    (ax,) = conditions.figure(again).figure.axes
    assert ax.get_title() == ROW
    marks = {line.get_label(): line for line in ax.lines}
    assert marks["control: one pair across, same initial weights"].get_ydata() == pytest.approx([0.95] * 4)
    drawn = np.concatenate([x.get_ydata() for x in ax.lines if x.get_label() == "pairs within the first condition"])
    within = frame[(frame.kind == "trained") & (frame.group_a == "SGD") & (frame.group_b == "SGD")]
    assert sorted(drawn) == pytest.approx(sorted(within.calibrated))


def test_two_models_have_no_interval_and_no_calibration_no_number():
    frame = _frame(_planted, seeds=2)
    frame.loc[frame.invariance == "absolute", "calibrated"] = np.nan
    table = conditions.table(frame).set_index("Invariance")
    assert table["Within the first"]["Rotation Inv (Rel)"] in ("0.88", "0.89", "0.90", "0.91", "0.92")  # no bounds
    assert "no interval from two models" in table.Note["Rotation Inv (Rel)"]
    assert table["Across"]["Raw (Abs)"] == "-"
    assert "a score has no calibration" in table.Note["Raw (Abs)"]
    assert table["p, relabelled"]["Raw (Abs)"] == "-"
