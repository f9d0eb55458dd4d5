from types import SimpleNamespace

import datasets as hf
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from invariances import zoo
from invariances.errors import DataError, PretrainedError
from invariances.paper import plan
from invariances.paper.frames import save_table
from invariances.paper.settings import check
from invariances.paper.studies import cka_map, cka_tables, paired_inputs
from invariances.paper.studies.cka_spaces import Member, compare
from invariances.zoo import frozen

N = 200
TEXTS = ["BERT (2 × 48)", "RoBERTa (2 × 48)", "BERT (2 × 48), untrained", "RoBERTa (2 × 48), untrained"]


def biased_cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.square(x.T @ y).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def debiased_cka(x, y):
    """By the unbiased estimator of HSIC, written out with Gram matrices."""

    def hsic(k, m):
        n = len(k)
        k, m = (g - np.diag(np.diag(g)) for g in (k, m))
        terms = (k * m).sum(), k.sum() * m.sum() / ((n - 1) * (n - 2)), 2 * (k.sum(0) @ m.sum(1)) / (n - 2)
        return terms[0] + terms[1] - terms[2]

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def planted(shared, seeds=4, noise=1.0, modality="vision"):
    """Groups of models: each is its group's own structure, or that of all, and noise."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(N, 6))
    members = {}
    for kind in ("trained", "untrained"):
        for group in "AB":
            own = common if shared or kind == "untrained" else rng.normal(size=(N, 6))
            for i in range(seeds):
                space = own @ rng.normal(size=(6, 10)) + noise * rng.normal(size=(N, 10))
                members[f"{group} {i}" if kind == "trained" else f"{group}, untrained {i}"] = Member(
                    group, kind, modality, space
                )
    return members


def in_pairs(members, names_a, names_b, score):
    return [score(members[a].space, members[b].space) for a in names_a for b in names_b if a < b or names_a != names_b]


@pytest.fixture(scope="module")
def blocked():
    members = planted(shared=False)
    return members, compare("pictures", members, "planted")


def test_blocks_are_the_means_over_different_models(blocked):
    members, frame = blocked
    assert list(frame.columns) == cka_tables.COLUMNS
    assert len(frame) == 2 * 16 * 15 / 2
    table = cka_tables.blocks(frame).set_index("Block")
    assert list(table.index) == ["A", "B", "A and B"]
    trained = {name: member.group for name, member in members.items() if member.kind == "trained"}
    names = {group: [name for name in trained if trained[name] == group] for group in "AB"}
    for block, (a, b) in {"A": "AA", "B": "BB", "A and B": "AB"}.items():
        for form, score in (("Raw", biased_cka), ("Debiased", debiased_cka)):
            mean = np.mean(in_pairs(members, names[a], names[b], score))
            assert float(table[form][block].split()[0]) == pytest.approx(mean, abs=6e-4)
    for form, score in (("raw", biased_cka), ("debiased", debiased_cka)):
        within = np.mean([np.mean(in_pairs(members, names[g], names[g], score)) for g in "AB"])
        gap = within - np.mean(in_pairs(members, names["A"], names["B"], score))
        mean, low, _ = table[f"Within minus across, {form}"]["A and B"].replace("[", "").replace("]", "").split()
        assert float(mean) == pytest.approx(gap, abs=6e-4)
        assert float(low.rstrip(",")) > 0.3


def test_no_block_stands_out_where_all_groups_share_one_structure():
    frame = compare("pictures", planted(shared=True), "planted")
    pairs = frame[frame.metric == "cka_debiased"].pivot(index="model_a", columns="model_b", values="score")
    matrix = pairs.combine_first(pairs.T)
    a, b = ([f"{group} {i}" for i in range(4)] for group in "AB")
    gap = cka_tables.within_minus_across(matrix, a, b)
    assert gap.low < 0 < gap.high
    assert abs(gap.mean) < 0.1
    assert cka_tables.within_minus_across(matrix, a[:2], b) is None


def test_the_interval_of_within_minus_across_covers_its_truth():
    """Scores are a sum of effects of models, of which those within and across are different, and noise."""
    rng = np.random.default_rng(3)
    names = [f"{group}{i}" for group in "ab" for i in range(5)]
    group = np.repeat([0, 1], 5)
    same = group[:, None] == group[None, :]
    covered = []
    for _ in range(100):
        within, across = rng.normal(size=(2, 10, 1))
        noise = rng.normal(size=(10, 10)) / 2
        scores = np.where(same, 1 + within + within.T, across + across.T) + (noise + noise.T) / 2
        gap = cka_tables.within_minus_across(pd.DataFrame(scores, names, names), names[:5], names[5:])
        covered.append(gap.low <= 1 <= gap.high)
    assert 0.89 <= np.mean(covered) <= 1


def test_figure_and_table_are_drawn_again_from_the_csv(blocked, tmp_path):
    members, frame = blocked
    read = save_table(frame, "architecture_cka", tmp_path)
    assert cka_tables.blocks(read).equals(cka_tables.blocks(frame))
    figure = cka_tables.figure_pictures(read).figure
    assert not plt.get_fignums()
    for ax, score in zip(figure.axes, (biased_cka, debiased_cka), strict=False):
        assert [label.get_text() for label in ax.get_yticklabels()] == ["A", "B", "A, untrained", "B, untrained"]
        drawn = ax.collections[0].get_array().reshape(16, 16)
        assert np.ma.getmaskarray(drawn).diagonal().all()
        spaces = [member.space for member in members.values()]
        assert drawn[1, 6] == pytest.approx(score(spaces[1], spaces[6]), abs=1e-4)
        assert drawn[6, 1] == drawn[1, 6]


# The study's models ------------------------------------------------------------------------------


def random_models(recipes, device="cpu"):
    """In place of trained models: spaces of noise."""
    rng = np.random.default_rng(1)
    return {recipe: SimpleNamespace(spaces={"test": rng.normal(size=(N, 5))}) for recipe in dict.fromkeys(recipes)}


def study(**given):
    """What a notebook hands to the map at smoke size, of rows on the same pictures and one on texts."""
    settings = check("architecture", given)
    rows = plan.rows(settings)
    return rows, random_models(plan.recipes(rows)), settings


def test_one_recipe_under_two_names_is_drawn_once_and_stand_ins_have_no_pairs():
    rows, models, settings = study()
    found = cka_map.run(rows, models, settings)
    ends = [found.frame[[f"{name}_{end}" for name in ("model", "group", "kind")]] for end in "ab"]
    both = pd.concat([part.set_axis(["model", "group", "kind"], axis=1) for part in ends])
    networks = ["CNN-3", "CNN-5", "CNN-3 GELU", "ViT-Small (2 × 32)", "ViT-Base (2 × 48)"]
    counts = both.drop_duplicates().groupby(["group", "kind"]).size()
    assert counts.to_dict() == {(group, kind): 3 for group in networks for kind in ("trained", "untrained")}
    assert list(dict.fromkeys(found.frame.group_a)) == networks
    assert set(found.frame["map"]) == {"pictures"}
    (data,) = {recipe.dataset for recipe in plan.trained(rows)["ReLU vs GELU"].values()}
    assert set(found.frame.data) == {f"{data}, test split"}
    assert "stand-ins" in found.not_run["vision and language"]
    assert len(cka_tables.left_out(found.not_run)) == 2


def test_a_run_of_texts_alone_has_an_empty_frame_with_its_columns(tmp_path):
    found = cka_map.run(*study(datasets="trec"))
    assert list(save_table(found.frame, "architecture_cka", tmp_path).columns) == cka_tables.COLUMNS


def test_networks_that_read_texts_are_compared_among_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "train", random_models)
    cka_map.write_texts("smoke", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.csv", "texts.md", "texts.svg"]
    frame = pd.read_csv(tmp_path / "texts.csv")
    assert list(frame.columns) == cka_tables.COLUMNS
    assert set(frame["map"]) == {"texts"}
    assert {*frame.modality_a, *frame.modality_b} == {"language"}
    bert, roberta = TEXTS[:2]
    lines = (tmp_path / "texts.md").read_text().splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == [f"| {bert}", f"| {roberta}", f"| {bert} and {roberta}"]
    assert lines[0].endswith(f" | 3 | {frame.data[0]} |")
    assert lines[2].endswith(f" | 3 + 3 | {frame.data[0]} |")
    figure = cka_tables.figure_texts(frame).figure
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == TEXTS


def test_texts_whose_weights_are_missing_are_not_run_and_say_why(tmp_path, monkeypatch):
    def missing(settings):
        raise PretrainedError("the checkpoint x is missing")

    monkeypatch.setattr(plan, "rows", missing)
    cka_map.write_texts("full", tmp_path)
    assert (tmp_path / "texts.md").read_text() == "Not run: the checkpoint x is missing.\n"
    assert pd.read_csv(tmp_path / "texts.csv").empty
    assert ">not run</text>" in (tmp_path / "texts.svg").read_text()


# Vision and language -----------------------------------------------------------------------------


def write_pictures(folder, hub, splits):
    """Pictures whose brightness is their class, by split, in the schema of the hub's ImageNet."""
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=[f"thing {i}" for i in range(150)])})
    (folder / hub).mkdir(parents=True)
    for split, labels in splits.items():
        columns = {"image": [Image.new("L", (9, 7), int(label)) for label in labels], "label": labels}
        hf.Dataset.from_dict(columns, features).to_parquet(folder / hub / f"{split}-0.parquet")


