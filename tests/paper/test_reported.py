import re
from dataclasses import fields

import pytest

from invariances.paper import reported
from invariances.paper.profiles import PROFILES, Profile
from invariances.paper.reported import ALIGNMENT, STITCHING, Reported
from invariances.paper.rows import FIVE_STARS, INVARIANCES, ROWS, TITLES, dataset_names
from invariances.zoo.datasets import REGISTRY, source_named
from invariances.zoo.recipes import Network, Training

# Copied by hand from the paper's project page, line by line; names as this project writes them.
PAGE = {
    "initialization": """
        MNIST: 0.23 ± 0.12 0.45 ± 0.08 0.94 ± 0.02 0.91 ± 0.03
        CIFAR-10: 0.18 ± 0.15 0.38 ± 0.11 0.89 ± 0.04 0.86 ± 0.05
        CIFAR-100: 0.16 ± 0.18 0.35 ± 0.13 0.84 ± 0.06 0.82 ± 0.07
        TREC: 0.31 ± 0.14 0.52 ± 0.09 0.91 ± 0.03 0.88 ± 0.04
        DBpedia: 0.28 ± 0.16 0.49 ± 0.10 0.93 ± 0.02 0.90 ± 0.03
    """,
    "architecture": """
        CNN-3 vs CNN-5: 0.41 ± 0.11 0.58 ± 0.08 0.76 ± 0.06 0.79 ± 0.05
        ReLU vs GELU: 0.38 ± 0.13 0.56 ± 0.09 0.72 ± 0.07 0.77 ± 0.06
        ViT-Small vs ViT-Base: 0.44 ± 0.10 0.61 ± 0.07 0.79 ± 0.05 0.82 ± 0.04
        BERT vs RoBERTa: 0.52 ± 0.09 0.67 ± 0.06 0.81 ± 0.05 0.85 ± 0.04
    """,
    "training": """
        CIFAR-10: SGD vs Adam: 0.47 ± 0.12 0.64 ± 0.09 0.83 ± 0.05 0.81 ± 0.06
        CIFAR-100: LR 0.001 vs 0.01: 0.51 ± 0.11 0.68 ± 0.08 0.86 ± 0.04 0.84 ± 0.05
        ImageNet: Aug Light vs Heavy: 0.39 ± 0.14 0.57 ± 0.10 0.71 ± 0.08 0.75 ± 0.07
        Amazon Reviews: Batch 32 vs 128: 0.54 ± 0.10 0.71 ± 0.07 0.88 ± 0.04 0.86 ± 0.05
    """,
    "stitching": """
        MNIST: 0.66 ± 0.02 97.79 ± 2.48 2.83 ± 0.20 3.12 ± 0.25
        CIFAR-10: 1.94 ± 0.08 86.74 ± 4.37 5.39 ± 1.18 6.01 ± 1.32
        TREC: 91.70 ± 1.39 21.49 ± 3.64 75.89 ± 5.38 72.31 ± 6.12
        Amazon (Cross-lingual): 91.54 ± 0.58 43.67 ± 1.09 78.53 ± 0.30 74.21 ± 0.45
    """,
}
COLUMNS = {section: ["absolute", "scale", "relative", "affine"] for section in PAGE}
COLUMNS["stitching"] = ["ceiling", "absolute", "relative", "affine"]
PICTURES = ("MNIST", "Fashion-MNIST", "CIFAR-10", "CIFAR-100")
NOT_REPORTED = {
    "initialization": {"Fashion-MNIST", *(f"{name}, reconstruction" for name in PICTURES)},
    "stitching": {"MNIST, classification", "CIFAR-10, classification", "DBpedia, pretrained encoders", FIVE_STARS},
}
VARIANTS = [(section, row, variant) for section, rows in ROWS.items() for row in rows for variant in row.variants]
VARIANT_IDS = [f"{section}: {row.name}: {variant.label}" for section, row, variant in VARIANTS]


def tables():
    return {**ALIGNMENT, "stitching": STITCHING}


def page_rows(section):
    for line in PAGE[section].strip().splitlines():
        name, numbers = re.fullmatch(r"\s*(.+): ((?:[\d.]+ ± [\d.]+ ?){4})", line).groups()
        yield name, [(float(mean), float(spread)) for mean, spread in re.findall(r"([\d.]+) ± ([\d.]+)", numbers)]


@pytest.mark.parametrize("section", PAGE)
def test_every_reported_number_is_the_page_s(section):
    expected = {name: dict(zip(COLUMNS[section], cells, strict=True)) for name, cells in page_rows(section)}
    assert len(expected) in (4, 5)
    assert tables()[section] == expected


def test_there_is_no_table_that_the_page_lacks():
    assert set(tables()) == set(PAGE) == set(ROWS)


@pytest.mark.parametrize("section", PAGE)
def test_the_rows_are_the_page_s_rows_in_its_order(section):
    rows = ROWS[section]
    assert len({row.name for row in rows}) == len(rows)
    assert {row.name for row in rows if row.beside not in tables()[section]} == NOT_REPORTED.get(section, set())
    beside = [row.beside for row in rows if row.beside in tables()[section]]
    assert list(dict.fromkeys(beside)) == list(tables()[section])


