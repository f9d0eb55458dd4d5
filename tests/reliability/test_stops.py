"""Ctrl-C, and a scheduler that goes away: one sentence, and what is finished is kept."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import wait

STOPPED = "invariances: stopped; what is finished is kept, run the same command again to go on\n"


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_stops_in_order_and_a_rerun_goes_on(start, undisturbed, processes):
    run = start(16, processes)
    wait(lambda: run.finished() >= 2)
    run.signal(signal.SIGINT)
    assert run.end() == (130, "", STOPPED)
    run.no_orphan()
    assert not list(run.home.glob("*/*.part"))
    assert 2 <= run.finished() < 16
    assert start(16, 1).end() == (0, undisturbed(16), "")


def test_ctrl_c_while_the_workers_start_stops_in_order(start):
    run = start(16, 2)
    wait(lambda: len(run.workers()) >= 1)
    run.signal(signal.SIGINT)
    assert run.end() == (130, "", STOPPED)
    run.no_orphan()


def test_ctrl_c_stops_a_notebook_and_its_kernel(start, tmp_path):
    into = tmp_path / "results"
    run = start(0, arguments=["run", "initialization", "--quiet", "--into", str(into)])
    wait(lambda: run.finished() >= 1)
    kernels = [one for one in run.workers() if "ipykernel_launcher" in " ".join(one.cmdline())]
    assert len(kernels) == 1
    run.signal(signal.SIGINT)
    status, out, err = run.end()
    assert (status, out) == (130, "")
    assert err.endswith(STOPPED)
    assert "Traceback" not in err
    run.no_orphan()
    assert list(into.iterdir()) == []


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and one worker, each a process of its own."""
    file, environment = tmp_path / "scheduler.json", {**os.environ, "INVARIANCES_HOME": str(tmp_path / "home")}
    dask = [sys.executable, "-m", "dask"]
    options = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*dask, "scheduler", *options, "--port", "0"], **quiet)
    wait(file.exists)
    one = ["--nthreads", "1", "--no-nanny", "--death-timeout", "300"]
    worker = subprocess.Popen([*dask, "worker", *options, *one], **quiet)
    yield scheduler, str(file)
    for process in (scheduler, worker):
        process.kill()
        process.wait()


def test_a_scheduler_that_goes_away_is_one_sentence_and_a_rerun_goes_on(start, undisturbed, cluster):
    scheduler, file = cluster
    run = start(16, cluster=file)
    wait(lambda: run.finished() >= 2)
    scheduler.kill()
    status, out, err = run.end()
    assert (status, out) == (1, "")
    assert err.startswith(f"invariances: the Dask scheduler at {file} went away; what is finished is kept")
    assert err.count("\n") == 1
    assert 2 <= run.finished() < 16
    assert start(16, 1).end() == (0, undisturbed(16), "")
