from types import SimpleNamespace

import datasets as hf
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from invariances.errors import DataError, PretrainedError
from invariances.paper import atlas
from invariances.paper.atlas import Member
from invariances.paper.settings import check
from invariances.zoo import pretrained

N = 200
TEXTS = ["BERT", "BERT, untrained"]


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
    for group in ("A", "B", "A, untrained", "B, untrained"):
        own = common if shared or group.endswith("untrained") else rng.normal(size=(N, 6))
        for i in range(seeds):
            space = own @ rng.normal(size=(6, 10)) + noise * rng.normal(size=(N, 10))
            members[f"{group} {i}"] = Member(group, modality, space)
    return members


def in_pairs(members, names_a, names_b, score):
    return [score(members[a].space, members[b].space) for a in names_a for b in names_b if a < b or names_a != names_b]


@pytest.fixture(scope="module")
def blocked():
    members = planted(shared=False)
    return members, atlas.compare("zoo", members, "planted")


def test_blocks_are_the_means_over_different_models(blocked):
    members, frame = blocked
    assert list(frame.columns) == atlas.COLUMNS
    assert len(frame) == 2 * 16 * 15 / 2
    table = atlas.blocks(frame).set_index("Block")
    assert list(table.index) == ["A", "B", "A and B"]
    names = {group: [name for name, member in members.items() if member.group == group] for group in ("A", "B")}
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
    frame = atlas.compare("zoo", planted(shared=True), "planted")
    matrix = atlas._matrix(frame[frame.metric == "cka_debiased"])
    a, b = ([f"{group} {i}" for i in range(4)] for group in "AB")
    gap = atlas.within_minus_across(matrix, a, b)
    assert gap.low < 0 < gap.high
    assert abs(gap.mean) < 0.1
    assert atlas.within_minus_across(matrix, a[:2], b) is None


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
        gap = atlas.within_minus_across(pd.DataFrame(scores, names, names), names[:5], names[5:])
        covered.append(gap.low <= 1 <= gap.high)
    assert 0.89 <= np.mean(covered) <= 1


def test_figure_and_table_are_drawn_again_from_the_csv(blocked, tmp_path):
    members, frame = blocked
    path = atlas.Atlas(frame, {}).save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["architecture_cka.csv"]
    read = pd.read_csv(path)
    assert atlas.blocks(read).equals(atlas.blocks(frame))
    figure = atlas.figure_zoo(read)
    assert not plt.get_fignums()
    for ax, score in zip(figure.axes, (biased_cka, debiased_cka), strict=False):
        assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B", "A, untrained", "B, untrained"]
        drawn = ax.collections[0].get_array().reshape(16, 16)
        assert np.ma.getmaskarray(drawn).diagonal().all()
        spaces = [member.space for member in members.values()]
        assert drawn[1, 6] == pytest.approx(score(spaces[1], spaces[6]), abs=1e-4)
        assert drawn[6, 1] == drawn[1, 6]


# The study's models ------------------------------------------------------------------------------


def study(**given):
    """A study as sections.run leaves it, of two rows on the same pictures, one on texts."""
    rng = np.random.default_rng(1)

    def row(vocabulary, **networks):
        groups, models = [], {"models": {}, "untrained": {}}
        for label, network in networks.items():
            names = [f"{label} {i}" for i in range(3)]
            variant = SimpleNamespace(network=network, label=label)
            prepared = SimpleNamespace(vocabulary=vocabulary)
            groups.append(
                SimpleNamespace(
                    variant=variant, prepared=prepared, recipes=dict.fromkeys(names), untrained=dict.fromkeys(names)
                )
            )
            for kind in models:
                space = {"test": rng.normal(size=(N, 5))}
                models[kind] |= dict.fromkeys(
                    names, SimpleNamespace(recipe=SimpleNamespace(dataset="digits"), spaces=space)
                )
        return SimpleNamespace(planned=SimpleNamespace(groups=groups), **models)

    rows = {
        "ReLU vs GELU": row(0, ReLU="cnn-3", GELU="cnn-3-gelu"),
        "CNN-3 vs CNN-5": row(0, **{"CNN-3": "cnn-3", "CNN-5": "cnn-5"}),
        "BERT": row(50, BERT="bert"),
    }
    return SimpleNamespace(rows=rows, settings=check("architecture", given))


def test_one_recipe_under_two_names_is_drawn_once_and_stand_ins_have_no_pairs():
    found = atlas.run(study())
    groups = list(atlas._members(found.frame))
    assert groups == [g + e for e in ("", ", untrained") for g in ("CNN-3", "CNN-5", "CNN-3 GELU")]
    assert all(len(models) == 3 for models in atlas._members(found.frame).values())
    assert set(found.frame.atlas) == {"zoo"}
    assert set(found.frame.data) == {"digits, test split"}
    assert "stand-ins" in found.not_run["vision and language"]
    assert len(atlas.left_out(found.not_run)) == 2


def test_a_run_of_texts_alone_has_an_empty_frame_with_its_columns(tmp_path):
    texts = study(datasets="trec")
    texts.rows = {"BERT": texts.rows["BERT"]}
    assert list(pd.read_csv(atlas.run(texts).save(tmp_path)).columns) == atlas.COLUMNS


