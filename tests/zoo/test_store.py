import ast
import errno
import itertools
import json
import logging
import multiprocessing
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import invariances
from invariances.errors import StoreError
from invariances.zoo import store
from invariances.zoo.contents import CONTENTS
from invariances.zoo.store import Artefact

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
    assert sorted(path.name for path in (home / "models").iterdir()) == ["k.json", "k.safetensors"]


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
    start.wait(300)
    same(store.fetch("models", "k", lambda: make_slowly(log)), artefact(1.0))


def test_two_processes_that_want_the_same_make_it_once(tmp_path, home):
    log, context = tmp_path / "log", multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    other = context.Process(target=fetch_together, args=(start, log), daemon=True)
    other.start()
    fetch_together(start, log)
    other.join(300)
    assert other.exitcode == 0
    assert log.read_text() == "made\n"
    assert files(home) == ["k.json", "k.safetensors"]


def test_threads_that_want_the_same_make_it_once_and_others_do_not_wait(tmp_path):
    log, start, found = tmp_path / "log", threading.Barrier(4), []

    def fetch(key):
        start.wait(300)
        found.append((key, store.fetch("models", key, lambda: make_slowly(log))))

    threads = [threading.Thread(target=fetch, args=(key,)) for key in ("k", "k", "k", "other")]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
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
    with pytest.raises(StoreError, match="cannot write to the store"):
        store.fetch("models", "key", lambda: pytest.fail("nothing should be made for a store that cannot keep it"))