@pytest.mark.parametrize("hub", [paired_inputs.ONE_PICTURE_EACH, "ILSVRC/imagenet-1k"])
def test_every_picture_stands_beside_the_names_of_its_class(tmp_path, monkeypatch, hub):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(20, 140), 2))
    write_pictures(tmp_path, hub, {"test": labels} | ({"train": labels[:5]} if "sample" not in hub else {}))
    monkeypatch.setenv("INVARIANCES_DATA", str(tmp_path))
    pictures, descriptions, where = paired_inputs.described_pictures("auto")
    squares = paired_inputs._squares(pictures, 4)
    assert squares.shape == (120, 3, 4, 4)
    assert descriptions == [f"thing {int(brightness)}" for brightness in squares[:, 0, 2, 2]]
    assert len(set(descriptions)) == 120
    assert "120 classes" in where


def test_pictures_of_few_classes_are_not_compared(tmp_path):
    write_pictures(tmp_path, "ILSVRC/imagenet-1k", {"train": [1, 2], "test": [1, 2, 2]})
    with pytest.raises(DataError, match="of 2 classes") as error:
        paired_inputs.described_pictures(str(tmp_path))
    assert "\n" not in str(error.value)


def test_models_that_cannot_be_had_are_listed(monkeypatch):
    def encoder(name, fresh=False):
        raise PretrainedError(f"the checkpoint {name} is missing")

    monkeypatch.setattr(frozen, "encoder", encoder)
    not_run = {}
    assert paired_inputs._pretrained_members([], [], "cpu", not_run) == {}
    ((names, reason),) = not_run.items()  # one sentence for all
    assert set(names.split(", ")) == {*paired_inputs.VISION, *paired_inputs.ENGLISH}
    assert "invariances data --pretrained" in reason
    assert list(cka_tables.left_out(not_run).columns) == ["Not run", "Reason"]


