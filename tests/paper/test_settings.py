import subprocess
import sys

import pytest

from invariances.errors import ParameterError
from invariances.paper.profiles import PROFILES
from invariances.paper.settings import METRICS, check, read

NAMES = ("profile", "datasets", "seeds", "anchors", "epochs", "samples", "metric", "device", "data")
PAPER_NAMES = {
    "initialization": ["mnist", "fashion-mnist", "cifar-10", "cifar-100", "trec", "dbpedia"],
    "architecture": ["cifar-10", "trec"],
    "training": ["cifar-10", "cifar-100", "imagenet", "amazon"],
    "stitching": ["mnist", "cifar-10", "trec", "dbpedia", "amazon"],
}


def message_of(given, section="initialization"):
    with pytest.raises(ParameterError) as caught:
        check(section, given)
    message = str(caught.value)
    assert "\n" not in message
    return message


def notebook(*cells, **variables):
    """A notebook's globals as IPython has them, after these cells."""
    return {"In": ["", *cells], "__name__": "__main__", "some_variable": 1, **variables}


# Names -----------------------------------------------------------------------------------------


def test_a_misspelt_name_that_papermill_put_in_is_refused_with_the_choices():
    cells = ('profile: str = "smoke"\nseeds = None', "# Parameters\nsedes = 3\n")
    with pytest.raises(ParameterError) as caught:
        read("initialization", notebook(*cells, profile="smoke", seeds=None, sedes=3))
    message = str(caught.value)
    assert "\n" not in message
    assert "sedes" in message
    for name in NAMES:
        assert name in message
    assert "section" not in message  # the notebook's own, not the reader's


def test_every_misspelt_name_is_named():
    with pytest.raises(ParameterError, match="sedes, epoch;"):
        read("training", notebook("# Parameters\nsedes = 3\nseeds = 3\nepoch = 4\n", seeds=3))


def test_known_names_that_papermill_put_in_are_taken():
    settings = read("training", notebook("# Parameters\nseeds = 4\nprofile = 'laptop'\n", seeds=4, profile="laptop"))
    assert (settings.seeds, settings.profile) == (4, "laptop")


def test_other_variables_of_a_notebook_are_no_parameters():
    assert read("training", notebook("anything = 3", seeds=3)).seeds == 3
    assert read("training", {}) == check("training", {})


def test_an_extra_parameter_is_refused_with_the_choices():
    message = message_of({"sedes": 3})
    assert "unknown parameter sedes" in message
    for name in NAMES:
        assert name in message


def test_an_unknown_section_is_refused_with_the_choices():
    message = message_of({}, "conclusion")
    assert "'conclusion'" in message
    for section in PAPER_NAMES:
        assert section in message


# Values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["seeds", "anchors", "epochs", "samples"])
@pytest.mark.parametrize("value", ["many", "3", True, False, 2.5, 3.0, -1, [3], float("nan")], ids=repr)
def test_a_number_that_is_none_is_refused(name, value):
    message = message_of({name: value})
    assert message.startswith(f"parameter {name} is {value!r}; give a whole number of at least")


@pytest.mark.parametrize(("name", "least"), [("seeds", 2), ("anchors", 2), ("epochs", 0), ("samples", 20)])
def test_numbers_have_a_least_value(name, least):
    assert getattr(check("training", {name: least}), name) == least
    assert message_of({name: least - 1}).endswith(f"at least {least}")


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("profile", "huge", ("smoke", "laptop", "full")),
        ("profile", None, ("smoke", "laptop", "full")),
        ("profile", "Laptop", ("smoke", "laptop", "full")),
        ("metric", "euclid", ("cosine", "cka", "cka_debiased", "procrustes")),
        ("metric", 3, ("cosine", "cka", "cka_debiased", "procrustes")),
        ("device", "gpu", ("auto", "cpu", "cuda")),
        ("device", "", ("auto", "cpu", "cuda")),
        ("data", 5, ("auto", "builtin", "folder")),
        ("datasets", ["mnist"], ("comma list",)),
    ],
)
def test_a_choice_that_is_none_is_refused_with_the_choices(name, value, choices):
    message = message_of({name: value})
    assert message.startswith(f"parameter {name} is {value!r}; give ")
    for choice in choices:
        assert choice in message