def test_networks_that_read_texts_are_compared_among_themselves(tmp_path, monkeypatch):
    run = study().rows["BERT"]
    monkeypatch.setattr(atlas.sections, "_trained", lambda planned, settings: planned[0].row.name)
    monkeypatch.setattr(atlas.sections, "_result", lambda planned, trained: {"BERT vs RoBERTa": run}[trained])
    atlas.write_texts("smoke", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.csv", "texts.md", "texts.png"]
    frame = pd.read_csv(tmp_path / "texts.csv")
    assert list(frame.columns) == atlas.COLUMNS
    assert set(frame.atlas) == {"zoo texts"}
    assert {*frame.modality_a, *frame.modality_b} == {"language"}
    (line,) = (tmp_path / "texts.md").read_text().splitlines()[2:]
    assert line.startswith("| BERT | ")
    assert line.endswith(" | 3 | digits, test split |")
    figure = atlas.figure_zoo(frame, "zoo texts")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == TEXTS


def test_texts_whose_weights_are_missing_are_not_run_and_say_why(tmp_path, monkeypatch):
    row = SimpleNamespace(row=SimpleNamespace(dataset="trec"), not_run="the checkpoint x is missing")
    monkeypatch.setattr(atlas.sections, "plan", lambda settings: [row])
    atlas.write_texts("full", tmp_path)
    assert (tmp_path / "texts.md").read_text() == "Not run: the checkpoint x is missing.\n"
    assert pd.read_csv(tmp_path / "texts.csv").empty
    assert Image.open(tmp_path / "texts.png").size == (1100, 110)


# Vision and language -----------------------------------------------------------------------------


def write_pictures(folder, hub, splits):
    """Pictures whose brightness is their class, by split, in the schema of the hub's ImageNet."""
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=[f"thing {i}" for i in range(150)])})
    (folder / hub).mkdir(parents=True)
    for split, labels in splits.items():
        columns = {"image": [Image.new("L", (9, 7), int(label)) for label in labels], "label": labels}
        hf.Dataset.from_dict(columns, features).to_parquet(folder / hub / f"{split}-0.parquet")


@pytest.mark.parametrize("hub", [atlas.ONE_EACH, "ILSVRC/imagenet-1k"])
def test_every_picture_stands_beside_the_names_of_its_class(tmp_path, monkeypatch, hub):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(20, 140), 2))
    write_pictures(tmp_path, hub, {"test": labels} | ({"train": labels[:5]} if "sample" not in hub else {}))
    monkeypatch.setenv("INVARIANCES_DATA", str(tmp_path))
    pictures, descriptions, where = atlas.described_pictures("auto")
    squares = atlas._squares(pictures, 4)
    assert squares.shape == (120, 3, 4, 4)
    assert descriptions == [f"thing {int(brightness)}" for brightness in squares[:, 0, 2, 2]]
    assert len(set(descriptions)) == 120
    assert "120 classes" in where


def test_pictures_of_few_classes_are_not_compared(tmp_path):
    write_pictures(tmp_path, "ILSVRC/imagenet-1k", {"train": [1, 2], "test": [1, 2, 2]})
    with pytest.raises(DataError, match="of 2 classes") as error:
        atlas.described_pictures(str(tmp_path))
    assert "\n" not in str(error.value)


def test_models_that_cannot_be_had_are_listed(monkeypatch):
    def encoder(name, fresh=False):
        raise PretrainedError(f"the checkpoint {name} is missing")

    monkeypatch.setattr(pretrained, "encoder", encoder)
    not_run = {}
    assert atlas._pretrained_members([], [], "cpu", not_run) == {}
    assert set(not_run) == set(pretrained.REGISTRY)
    assert not_run["resnet18"] == "the checkpoint resnet18 is missing"
    assert list(atlas.left_out(not_run).columns) == ["Not run", "Reason"]


@pytest.fixture(scope="module")
def paired():
    rng = np.random.default_rng(5)
    common, mix = rng.normal(size=(N, 6)), rng.normal(size=(6, 12))
    noise = {name: rng.normal(size=(N, 12)) for name in "abcde"}
    members = {
        "reads classes": Member("reads classes", "vision", common @ mix + noise["a"]),
        "blind 0": Member("blind", "vision", noise["b"]),
        "blind 1": Member("blind", "vision", noise["b"] + noise["c"]),
        "text": Member("text", "language", common @ mix[:, ::-1] + noise["d"]),
        "text, untrained": Member("text, untrained", "language", noise["e"]),
    }
    return members, atlas.compare("paired", members, "planted")


def test_only_what_shares_structure_is_above_chance(paired):
    members, frame = paired
    table = atlas.cross_modal(frame).set_index("Vision")
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
    read = pd.read_csv(atlas.Atlas(frame, {}).save(tmp_path))
    assert atlas.cross_modal(read).equals(atlas.cross_modal(frame))
    ax = atlas.figure_pretrained(read).axes[1]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["reads classes", "blind", "text"]
    drawn = np.ma.filled(ax.collections[0].get_array().reshape(3, 3), np.nan)
    debiased = frame[frame.metric == "cka_debiased"].set_index(["model_a", "model_b"]).score
    assert drawn[1, 2] == pytest.approx(debiased.loc[["blind 0", "blind 1"], "text"].mean(), abs=1e-5)
    assert drawn[1, 1] == pytest.approx(debiased["blind 0", "blind 1"], abs=1e-5)
    assert np.isnan(drawn[0, 0])