def test_a_changed_note_is_damage(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    store.save("models", "key", store.Artefact({"x": np.ones(3)}, {"mse": 0.5}))
    note = store.path("models", "key").with_suffix(".json")
    note.write_text(note.read_text().replace("0.5", "0.9"))
    assert store.load("models", "key") is None


# Every byte ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
def test_a_bit_flipped_anywhere_is_damage_and_is_repaired(ending):
    note = {"scores": {"mse": 1.5e-12, "deviation": 10.0}, "names": ["É", "a\n"], "flag": True}
    whole = Artefact({"x": np.linspace(0, 1, 5), "y": np.arange(3, dtype=np.uint8)}, note)
    store.save("models", "k", whole)
    place = store.path("models", "k").with_suffix(ending)
    before = place.read_bytes()
    for position, bit in itertools.product(range(len(before)), range(8)):
        damaged = bytearray(before)
        damaged[position] ^= 1 << bit
        place.write_bytes(damaged)
        assert store.load("models", "k") is None, (position, bit)
        if bit == position % 8:  # one in eight, for speed
            store.fetch("models", "k", lambda: whole)
            assert place.read_bytes() == before


def test_swapped_artefacts_are_damage():
    store.save("models", "a", artefact(1.0))
    store.save("models", "b", artefact(2.0))
    for ending in (".safetensors", ".json"):
        one, other = (store.path("models", key).with_suffix(ending) for key in "ab")
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    assert store.load("models", "a") is None
    assert store.load("models", "b") is None


def test_an_artefact_of_another_kind_is_damage():
    store.save("models", "k", artefact())
    store.path("models", "k").parent.rename(store.path("arrays", "k").parent)
    assert store.load("arrays", "k") is None


def test_a_note_with_numbers_for_names_is_whole():
    store.save("models", "k", Artefact({}, {"labels": {10: "ten", 2: "two"}, "pair": (1, 2)}))
    assert store.load("models", "k").note == {"labels": {"10": "ten", "2": "two"}, "pair": [1, 2]}


# Many at once ----------------------------------------------------------------------------------


def test_many_are_read_or_made_in_one_call_in_the_order_asked_for():
    store.save("models", "b", artefact(2.0))
    asked = []
    made = {"a": artefact(1.0), "c": artefact(3.0)}
    found = store.fetch_many("models", ["c", "b", "a", "c"], lambda keys: asked.append(keys) or made)
    assert asked == [["c", "a"]]
    assert list(found) == ["c", "b", "a"]
    for key, value in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        same(found[key], artefact(value))
        same(store.load("models", key), artefact(value))
    assert list(store.fetch_many("models", ["a", "c"], lambda keys: pytest.fail("all are there"))) == ["a", "c"]


def test_of_many_what_is_damaged_is_made_again_and_said_once(caplog):
    store.save("models", "a", artefact(1.0))
    store.save("models", "b", artefact(2.0))
    store.path("models", "b").write_bytes(b"")
    asked = []
    with caplog.at_level(logging.WARNING):
        store.fetch_many("models", ["a", "b"], lambda keys: asked.append(keys) or {"b": artefact(2.0)})
    assert asked == [["b"]]
    assert len(caplog.records) == 1


def test_two_that_want_the_same_many_in_another_order_wait_for_each_other_and_make_each_once():
    start, made, found = threading.Barrier(2), [], []

    def make(keys):
        time.sleep(0.2)
        made.extend(keys)
        return {key: artefact(ord(key)) for key in keys}

    def fetch(keys):
        start.wait(300)
        found.append(store.fetch_many("models", keys, make))

    threads = [threading.Thread(target=fetch, args=(keys,), daemon=True) for keys in ("abcd", "dcbe")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(found) == 2  # no deadlock
    assert sorted(made) == ["a", "b", "c", "d", "e"]


# Reading that fails, and reading only ----------------------------------------------------------


@pytest.mark.parametrize(("number", "reason"), [(errno.EIO, "Input/output error"), (errno.EACCES, "Permission denied")])
def test_what_cannot_be_read_is_said_and_not_made_again(monkeypatch, number, reason):
    store.save("models", "k", artefact())

    def refuse(path):
        raise OSError(number, reason)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for action in (
        lambda: store.load("models", "k"),
        lambda: store.fetch("models", "k", lambda: pytest.fail("it is there")),
    ):
        message = refused(action)
        assert "cannot read" in message
        assert reason in message


def test_too_little_memory_to_write_is_one_sentence(home, monkeypatch):
    def fail(arrays):
        raise MemoryError

    monkeypatch.setattr(store, "save_bytes", fail)
    assert "out of memory" in refused(lambda: store.save("models", "k", artefact()))
    assert files(home) == []


def test_a_file_system_without_locks_is_one_sentence(monkeypatch):
    def refuse(lock):
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(store.FileLock, "acquire", refuse)
    assert "no locks here" in refused(lambda: store.fetch("models", "k", artefact))


def test_ctrl_c_while_writing_leaves_nothing_half_written(home, monkeypatch):
    def interrupt(path, content):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.fetch("models", "k", artefact)
    assert files(home) == []


def test_a_store_that_is_read_only_serves_what_it_holds(home, monkeypatch):
    for key in "ab":
        store.save("models", key, artefact())

    def refuse(*given, **named):
        raise PermissionError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "write_bytes", "unlink", "replace"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr("os.open", refuse)
    found = store.fetch_many("models", ["b", "a"], lambda keys: pytest.fail("all are there"))
    assert list(found) == ["b", "a"]
    assert "Read-only" in refused(lambda: store.fetch("models", "c", artefact))


# Listing and pruning ---------------------------------------------------------------------------

KEYS = [f"{i:020x}" for i in range(8)]


def model_note(data=KEYS[7]):
    network, plan = {"family": "cnn", "depth": 3}, {"epochs": 2}
    recipe = {"data": data, "dataset": "digits", "task": "classification", "network": network, "training": plan}
    return {"recipe": {**recipe, "seed": 5}}


def fill():
    """One of everything: two models, arrays, and all that can be left over."""
    for kind, key in (("models", 0), ("models", 1), ("checkpoints", 1), ("checkpoints", 2)):
        store.save(kind, KEYS[key], Artefact({"x": np.ones(4)}, model_note()))
    sizes = {"n_train": 1000, "n_test": 449, "classes": list("0123456789")}
    store.save("arrays", KEYS[0], Artefact({"x": np.ones(4)}, sizes))
    folder = store.path("models", "k").parent
    for name in (f"{KEYS[2]}.safetensors", f"{KEYS[3]}.json", f"{KEYS[4]}.json.part", f"{KEYS[5]}.lock"):
        (folder / name).write_bytes(b"{}")
    for name in ("notes.txt", "mine.safetensors", "mine.lock"):
        (folder / name).write_bytes(b"not the store's")


def listed(frame):
    return {(row.kind, KEYS.index(row.key), row.state) for row in frame.itertuples()}


LEFT_OVER = {("models", 2), ("models", 3), ("models", 4), ("models", 5), ("checkpoints", 1)}
STORED = {("models", 0), ("models", 1), ("checkpoints", 2), ("arrays", 0)}


def test_an_empty_store_lists_nothing():
    assert store.entries(contents=CONTENTS).empty
    assert store.prune(store.Selection(), CONTENTS).empty


def test_the_listing_says_what_is_stored_and_what_is_left_over():
    fill()
    frame = store.entries(contents=CONTENTS)
    assert listed(frame) == {(*one, "stored") for one in STORED} | {(*one, "leftover") for one in LEFT_OVER}
    model = frame[(frame.kind == "models") & (frame.key == KEYS[0])].iloc[0]
    assert model.what == "digits, cnn-3, classification, 2 epochs, seed 5"
    place = store.path("models", KEYS[0])
    assert model.bytes == len(place.read_bytes()) + len(place.with_suffix(".json").read_bytes())
    assert abs(model.modified.timestamp() - time.time()) < 3600
    assert frame[frame.kind == "arrays"].iloc[0].what == "1,000 + 449 samples of 10 classes"


def test_a_verified_listing_tells_whole_from_damaged():
    fill()
    place = store.path("models", KEYS[1])
    place.write_bytes(flipped(place.read_bytes(), -1))
    states = {(kind, key): state for kind, key, state in listed(store.entries(True, CONTENTS))}
    assert states["models", 1] == "damaged"
    assert states["models", 0] == states["arrays", 0] == states["checkpoints", 2] == "whole"
    assert {one for one, state in states.items() if state == "leftover"} == LEFT_OVER


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"note": 3}', b'{"note": {"recipe": 7}}', b"\xff"])
def test_a_note_that_cannot_be_read_does_not_stop_the_listing(content):
    fill()
    store.path("models", KEYS[0]).with_suffix(".json").write_bytes(content)
    assert len(store.entries(contents=CONTENTS)) == len(STORED | LEFT_OVER)


def test_a_checkpoint_of_several_models_is_left_over_when_all_are_there():
    fill()
    store.save("checkpoints", KEYS[6], Artefact({}, {"models": [KEYS[0], KEYS[6]]}))
    assert ("checkpoints", 6, "stored") in listed(store.entries(contents=CONTENTS))
    store.save("models", KEYS[6], artefact())
    assert ("checkpoints", 6, "leftover") in listed(store.entries(contents=CONTENTS))


PRUNED = {
    "leftovers": ({}, LEFT_OVER),
    "of one kind": ({"kind": "checkpoints"}, {("checkpoints", 1)}),
    "all of one kind": ({"kind": "checkpoints", "everything": True}, {("checkpoints", 1), ("checkpoints", 2)}),
    "all": ({"everything": True}, LEFT_OVER | STORED),
    "old": ({"older_than": 10}, LEFT_OVER | {("models", 0)}),
    "older than any": ({"older_than": 30}, LEFT_OVER),
    "damaged": ({"verify": True}, LEFT_OVER | {("models", 1)}),
}


@pytest.mark.parametrize(("options", "gone"), PRUNED.values(), ids=PRUNED)
def test_pruning_deletes_what_it_says_and_nothing_else(home, options, gone):
    fill()
    for path in (store.path("models", KEYS[0]), store.path("models", KEYS[0]).with_suffix(".json")):
        os.utime(path, (time.time() - 20 * 86400,) * 2)
    damaged = store.path("models", KEYS[1])
    damaged.write_bytes(flipped(damaged.read_bytes(), -1))
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}

    planned = store.prune(store.Selection(**options), CONTENTS, dry_run=True)
    assert {(kind, key) for kind, key, _ in listed(planned)} == gone
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before

    done = store.prune(store.Selection(**options), CONTENTS)
    assert listed(done) == listed(planned)
    after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    pruned = {(path.parent.name, KEYS.index(path.name.partition(".")[0])) for path in set(before) - set(after)}
    assert pruned == gone
    assert after.items() <= before.items()
    assert {"notes.txt", "mine.safetensors", "mine.lock"} <= {path.name for path in after}


