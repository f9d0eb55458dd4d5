"""The study of retrieval: what is looked up, what counts, and what the book shows of it."""

import numpy as np
import pandas as pd
import pytest

from invariances import align
from invariances.paper.aligned import BY_RETRIEVAL
from invariances.paper.settings import check
from invariances.paper.studies import retrieval


@pytest.fixture(scope="module")
def found():
    """The row of texts of the section on architecture, at smoke size."""
    return retrieval.look_up(check("architecture", {"datasets": "trec"}))


def test_pairs_across_the_two_groups_are_looked_up_under_every_invariance_in_either_direction(found):
    assert set(found.row) == {"BERT vs RoBERTa"}
    assert set(found.kind) == {"trained", "untrained"}
    assert (found.group_a != found.group_b).all()
    assert not found.duplicated(["kind", "model_a", "model_b", "invariance"]).any()
    trained = found[found.kind == "trained"]
    assert trained.invariance.value_counts().to_dict() == dict.fromkeys(retrieval.COMPARED, 3 * 3 * 2)
    pairs = set(zip(trained.model_a, trained.model_b, strict=True))
    assert {(b, a) for a, b in pairs} == pairs


def test_nulls_are_those_of_a_guess_and_of_a_guess_within_classes(found):
    n = retrieval.SCORED["smoke"]
    assert set(found.gallery) == {n}
    np.testing.assert_allclose(found.null, np.sum(1 / np.arange(1, n + 1)) / n)
    good = found[(found.kind == "trained") & (found.invariance == "affine")]
    assert (good.null_within_class > good.null).all()  # a class is easier to find than a sample
    assert (good.score > good.null_within_class).all()


def test_the_table_and_the_figure_say_what_was_planted(tmp_path):
    frame = planted({"MNIST": {"relative": 0.9, "affine": 0.6}, "TREC": {"relative": 0.4, "affine": 0.7}})
    lines = retrieval.table(frame).set_index("Row")
    assert lines.Highest.to_dict() == {"MNIST": "relative", "TREC": "affine"}
    assert lines.loc["MNIST", "Relative"].startswith("0.90 [")
    assert lines.loc["MNIST", "Within classes"] == "0.50"
    retrieval.write_pages(frame, tmp_path)
    assert "| TREC |" in (tmp_path / "retrieval.md").read_text()
    assert (tmp_path / "retrieval.svg").stat().st_size > 10_000
    assert "Laptop size" in (tmp_path / "retrieval_banner.md").read_text()
    assert "2 rows" in retrieval.figure(frame).alt


def planted(rows, seeds=5):
    """A table of the study with planted calibrated scores."""
    rng = np.random.default_rng(0)
    facts = {"section": "initialization", "group_a": "A", "group_b": "A", "metric": BY_RETRIEVAL, "gallery": 500}
    facts |= {"data": "mnist", "source": "INVARIANCES_DATA", "profile": "laptop", "null": 0.0, "n_anchors": 500}
    lines = []
    for row, scores in rows.items():
        for name in retrieval.COMPARED:
            for kind in ("trained", "untrained"):
                for i in range(seeds):
                    for j in range(seeds):
                        score = scores.get(name, 0.1) + 0.001 * rng.normal()
                        pair = {"row": row, "kind": kind, "model_a": f"m{i}", "model_b": f"m{j}"}
                        if i != j:
                            lines.append(facts | pair | {"invariance": name, "score": score, "calibrated": score})
    return pd.DataFrame(lines).assign(null_within_class=0.5)


def test_a_rotated_copy_is_found_by_what_undoes_a_rotation_alone():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 16)) + 3
    spaces = {"x": x, "rotated": x @ np.linalg.qr(rng.normal(size=(16, 16)))[0]}
    found = align(spaces, 100, tuple(retrieval.COMPARED), (BY_RETRIEVAL,)).groupby("invariance").score.mean()
    undone = ["relative", "relative-centered", "affine", "orthogonal", "orthogonal+translation"]
    assert (found[undone] > 0.99).all()
    assert (found[["absolute", "scale"]] < 0.2).all()
