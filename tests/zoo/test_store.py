import ast
import errno
import json
import logging
import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import invariances
from invariances.zoo import store
from invariances.zoo.store import Artefact, StoreError

DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def artefact(value=0.0):
    return Artefact(
        {"x": np.full((2, 3), float(value)), "y": np.arange(4)}, {"scores": {"mse": 0.5}, "names": ["a", "ü"]}
    )


def same(first, second):
    assert first.note == second.note
    assert set(first.arrays) == set(second.arrays)
    for name, array in first.arrays.items():
        assert array.dtype == second.arrays[name].dtype
        np.testing.assert_array_equal(array, second.arrays[name])


def files(home):
    return sorted(path.name for path in home.rglob("*") if path.is_file() and path.suffix != ".lock")


# Round trips -----------------------------------------------------------------------------------


@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_dims=3, min_side=0, max_side=4))
    ),
    turned=st.booleans(),
)
def test_any_array_comes_back_bit_by_bit(array, turned):
    given_array = array.T[::-1] if turned else array  # neither contiguous nor in C order
    store.save("models", "any", Artefact({"array": given_array}, {}))
    back = store.load("models", "any").arrays["array"]
    assert (back.dtype, back.shape) == (given_array.dtype, given_array.shape)
    assert back.tobytes() == given_array.tobytes()


@pytest.mark.parametrize("number", [np.int64(2**62), np.float32(0.1), np.uint8(255)])
def test_single_numbers_keep_value_and_type(number):
    store.save("models", "one", Artefact({"n": np.array(number)}, {}))
    back = store.load("models", "one").arrays["n"]
    assert (back.dtype, back.shape) == (number.dtype, ())
    assert back.item() == number.item()


def test_an_artefact_comes_back_with_its_note():
    store.save("models", "k", artefact())
    assert store.has("models", "k")
    same(store.load("models", "k"), artefact())


def test_what_is_not_there_is_none():
    assert store.load("models", "k") is None
    assert not store.has("models", "k")


def test_kinds_are_apart():
    store.save("models", "k", artefact())
    assert not store.has("arrays", "k")
    assert store.load("arrays", "k") is None


def test_saving_again_replaces():
    store.save("models", "k", artefact(0.0))
    store.save("models", "k", artefact(1.0))
    same(store.load("models", "k"), artefact(1.0))


def test_an_artefact_is_two_files_and_nothing_half_written(home):
    store.fetch("models", "k", artefact)
    assert files(home) == ["k.json", "k.safetensors"]


def test_a_half_written_file_of_a_killed_process_is_not_an_artefact_and_goes_away(home):
    folder = home / "models"
    folder.mkdir(parents=True)
    (folder / "k.safetensors.part").write_bytes(b"half")
    (folder / "k.json.part").write_bytes(b"{")
    assert store.load("models", "k") is None
    same(store.fetch("models", "k", artefact), artefact())
    assert files(home) == ["k.json", "k.safetensors"]


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
def test_one_file_of_two_is_not_an_artefact(ending):
    store.save("models", "k", artefact())
    store.path("models", "k").with_suffix(ending).unlink()
    assert not store.has("models", "k")
    assert store.load("models", "k") is None


# Damage ----------------------------------------------------------------------------------------


def flipped(content, position):
    damaged = bytearray(content)
    damaged[position] ^= 1
    return bytes(damaged)


