import hashlib
import io
import json
import sys

import datasets as hf
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet as parquet
import pytest

from invariances import cli
from invariances.errors import DataError
from invariances.zoo import checks
from invariances.zoo.sources import REGISTRY, names_digest

TREC = "CogComp/trec/train-00000-of-00001.parquet"
MNIST = "ylecun/mnist/train-00000-of-00001.parquet"
ENGLISH = "defunct-datasets/amazon_reviews_multi/en/train-00000-of-00001.parquet"
CLASSES = hf.ClassLabel(names=["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"])
FINE = hf.ClassLabel(names=["a", "b"])
QUESTIONS = {"text": hf.Value("string"), "coarse_label": CLASSES, "fine_label": FINE}
DIGITS = {"image": hf.Image(), "label": hf.ClassLabel(names=list("0123456789"))}
REVIEWS = {
    **dict.fromkeys(("review_id", "product_id", "reviewer_id", "review_title", "review_body"), hf.Value("string")),
    **dict.fromkeys(("language", "product_category"), hf.Value("string")),
    "stars": hf.Value("int32"),
}


def write(folder, path, columns, features):
    """Parquet of a hub's schema; labels are not looked at, since what is wrong with them is the test's subject."""
    schema = hf.Features(features).arrow_schema
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    arrays = [pyarrow.array(columns[name], schema.field(name).type) for name in schema.names]
    parquet.write_table(pyarrow.table(arrays, schema=schema), folder / path)
    return folder


def png(shade=0):
    content = io.BytesIO()
    PIL.Image.new("L", (4, 4), shade).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def questions(**changed):
    return {"text": ["what", "who"], "coarse_label": [0, 3], "fine_label": [0, 1], **changed}


def reviews(**changed):
    return {**{name: [None, None] for name in REVIEWS}, "review_body": ["good", "bad"], "stars": [1, 5], **changed}


@pytest.fixture
def folder(tmp_path):
    """Three data sets as they should be."""
    for split in ("train", "test"):
        write(tmp_path, TREC.replace("train", split), questions(), QUESTIONS)
        write(tmp_path, MNIST.replace("train", split), {"image": [png(), png(9)], "label": [0, 9]}, DIGITS)
        write(tmp_path, ENGLISH.replace("train", split), reviews(), REVIEWS)
    return tmp_path


def rows_of(report):
    return report.table.set_index("data set")


def only_problem(folder):
    problems = checks.check(folder).problems
    assert len(problems) == 1, problems
    assert "\n" not in problems[0]
    return problems[0]


# The registry ----------------------------------------------------------------------------------


def test_the_names_of_labels_have_the_digest_and_the_count_that_are_stated():
    for name, source in REGISTRY.items():
        if source.kind == "parallel":
            assert source.classes is None
            continue
        assert source.label in source.columns, name
        assert len(source.classes.sha256) == 64
        assert len(source.classes.labels) == source.classes.count
        if source.classes.count <= 14:
            assert source.classes.sha256 == hashlib.sha256("\n".join(source.classes.names).encode()).hexdigest()
            assert len(set(source.classes.names)) == source.classes.count


def test_stars_start_at_1_and_other_labels_at_0():
    assert list(REGISTRY["amazon-en"].classes.labels) == [1, 2, 3, 4, 5]
    assert list(REGISTRY["trec"].classes.labels) == [0, 1, 2, 3, 4, 5]


def test_a_digest_of_names_depends_on_their_order():
    assert names_digest(["a", "b"]) != names_digest(["b", "a"])


# Contents --------------------------------------------------------------------------------------


def test_data_as_they_should_be_have_no_problem(folder):
    report = checks.check(folder)
    assert report.problems == []
    rows = rows_of(report)
    assert set(rows.index) == set(REGISTRY)
    for name in ("trec", "mnist", "amazon-en"):
        assert tuple(rows.loc[name, ["train", "test", "contents"]]) == ("2", "2", "ok")
    assert rows.loc["mnist", "pictures decoded"] == "4"
    assert rows.loc["dbpedia", "contents"] == "not there"
    assert report.manifest.startswith("there is none")