@pytest.fixture(scope="module")
def paired():
    rng = np.random.default_rng(5)
    common, mix = rng.normal(size=(N, 6)), rng.normal(size=(6, 12))
    noise = {name: rng.normal(size=(N, 12)) for name in "abcde"}
    members = {
        "reads classes": Member("reads classes", "trained", "vision", common @ mix + noise["a"]),
        "blind 0": Member("blind", "trained", "vision", noise["b"]),
        "blind 1": Member("blind", "trained", "vision", noise["b"] + noise["c"]),
        "text": Member("text", "trained", "language", common @ mix[:, ::-1] + noise["d"]),
        "text, untrained": Member("text", "untrained", "language", noise["e"]),
    }
    return members, compare("pictures and texts", members, "planted")


def test_only_what_shares_structure_is_above_chance(paired):
    members, frame = paired
    table = cka_tables.cross_modal(frame).set_index("Vision")
    assert list(table.index) == ["reads classes", "blind"]
    assert list(table["Above chance"]) == ["yes", "no"]
    assert list(table.Models) == [1, 2]
    seen, text = members["reads classes"].space, members["text"].space
    assert float(table.Debiased["reads classes"]) == pytest.approx(debiased_cka(seen, text), abs=6e-4)
    rng = np.random.default_rng(0)
    shuffled = np.mean([biased_cka(seen, text[rng.permutation(N)]) for _ in range(400)])
    assert float(table["Null, raw"]["reads classes"]) == pytest.approx(shuffled, abs=3e-3)
    bare = debiased_cka(seen, members["text, untrained"].space)
    assert float(table["Language model untrained"]["reads classes"]) == pytest.approx(bare, abs=6e-4)
    assert set(table["Vision model untrained"]) == {"-"}