def test_a_frozen_row_stands_beside_the_number_of_its_source_and_one_from_scratch_beside_none():
    (coarse,) = (row for row in ROWS["stitching"] if row.crosses_encoders)
    assert reported.stitching_beside(coarse.name) == STITCHING["Amazon (Cross-lingual)"]
    assert reported.stitching_beside(FIVE_STARS) == {}
    assert reported.stitching_beside("TREC, pretrained encoders") == reported.stitching_beside("TREC")


def test_the_columns_are_the_method_s_invariances():
    for section in ALIGNMENT:
        assert COLUMNS[section] == list(INVARIANCES)


def test_a_cell_prints_as_the_page_has_it():
    assert str(Reported(0.9, 0.1)) == "0.90 ± 0.10"
    assert str(reported.STITCHING["MNIST"]["absolute"]) == "97.79 ± 2.48"


def test_sections_have_titles():
    assert set(TITLES) == set(ROWS)


# Variants --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("section", "row", "variant"), VARIANTS, ids=VARIANT_IDS)
def test_every_variant_can_be_made_in_every_profile(section, row, variant):
    kind = source_named(variant.dataset).kind
    changes = dict(variant.training)
    for profile in PROFILES.values():
        if variant.frozen:
            assert len(profile.checkpoints[variant.network]) >= 2
            continue
        network = Network(**profile.networks[variant.network])
        assert (network.family in ("bert", "roberta")) == (kind == "text")
        Training(**{"epochs": 1, **changes})
        if variant.task == "reconstruction":
            assert network.family == "cnn"


@pytest.mark.parametrize(("section", "row", "variant"), VARIANTS, ids=VARIANT_IDS)
def test_every_variant_s_data_set_is_in_the_registry_under_its_row_s_name(section, row, variant):
    assert variant.dataset in REGISTRY
    assert row.dataset in dataset_names(section)
    assert variant.dataset == row.dataset or variant.dataset.startswith(f"{row.dataset}-")


@pytest.mark.parametrize("section", ROWS)
def test_variants_of_a_row_differ_and_are_told_apart(section):
    for row in ROWS[section]:
        assert len({variant.label for variant in row.variants}) == len(row.variants)
        assert len({variant._replace(label="") for variant in row.variants}) == len(row.variants)


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("CIFAR-10: SGD vs Adam", "optimizer", ["sgd", "adam"]),
        ("CIFAR-100: LR 0.001 vs 0.01", "lr", [0.001, 0.01]),
        ("ImageNet: Aug Light vs Heavy", "augmentation", ["light", "heavy"]),
        ("Amazon Reviews: Batch 32 vs 128", "batch_size", [32, 128]),
    ],
)
def test_training_variants_are_what_their_names_say(name, field, values):
    (row,) = (row for row in ROWS["training"] if row.name == name)
    assert [getattr(Training(1, **dict(variant.training)), field) for variant in row.variants] == values


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("CNN-3 vs CNN-5", "depth", [3, 5]),
        ("ReLU vs GELU", "activation", ["relu", "gelu"]),
        ("BERT vs RoBERTa", "family", ["bert", "roberta"]),
    ],
)
@pytest.mark.parametrize("profile", PROFILES)
def test_architecture_variants_are_what_their_names_say_and_equal_otherwise(profile, name, field, values):
    (row,) = (row for row in ROWS["architecture"] if row.name == name)
    first, second = (Network(**PROFILES[profile].networks[variant.network]) for variant in row.variants)
    assert [getattr(first, field), getattr(second, field)] == values
    assert [f.name for f in fields(Network) if getattr(first, f.name) != getattr(second, f.name)] == [field]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_small_vit_is_smaller_than_the_base(profile):
    small, base = (PROFILES[profile].networks[name] for name in ("vit-small", "vit-base"))
    assert (small["dim"], small["depth"]) < (base["dim"], base["depth"])


def test_cross_lingual_stitching_has_the_three_languages():
    (row,) = (row for row in ROWS["stitching"] if row.name == FIVE_STARS)
    assert [variant.dataset for variant in row.variants] == ["amazon-en", "amazon-de", "amazon-fr"]


@pytest.mark.parametrize("profile", PROFILES)
def test_pictures_can_be_halved_three_times_and_cut_into_patches(profile):
    sizes: Profile = PROFILES[profile]
    for pixels in (sizes.pixels, sizes.pixels_imagenet):
        assert pixels % 8 == 0
    for name in ("vit-small", "vit-base"):
        assert sizes.pixels % sizes.networks[name]["patch"] == 0


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_say_how_everything_is_trained(profile):
    sizes = PROFILES[profile]
    assert sizes.name == profile
    for said in (sizes.epochs, sizes.batch_size, sizes.lr):
        kinds = {"cnn", "vit", "autoencoder", "text", "tuned", "head"}
        assert set(said) == kinds | ({"masked"} if said is sizes.epochs else set())
    for said in (sizes.length, sizes.n_train):
        assert "" in said
        assert set(said) - {""} <= set(REGISTRY)
    assert set(sizes.augmentation) <= set(REGISTRY)