@pytest.mark.parametrize(
    ("changed", "features", "said"),
    [
        ({"coarse_label": [0, None]}, {}, "column coarse_label has 1 empty cells"),
        ({"coarse_label": [6, -1]}, {}, "column coarse_label has 2 labels outside 0 to 5"),
        ({"text": ["what", None]}, {}, "1 rows hold no text"),
        ({"text": ["what", " \t"]}, {}, "1 rows hold no text"),
        ({"text": [1, 2]}, {"text": hf.Value("int64")}, "column text is of type int64 instead of string"),
        ({}, {"coarse_label": hf.Value("int64")}, "column coarse_label is of type int64 instead of class"),
        ({}, {"fine_label": hf.Value("int64")}, "column fine_label is of type int64 instead of class"),
        (
            {},
            {"coarse_label": hf.ClassLabel(names=["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"])},
            "1 is 'DESC' instead of 'ENTY'",
        ),
        ({}, {"coarse_label": hf.ClassLabel(names=["ABBR", "DESC", "ENTY", "HUM"])}, "4 instead of 6"),
    ],
)
def test_what_is_wrong_with_questions_is_one_line(folder, changed, features, said):
    write(folder, TREC, questions(**changed), {**QUESTIONS, **features})
    problem = [line for line in checks.check(folder).problems if said in line]
    assert len(problem) == 1
    assert problem[0].startswith(f"{TREC}: ")
    assert rows_of(checks.check(folder)).loc["trec", "contents"].endswith("wrong")


@pytest.mark.parametrize("column", QUESTIONS)
def test_a_column_that_is_missing_is_named(folder, column):
    features = {name: feature for name, feature in QUESTIONS.items() if name != column}
    write(folder, TREC, questions(), features)
    assert only_problem(folder) == f"{TREC}: has no column {column}"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"stars": [0, 5]}, "column stars has 1 labels outside 1 to 5"),
        ({"stars": [1, 6]}, "column stars has 1 labels outside 1 to 5"),
        ({"review_body": [None, "bad"]}, "1 rows hold no text"),
        ({"review_body": [None, "bad"], "review_title": ["fine", None]}, None),
    ],
)
def test_reviews_need_stars_and_a_title_or_a_body(folder, changed, said):
    write(folder, ENGLISH, reviews(**changed), REVIEWS)
    assert checks.check(folder).problems == ([f"{ENGLISH}: {said}"] if said else [])


@pytest.mark.parametrize("gap", ["en", "de", "fr"])
def test_parallel_sentences_need_every_language(folder, gap):
    sentences = {"en": ["a"], "de": ["b"], "fr": ["c"]}
    features = dict.fromkeys(sentences, hf.Value("string"))
    path = "bentrevett/multi30k/{}-00000-of-00001.parquet"
    write(folder, path.format("train"), sentences, features)
    write(folder, path.format("test"), {**sentences, gap: [" "]}, features)
    assert only_problem(folder) == f"{path.format('test')}: 1 rows hold no text"


@pytest.mark.parametrize("gap", ["document", "en", "zh"])
def test_parallel_sentences_of_documents_need_every_language_and_a_document(folder, gap):
    sentences = {"document": ["one"], **{language: ["a"] for language in ("en", "de", "fr", "es", "ja", "zh")}}
    features = dict.fromkeys(sentences, hf.Value("string"))
    path = "MicrosoftTranslator/ntrex-128/{}-00000-of-00001.parquet"
    write(folder, path.format("train"), sentences, features)
    write(folder, path.format("test"), {**sentences, gap: [None]}, features)
    said = "column document has 1 empty cells" if gap == "document" else "1 rows hold no text"
    assert only_problem(folder) == f"{path.format('test')}: {said}"


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (None, "1 rows hold no picture"),
        ({"bytes": None, "path": "a.png"}, "1 rows hold no picture"),
        ({"bytes": b"no picture", "path": None}, "1 of the 2 pictures drawn from it cannot be decoded"),
        ({"bytes": png()["bytes"][:45], "path": None}, "1 of the 2 pictures drawn from it cannot be decoded"),
    ],
)
def test_pictures_that_are_not_there_or_damaged_are_counted(folder, picture, said):
    write(folder, MNIST, {"image": [png(), picture], "label": [0, 1]}, DIGITS)
    assert only_problem(folder) == f"{MNIST}: {said}"