def test_vision_and_language_are_drawn_by_groups_from_the_csv(paired, tmp_path):
    _, frame = paired
    read = save_table(frame, "architecture_cka", tmp_path)
    assert cka_tables.cross_modal(read).equals(cka_tables.cross_modal(frame))
    ax = cka_tables.figure_pretrained(read).figure.axes[1]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["reads classes", "blind", "text"]
    drawn = np.ma.filled(ax.collections[0].get_array().reshape(3, 3), np.nan)
    debiased = frame[frame.metric == "cka_debiased"].set_index(["model_a", "model_b"]).score
    assert drawn[1, 2] == pytest.approx(debiased.loc[["blind 0", "blind 1"], "text"].mean(), abs=1e-5)
    assert drawn[1, 1] == pytest.approx(debiased["blind 0", "blind 1"], abs=1e-5)
    assert np.isnan(drawn[0, 0])


def test_the_block_of_language_models_is_held_against_that_of_vision():
    rng = np.random.default_rng(6)
    shared = {modality: rng.normal(size=(N, 6)) for modality in ("vision", "language")}
    members = {
        f"{modality} {i}": Member(f"{modality} {i}", "trained", modality, basis @ rng.normal(size=(6, 12)))
        for modality, basis in shared.items()
        for i in range(3)
    }
    frame = compare("pictures and texts", members, "planted")
    table = cka_tables.by_modality(frame).set_index("Block")
    assert list(table.index) == ["vision", "language", "vision and language"]
    debiased = frame[frame.metric == "cka_debiased"]
    same = debiased.modality_a == debiased.modality_b
    for block, own in (("language", same & (debiased.modality_a == "language")), ("vision and language", ~same)):
        assert float(table.loc[block, "Debiased"].split()[0]) == pytest.approx(debiased[own].score.mean(), abs=6e-4)
    low = float(table.loc["vision and language", "Within minus across, debiased"].split("[")[1].split(",")[0])
    assert low > 0  # two bases that share nothing
    assert cka_tables.by_modality(frame[:0]).empty


def test_encoders_of_whole_texts_read_the_class_names_and_have_no_untrained_twin(monkeypatch):
    monkeypatch.setattr(paired_inputs, "VISION", ())
    monkeypatch.setattr(paired_inputs, "ENGLISH", ("stand-in-e5", "stand-in-use"))
    texts = ["a tench in a pond", "two goldfish", "a great white shark near the coast"]
    found = paired_inputs._pretrained_members([], texts, torch.device("cpu"), not_run := {})
    assert not_run == {}
    assert {name: member.kind for name, member in found.items()} == dict.fromkeys(
        ("stand-in-e5", "stand-in-use"), "trained"
    )
    short = paired_inputs._pretrained_members([], texts[:1], torch.device("cpu"), {})
    torch.testing.assert_close(found["stand-in-e5"].space[:1], short["stand-in-e5"].space)  # padding says nothing