DAMAGE = {
    "a bit of the length": (".safetensors", lambda content: flipped(content, 0)),
    "a bit of the header": (".safetensors", lambda content: flipped(content, 20)),
    "a bit of the numbers": (".safetensors", lambda content: flipped(content, -1)),
    "half the arrays": (".safetensors", lambda content: content[: len(content) // 2]),
    "no arrays": (".safetensors", lambda content: b""),
    "half the note": (".json", lambda content: content[: len(content) // 2]),
    "an empty note": (".json", lambda content: b""),
    "a note that is no text": (".json", lambda content: b"\xff\xfe\x00"),
    "a note of another form": (".json", lambda content: b"[1, 2]"),
    "a note without a checksum": (".json", lambda content: b'{"note": {}}'),
    "a note without its note": (
        ".json",
        lambda content: json.dumps({"sha256": json.loads(content)["sha256"]}).encode(),
    ),
}


@pytest.mark.parametrize(("ending", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_reported_and_made_again(caplog, ending, damage):
    store.save("models", "k", artefact())
    place = store.path("models", "k").with_suffix(ending)
    content = place.read_bytes()
    place.write_bytes(damage(content))
    assert place.read_bytes() != content
    with caplog.at_level(logging.WARNING):
        assert store.load("models", "k") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(store.path("models", "k")) in caplog.text
    assert "damaged" in caplog.text

    made = []
    same(store.fetch("models", "k", lambda: made.append(1) or artefact(2.0)), artefact(2.0))
    assert made == [1]
    same(store.load("models", "k"), artefact(2.0))


def test_what_is_whole_is_read_without_a_word(caplog):
    store.save("models", "k", artefact())
    with caplog.at_level(logging.WARNING):
        store.load("models", "k")
    assert not caplog.records


# Making once -----------------------------------------------------------------------------------


def test_fetch_makes_once():
    made = []

    def make():
        made.append(1)
        return artefact()

    first, second = store.fetch("models", "k", make), store.fetch("models", "k", make)
    assert made == [1]
    same(first, second)


def make_slowly(log):
    with Path(log).open("a") as lines:
        lines.write("made\n")
    time.sleep(0.5)
    return artefact(len(Path(log).read_text().splitlines()))


def fetch_together(start, log):
    start.wait(60)
    same(store.fetch("models", "k", lambda: make_slowly(log)), artefact(1.0))


def test_two_processes_that_want_the_same_make_it_once(tmp_path, home):
    log, context = tmp_path / "log", multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    other = context.Process(target=fetch_together, args=(start, log), daemon=True)
    other.start()
    fetch_together(start, log)
    other.join(60)
    assert other.exitcode == 0
    assert log.read_text() == "made\n"
    assert files(home) == ["k.json", "k.safetensors"]


def test_threads_that_want_the_same_make_it_once_and_others_do_not_wait(tmp_path):
    log, start, found = tmp_path / "log", threading.Barrier(4), []

    def fetch(key):
        start.wait(10)
        found.append((key, store.fetch("models", key, lambda: make_slowly(log))))

    threads = [threading.Thread(target=fetch, args=(key,)) for key in ("k", "k", "k", "other")]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4
    assert log.read_text() == "made\n" * 2
    assert time.monotonic() - started < 0.95  # two makings of 0.5 s, side by side


# Failing ---------------------------------------------------------------------------------------


def test_a_failing_make_leaves_nothing_and_may_be_tried_again(home):
    def fail():
        raise ZeroDivisionError("as it were")

    with pytest.raises(ZeroDivisionError, match="as it were"):
        store.fetch("models", "k", fail)
    assert files(home) == []
    assert not store.has("models", "k")
    same(store.fetch("models", "k", artefact), artefact())


def refused(action):
    with pytest.raises(StoreError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert "INVARIANCES_HOME" in message
    return message


@pytest.mark.parametrize("in_place_of", [".", "models"])
def test_a_file_in_place_of_the_folder_is_a_store_error(home, in_place_of):
    place = home / in_place_of
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("a file")
    assert str(home) in refused(lambda: store.save("models", "k", artefact()))
    assert place.read_text() == "a file"
    assert store.load("models", "k") is None


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
def test_a_full_disk_is_a_store_error_and_leaves_nothing_half_written(home, monkeypatch, ending):
    write = Path.write_bytes

    def fill_up(path, content):
        if ending in path.name:
            write(path, content[:3])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    assert "No space left on device" in refused(lambda: store.save("models", "k", artefact()))
    monkeypatch.undo()
    monkeypatch.setenv("INVARIANCES_HOME", str(home))
    assert not [name for name in files(home) if name.endswith(".part")]
    assert not store.has("models", "k")
    same(store.fetch("models", "k", artefact), artefact())


def test_a_failed_replacement_keeps_or_loses_the_artefact_but_never_mixes_it(home, monkeypatch):
    store.save("models", "k", artefact(1.0))
    write = Path.write_bytes

    def fill_up(path, content):
        if ".json" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    refused(lambda: store.save("models", "k", artefact(2.0)))
    monkeypatch.undo()
    monkeypatch.setenv("INVARIANCES_HOME", str(home))
    assert store.load("models", "k") is None  # new arrays with the old checksum


# No pickle -------------------------------------------------------------------------------------


def sources():
    return sorted(Path(invariances.__file__).parent.rglob("*.py"))


def test_nothing_imports_pickle():
    assert len(sources()) > 10
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}, path


def test_nothing_loads_what_could_be_a_pickle():
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called = ast.unparse(node.func)
            assert called not in {"torch.save", "pd.read_pickle"}, path
            allowed = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load":
                assert allowed.get("weights_only") == "True", path
            if called in {"np.load", "numpy.load"}:
                assert allowed.get("allow_pickle") == "False", path


def test_fetch_from_a_store_that_is_a_file_is_a_store_error(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path / "home"))
    with pytest.raises(store.StoreError, match="cannot write to the store"):
        store.fetch("models", "key", lambda: pytest.fail("nothing should be made for a store that cannot keep it"))


def test_a_changed_note_is_damage(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    store.save("models", "key", store.Artefact({"x": np.ones(3)}, {"mse": 0.5}))
    note = store.path("models", "key").with_suffix(".json")
    note.write_text(note.read_text().replace("0.5", "0.9"))
    assert store.load("models", "key") is None