def test_a_seeded_sample_over_all_shards_is_decoded(folder, monkeypatch):
    # 6,000 pictures in two shards; each is read in several batches
    shards = [MNIST.replace("00000-of-00001", f"0000{i}-of-00002") for i in range(2)]
    (folder / MNIST).unlink()
    for i, shard in enumerate(shards):
        content = [{"bytes": f"{i}-{row}".encode(), "path": None} for row in range(3000)]
        write(folder, shard, {"image": content, "label": [0] * 3000}, DIGITS)
    drawn = []
    monkeypatch.setattr(checks, "_decodes", lambda content: drawn.append(content) or True)
    report = checks.check(folder)
    assert report.problems == []
    numbers = [content for content in drawn if b"-" in content[:2]]
    assert len(set(numbers)) == len(numbers) == checks.PICTURES
    per_shard = [sum(content.startswith(f"{i}-".encode()) for content in numbers) for i in range(2)]
    assert min(per_shard) > 25
    rows = np.array([int(content[2:]) for content in numbers])
    assert min(np.histogram(rows, 4, (0, 3000))[0]) > 5
    assert rows_of(report).loc["mnist", "pictures decoded"] == str(checks.PICTURES + 2)
    before = list(drawn)
    drawn.clear()
    checks.check(folder)
    assert drawn == before


def test_a_shard_that_is_missing_is_noticed(folder):
    (folder / TREC).rename(folder / TREC.replace("of-00001", "of-00003"))
    assert "is one of 3 files by its name, but 1 of its split are there" in only_problem(folder)


def test_a_split_that_is_missing_is_noticed(folder):
    (folder / TREC.replace("train", "test")).unlink()
    assert only_problem(folder) == "trec: there is no test split"


def test_a_split_without_rows_is_noticed(folder):
    write(folder, TREC, questions(text=[], coarse_label=[], fine_label=[]), QUESTIONS)
    assert only_problem(folder) == "trec: its train split has no row"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 99], ids=["empty", "cut", "other"])
def test_a_file_that_is_no_parquet_is_noticed(folder, content):
    (folder / TREC).write_bytes(content)
    assert only_problem(folder).startswith(f"{TREC}: cannot be read")


def test_a_damaged_page_is_noticed(folder):
    content = bytearray((folder / TREC).read_bytes())
    content[4:40] = b"\xff" * 36  # after the magic number come the pages; the footer is whole
    (folder / TREC).write_bytes(content)
    assert only_problem(folder).startswith(f"{TREC}: cannot be read")


# Manifests -------------------------------------------------------------------------------------


def sums(folder):
    """The checksums that the files have, by path."""
    paths = sorted(folder.rglob("*.parquet"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


LISTS = {"manifest.json": checks.write_manifest}


def test_a_manifest_holds_sha256_bytes_and_rows(folder):
    assert checks.write_manifest(folder) == folder / "manifest.json"
    listed = json.loads((folder / "manifest.json").read_text())
    assert {path: said["sha256"] for path, said in listed.items()} == sums(folder)
    assert len(listed) == 6
    assert listed[TREC] == {"sha256": sums(folder)[TREC], "bytes": (folder / TREC).stat().st_size, "rows": 2}
    assert [p.name for p in folder.iterdir() if p.is_file()] == ["manifest.json"]


@pytest.mark.parametrize("name", LISTS)
def test_every_kind_of_list_is_compared(folder, name):
    LISTS[name](folder)
    report = checks.check(folder)
    assert report.problems == []
    assert report.manifest == f"{name}, with 6 files"


@pytest.mark.parametrize("name", LISTS)
def test_files_that_are_absent_or_changed_are_a_line_each(folder, name):
    LISTS[name](folder)
    for split in ("train", "test"):
        (folder / ENGLISH.replace("train", split)).unlink()
    write(folder, TREC, questions(text=["what", "why"]), QUESTIONS)
    problems = checks.check(folder).problems
    assert len(problems) == 3
    assert {line.split(":")[0] for line in problems} == {ENGLISH, ENGLISH.replace("train", "test"), TREC}
    assert sum("not there" in line for line in problems) == 2


@pytest.mark.parametrize(("field", "said"), [("bytes", "bytes instead of 7"), ("rows", "has 2 rows instead of 7")])
def test_sizes_are_compared(folder, field, said):
    place = checks.write_manifest(folder)
    listed = json.loads(place.read_text())
    listed[TREC][field] = 7
    place.write_text(json.dumps(listed))
    assert said in only_problem(folder)


def test_one_changed_byte_is_noticed_and_whether_or_not_it_was_seen_before(folder):
    checks.write_manifest(folder)
    assert checks.check(folder).problems == []
    content = bytearray((folder / MNIST).read_bytes())
    where = content.index(b"\x89PNG")
    content[where] ^= 1
    (folder / MNIST).write_bytes(content)
    assert any("sha256" in line and line.startswith(MNIST) for line in checks.check(folder).problems)


def test_files_that_are_on_no_list_are_counted(folder):
    checks.write_manifest(folder)
    write(folder, "other/train-00000-of-00001.parquet", questions(), QUESTIONS)
    report = checks.check(folder)
    assert report.problems == []
    assert report.manifest.endswith("; 1 Parquet files are not on it")


@pytest.mark.parametrize("path", ["/etc/a.parquet", "../a.parquet", "b/../../a.parquet"])
def test_a_list_names_no_file_outside_the_folder(folder, path):
    (folder / "manifest.json").write_text(json.dumps({path: {"sha256": "0" * 64, "bytes": 1, "rows": 1}}))
    with pytest.raises(DataError, match="outside"):
        checks.check(folder)
    (folder / "manifest.json").unlink()
    assert checks.check(folder).manifest.startswith("there is none")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"a.parquet": 1}', '{"a.parquet": {"sha256": "short"}}', '{"a.parquet": {"bytes": -1}}']
)
def test_a_damaged_manifest_is_one_sentence(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="--manifest"):
        checks.check(folder)


