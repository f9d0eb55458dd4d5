"""A full disk is one sentence, and costs nothing that is finished."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SENTENCE = "free some space or set INVARIANCES_HOME elsewhere\n"


def half_written(home):
    return list(home.glob("*/*.part"))


@pytest.mark.parametrize("processes", [1, 2])
def test_files_that_cannot_grow_are_one_sentence_and_a_rerun_goes_on(
    start, undisturbed, three_models, tmp_path, processes
):
    home = shutil.copytree(three_models, tmp_path / "home")
    before = {path: path.read_bytes() for path in home.glob("*/*.*")}
    run = start(5, processes, largest_file=100_000)
    status, out, err = run.end()
    assert (status, out) == (1, "")
    assert err == f"invariances: cannot write to the store at {home} (File too large); {SENTENCE}"
    assert half_written(home) == []
    assert {path: path.read_bytes() for path in before} == before
    run.no_orphan()
    assert start(5).end() == (0, undisturbed(5), "")


def may_mount():
    if not (shutil.which("unshare") and hasattr(os, "geteuid") and os.geteuid() == 0):
        return False
    return (
        subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not may_mount(), reason="no file system may be mounted here")
def test_a_full_file_system_is_one_sentence_and_a_rerun_goes_on(tmp_path, undisturbed):
    home = tmp_path / "home"
    home.mkdir()
    run = f"{sys.executable} -c 'from some_models import main; main()' some-models 8 1"
    script = f"""
        mount -t tmpfs -o size=3m none {home} && head -c 2M /dev/zero > {home}/filler
        {run}; echo status $?
        ls {home}/models | grep -c '[.]json$'; ls {home}/models | grep -c '[.]part$'
        rm {home}/filler
        mount -o remount,size=8m {home}
        {run}
    """
    environment = {**os.environ, "INVARIANCES_HOME": str(home)}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parent)])
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=environment, capture_output=True, text=True)
    status, finished, parts, rerun = done.stdout.split("\n", 3)
    assert (status, parts) == ("status 1", "0")
    assert 1 <= int(finished) < 8
    assert rerun == undisturbed(8)
    assert done.stderr == f"invariances: cannot write to the store at {home} (No space left on device); {SENTENCE}"
