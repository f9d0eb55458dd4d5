"""The command line: what it refuses, what it never replaces, and how it ends."""

import html
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from invariances import cli, discovery
from invariances.cli import main

COMMAND = [sys.executable, "-c", "from invariances.cli import main; main()"]
CATCHES_A_HANG = 600


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to be in, with the embeddings of two models that a rotation relates."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)) * np.linspace(2, 0.5, 6)
    np.save("a.npy", x)
    np.save("b.npy", x @ np.linalg.qr(rng.normal(size=(6, 6)))[0])
    return tmp_path


def ended(arguments, monkeypatch, capsys):
    """Exit status, output and errors of a command, in this process."""
    monkeypatch.setattr(sys, "argv", ["invariances", *arguments])
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code or 0
    out, err = capsys.readouterr()
    return status, out, err


def refused(arguments, match, monkeypatch, capsys):
    status, out, err = ended(arguments, monkeypatch, capsys)
    assert status == 1, (out, err)
    assert len(err.strip().splitlines()) == 1
    assert match in err
    assert out == ""


DISCOVER = ["discover", "a.npy", "b.npy", "--anchors", "60"]


def test_discover_names_what_was_planted_and_writes_a_report(folder, monkeypatch, capsys):
    status, out, _ = ended([*DISCOVER, "--html", "r.html"], monkeypatch, capsys)
    assert status == 0
    assert "'orthogonal'" in out
    assert "'orthogonal'" in html.unescape(Path("r.html").read_text())
    # a later report may replace an earlier one
    assert ended([*DISCOVER, "--html", "r.html"], monkeypatch, capsys)[0] == 0


@pytest.mark.parametrize("how", ["plain", "another spelling", "link", "hard link", "force"])
def test_no_output_is_one_of_the_inputs(how, folder, monkeypatch, capsys):
    before = Path("a.npy").read_bytes()
    target = {"plain": "a.npy", "another spelling": "./../" + folder.name + "/a.npy", "force": "a.npy"}.get(
        how, "r.html"
    )
    if how == "link":
        Path("r.html").symlink_to("a.npy")
    if how == "hard link":
        os.link("a.npy", "r.html")
    more = ["--force"] if how == "force" else []
    refused([*DISCOVER, "--html", target, *more], "is one of the inputs (a.npy); give", monkeypatch, capsys)
    assert Path("a.npy").read_bytes() == before


def test_somebody_s_file_is_replaced_only_by_force(folder, monkeypatch, capsys):
    Path("notes.html").write_text("<p>mine</p>")
    refused([*DISCOVER, "--html", "notes.html"], "was not written by this command; give --force", monkeypatch, capsys)
    assert Path("notes.html").read_text() == "<p>mine</p>"
    assert ended([*DISCOVER, "--html", "notes.html", "--force"], monkeypatch, capsys)[0] == 0
    assert "mine" not in Path("notes.html").read_text()


def test_a_link_is_followed(folder, monkeypatch, capsys):
    Path("real").mkdir()
    Path("r.html").symlink_to("real/r.html")
    assert ended([*DISCOVER, "--html", "r.html"], monkeypatch, capsys)[0] == 0
    assert Path("r.html").is_symlink()
    assert Path("real/r.html").is_file()


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("no/r.html", "is not there; make it first"),
        (".", "is a folder; give the name of a file in it"),
        ("a.npy/r.html", "is not there; make it first"),
        ("x" * 300 + ".html", "give a shorter name"),
        ("loop.html", "cannot be written"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_work(target, match, folder, monkeypatch, capsys):
    monkeypatch.setattr(discovery, "align", lambda *_, **__: pytest.fail("the work was begun"))
    Path("loop.html").symlink_to("loop.html")
    refused([*DISCOVER, "--html", target], match, monkeypatch, capsys)


@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_one_file_is_no_two_models(kind, folder, monkeypatch, capsys):
    Path("c.npy").symlink_to("a.npy") if kind == "link" else os.link("a.npy", "c.npy")
    refused(["discover", "a.npy", "c.npy", "--anchors", "60"], "a.npy and c.npy are one file", monkeypatch, capsys)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (["-p"], "-p names no parameter; write -p NAME VALUE"),
        (["-p", "seeds"], "parameter 'seeds' has no value; write -p NAME VALUE"),
        (["-p", "=3"], "-p names no parameter; write -p NAME VALUE"),
    ],
)
def test_a_bare_parameter_says_what_is_missing(given, match, monkeypatch, capsys):
    refused(["run", "initialization", *given], match, monkeypatch, capsys)


@pytest.mark.parametrize(
    "arguments", [["data"], ["data", "--check"], ["run", "training", "--dry-run", "-p", "profile", "laptop"]]
)
@pytest.mark.parametrize(("name", "match"), [("absent", "which is not there"), ("a.npy", "which is a file")])
def test_a_data_folder_that_is_none_is_one_sentence(arguments, name, match, folder, monkeypatch, capsys):
    monkeypatch.setenv("INVARIANCES_DATA", str(folder / name))
    refused(arguments, match, monkeypatch, capsys)


def test_a_bug_keeps_its_traceback(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["invariances", *DISCOVER])
    monkeypatch.setattr(discovery, "align", lambda *_, **__: [][1])
    with pytest.raises(IndexError):
        main()
    monkeypatch.setattr(discovery, "align", lambda *_, **__: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        main()


def test_a_full_disk_is_one_sentence(folder, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(discovery, "align", full)
    status, _, err = ended(DISCOVER, monkeypatch, capsys)
    assert status == 1
    assert err.strip() == "invariances: the disk is full (No space left on device); free some space and run it again"


def test_ctrl_c_ends_in_one_sentence(folder, monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(discovery, "align", stopped)
    status, _, err = ended(DISCOVER, monkeypatch, capsys)
    assert status == 130
    assert err.strip() == f"invariances: {cli.STOPPED}"


def test_whoever_closes_the_pipe_sees_no_traceback(folder):
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" "$@" | true', *COMMAND, *DISCOVER],
        capture_output=True,
        text=True,
        check=False,
        timeout=CATCHES_A_HANG,
    )
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_a_name_in_another_script_is_read_in_any_locale(utf8, folder):
    Path("a.npy").rename("модель.npy")
    done = subprocess.run(
        [*COMMAND, "discover", "модель.npy", "b.npy", "--anchors", "60"],
        capture_output=True,
        check=False,
        timeout=CATCHES_A_HANG,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": utf8},
    )
    assert done.returncode == 0, done.stderr
    assert b"'orthogonal'" in done.stdout


@pytest.mark.parametrize("command", ["run", "book", "reproduce", "data", "store"])
def test_help_names_the_extras_that_a_command_needs(command, monkeypatch, capsys):
    status, out, _ = ended([command, "--help"], monkeypatch, capsys)
    assert status == 0
    assert "Needs" in out
    assert "zoo" in out
    assert "Example" in out or command == "book"