def hold(key, ready, done):
    store.fetch("models", key, lambda: ready.set() or (done.wait(300) and artefact()))


def test_nothing_that_a_running_process_works_on_is_pruned(home):
    store.save("models", KEYS[1], artefact())
    (home / "models" / f"{KEYS[0]}.safetensors.part").write_bytes(b"half")
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(KEYS[0], ready, done), daemon=True)
    other.start()
    assert ready.wait(300)
    assert ("models", 0, "in use") in listed(store.entries(contents=CONTENTS))
    assert listed(store.prune(store.Selection(everything=True), CONTENTS)) == {("models", 1, "stored")}
    assert (home / "models" / f"{KEYS[0]}.safetensors.part").exists()
    done.set()
    other.join(300)
    assert other.exitcode == 0
    assert store.has("models", KEYS[0])
    assert ("models", 0, "stored") in listed(store.entries(contents=CONTENTS))


def test_remove_deletes_the_note_first_and_nothing_else(home, monkeypatch):
    for key in "ab":
        store.save("models", key, artefact())
    gone, unlink = [], Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **named: gone.append(path.name) or unlink(path, **named))
    store.remove("models", "a")
    store.remove("models", "never there")
    assert gone[:2] == ["a.json", "a.safetensors"]
    assert files(home) == ["b.json", "b.safetensors"]