def test_no_manifest_is_written_of_what_cannot_be_read(folder):
    (folder / TREC).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=TREC):
        checks.write_manifest(folder)
    assert not (folder / "manifest.json").exists()


def test_no_manifest_is_written_of_nothing(tmp_path):
    with pytest.raises(DataError, match="no Parquet file"):
        checks.write_manifest(tmp_path)
    with pytest.raises(DataError, match="no Parquet file"):
        checks.write_manifest(tmp_path / "absent")


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="INVARIANCES_DATA"):
        checks.check(tmp_path / "absent")


def test_a_folder_that_cannot_be_written_is_one_sentence(folder, monkeypatch):
    def refuse(place, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks, "write_json", refuse)  # the tests may run as root, whom nothing refuses
    with pytest.raises(DataError, match="cannot be written"):
        checks.write_manifest(folder)


# The command -----------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `invariances data`; gives back its exit status, its lines, and those for errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["invariances", "data", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return stopped.value.code, said.out.splitlines(), said.err.splitlines()

    return run


def test_the_command_checks_and_ends_well(folder, command, monkeypatch):
    monkeypatch.setenv("INVARIANCES_DATA", str(folder))
    code, said, _ = command("--manifest")
    assert (code, said) == (0, [str(folder / "manifest.json")])
    code, said, errors = command("--check")
    assert (code, errors) == (0, [])
    assert "Manifest: manifest.json, with 6 files." in said
    assert said[-1] == "All is well."


def test_the_command_names_what_is_wrong_and_the_remedy(folder, command, monkeypatch):
    monkeypatch.setenv("INVARIANCES_DATA", str(folder))
    command("--manifest")
    (folder / TREC).unlink()
    write(folder, ENGLISH, reviews(stars=[1, 9]), REVIEWS)
    code, said, errors = command("--check")
    assert code == 1
    assert "trec: there is no train split" in said
    assert f"{TREC}: is on the list, but not there" in said
    assert f"{ENGLISH}: column stars has 1 labels outside 1 to 5" in said
    assert errors[-1].startswith("invariances: 4 things are wrong")
    assert "--manifest" in errors[-1]
    assert "All is well." not in said


@pytest.mark.parametrize("option", ["--check", "--manifest"])
def test_without_a_folder_the_command_says_which_variable_to_set(option, command):
    code, said, errors = command(option)
    assert (code, said) == (1, [])
    assert errors == ["invariances: INVARIANCES_DATA is not set; set it to the folder of the Parquet files"]


def test_the_commands_help_has_examples(command):
    code, said, _ = command("--help")
    assert code == 0
    for part in ("Examples", "invariances data --check", "invariances data --manifest", "manifest.json"):
        assert part in "\n".join(said)