@pytest.mark.parametrize(
    "given",
    [{"profile": "a\nb"}, {"datasets": "mnist,\ncifer"}, {"data": 3, "seeds": "a\nb"}, {"metric": "x" * 500 + "\n"}],
    ids=["profile", "datasets", "two", "long"],
)
def test_line_breaks_stay_out_of_messages(given):
    message_of(given)


# Data sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", PAPER_NAMES)
def test_no_choice_is_every_data_set_of_the_section(section):
    assert check(section, {}).chosen_datasets == PAPER_NAMES[section]
    assert check(section, {"datasets": None}).chosen_datasets == PAPER_NAMES[section]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ("MNIST, cifar10", ["mnist", "cifar-10"]),
        ("cifar_10", ["cifar-10"]),
        ("CIFAR-100,CIFAR-10", ["cifar-100", "cifar-10"]),
        (" Fashion MNIST ,, DBpedia,", ["fashion-mnist", "dbpedia"]),
    ],
)
def test_data_sets_are_taken_however_they_are_written(given, chosen):
    assert check("initialization", {"datasets": given}).chosen_datasets == chosen


@pytest.mark.parametrize(
    ("section", "given", "said"),
    [
        ("initialization", "mnits", "'mnits'"),
        ("initialization", "mnist,cifar-11", "'cifar-11'"),
        ("initialization", "", "an empty list"),
        ("initialization", " , ", "an empty list"),
        ("architecture", "mnist", "'mnist'"),
        ("stitching", "amazon-en", "'amazon-en'"),
    ],
)
def test_unknown_data_sets_are_named_with_the_section_s_choices(section, given, said):
    message = message_of({"datasets": given}, section)
    assert said in message
    assert message.endswith(f"in {section}; choose from {', '.join(PAPER_NAMES[section])}")
    assert "'cifar-10'" not in message


# Defaults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smoke", "laptop", "full"])
@pytest.mark.parametrize("name", ["seeds", "anchors", "epochs", "data"])
def test_none_means_the_profile_s_value(profile, name):
    for given in ({}, {name: None}):
        settings = check("stitching", {"profile": profile, **given})
        assert getattr(settings, name) is None
        assert settings.value(name) == getattr(PROFILES[profile], name)


@pytest.mark.parametrize(("name", "value"), [("seeds", 7), ("anchors", 33), ("epochs", 0), ("data", "somewhere")])
def test_a_value_given_wins_over_the_profile_s(name, value):
    assert check("stitching", {"profile": "laptop", name: value}).value(name) == value


def test_the_smoke_profile_is_the_default_and_uses_the_stand_ins():
    settings = check("training", {})
    assert settings.profile == "smoke"
    assert settings.value("data") == "builtin"
    assert (settings.metric, settings.device) == ("cosine", "auto")
    assert settings.sizes.seeds == 3


def test_settings_do_not_change():
    settings = check("training", {"seeds": 3})
    with pytest.raises(ValueError, match="frozen"):
        settings.seeds = 4
    assert settings.seeds == 3


# Speed -----------------------------------------------------------------------------------------


def test_parameters_are_checked_without_torch():
    code = (
        "import sys, invariances.paper.settings as p; p.check('stitching', {'seeds': 2});"
        "print([m for m in ('torch', 'transformers', 'datasets', 'sklearn', 'distributed') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    assert result.stdout.strip() == "[]"


def test_the_metrics_are_the_method_s():
    from invariances.metrics import table

    assert tuple(table.METRICS) == METRICS


def test_the_section_is_no_parameter():
    with pytest.raises(ParameterError, match="unknown parameter section; choose from anchors"):
        check("initialization", {"section": "x"})
