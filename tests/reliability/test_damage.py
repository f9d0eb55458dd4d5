"""Damage is found and repaired, and what runs side by side agrees."""

import random
import shutil

import pytest
from conftest import wait

from invariances.zoo import store
from invariances.zoo.contents import CONTENTS


@pytest.fixture
def trained(tmp_path, three_models):
    """A store of three models."""
    return shutil.copytree(three_models, tmp_path / "home")


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_in_every_artefact_is_said_and_repaired(start, trained, undisturbed, monkeypatch, seed):
    draw = random.Random(seed)
    artefacts = sorted(trained.glob("*/*.safetensors"))
    assert len(artefacts) == 4  # three models and their data
    before = {}
    for place in artefacts:
        for file in (place, place.with_suffix(".json")):
            before[file] = file.read_bytes()
        damaged = draw.choice([place, place.with_suffix(".json")])
        content = bytearray(before[damaged])
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        damaged.write_bytes(content)
    monkeypatch.setenv("INVARIANCES_HOME", str(trained))
    assert list(store.entries(True, CONTENTS)["state"]) == ["damaged"] * 4

    status, out, err = start(3).end()
    assert (status, out) == (0, undisturbed(3))
    assert all(f"{place} is damaged" in err for place in artefacts)
    assert list(store.entries(True, CONTENTS)["state"]) == ["whole"] * 4
    same = [place for place in before if place.read_bytes() == before[place]]
    assert same == list(before)


def test_two_runs_on_one_store_give_the_same_bits_and_train_each_model_once(start, undisturbed, tmp_path):
    runs = [start(10), start(10)]
    wait(lambda: runs[0].finished() >= 1)
    assert runs[0].finished() < 10
    assert [run.end() for run in runs] == [(0, undisturbed(10), "")] * 2
    saved = "".join(path.read_text() for path in tmp_path.glob("run */saved")).splitlines()
    assert len(saved) == len(set(saved)) == 11  # ten models and their data


def test_the_store_may_be_looked_at_while_a_run_works(start, undisturbed):
    run = start(10)
    wait(lambda: run.finished() >= 1)
    for arguments in (["--verify"], ["--prune"], ["--prune", "--all", "--dry-run"]):
        status, out, err = start(0, arguments=["store", *arguments]).end()
        assert (status, err) == (0, "")
        assert "MB" in out
    assert run.end() == (0, undisturbed(10), "")


def test_the_store_says_what_is_wrong_and_can_be_cleaned(start, trained):
    place = next(trained.glob("models/*.safetensors"))
    place.write_bytes(place.read_bytes()[:-1])
    (place.parent / f"{'0' * 20}.json.part").write_bytes(b"{")

    def command(*arguments):
        return start(0, arguments=["store", *arguments]).end()

    status, out, err = command("--verify")
    assert (status, out.count("whole"), out.count("damaged"), out.count("leftover")) == (1, 3, 1, 1)
    assert err.count("\n") == 1
    assert "1 of them are damaged" in err
    assert command("--all")[0] == 1
    status, out, err = command("--prune", "--verify", "--kind", "models")
    assert (status, err, out.count("damaged"), out.count("leftover")) == (0, "", 1, 1)
    status, out, err = command("--verify")
    assert (status, err, out.count("whole")) == (0, "", 3)
    status, out, err = command("--prune", "--all")
    assert (status, err) == (0, "")
    assert list(trained.glob("*/*")) == []
    assert command()[1].startswith("\n0 entries, 0.0 MB")
