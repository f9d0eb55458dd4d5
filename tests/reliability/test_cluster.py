"""`discover` over a Dask cluster: the same answer, with all its workers and with one killed in the midst."""

import os
import signal
import threading

import dask
import numpy as np
import pandas as pd
import pytest
from conftest import wait
from distributed import LocalCluster
from distributed.utils import get_mp_context

from invariances import discover
from invariances.cli import main
from invariances.zoo import workers

MODELS, N, D, ANCHORS = 5, 1500, 96, 200


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    rng = np.random.default_rng(0)
    base, folder = rng.normal(size=(N, 16)), tmp_path_factory.mktemp("embeddings")
    for name in "abcde"[:MODELS]:
        x = base @ rng.normal(size=(16, D)) + 0.3 * rng.normal(size=(N, D))
        np.save(folder / f"{name}.npy", x.astype("f4"))
    return sorted(folder.iterdir())


@pytest.fixture
def cluster(monkeypatch):
    """A scheduler and two workers, processes of their own; the environment names the scheduler."""
    with dask.config.set(workers.DASK):
        get_mp_context().set_forkserver_preload(workers.PRELOADED)
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as started:
            monkeypatch.setenv("INVARIANCES_CLUSTER", started.scheduler_address)
            yield started


def test_the_command_gives_the_same_answer_on_a_cluster(files, cluster, monkeypatch, capsys):
    monkeypatch.chdir(files[0].parent)  # where no worker works
    monkeypatch.setattr("sys.argv", ["invariances", "discover", *(file.name for file in files), "--anchors", "200"])
    before = cluster.scheduler.transition_counter
    with pytest.raises(SystemExit, match="0"):
        main()
    elsewhere = capsys.readouterr().out
    assert cluster.scheduler.transition_counter > before  # it was the cluster that worked
    monkeypatch.delenv("INVARIANCES_CLUSTER")
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out == elsewhere


def test_a_worker_killed_in_the_midst_costs_no_pair(files, cluster):
    spaces = {file.stem: file for file in files}
    alone = discover(spaces, ANCHORS)
    before = {worker.pid for worker in cluster.workers.values()}
    found = []
    asking = threading.Thread(target=lambda: found.append(discover(spaces, ANCHORS, workers=workers.spread)))
    asking.start()
    states = cluster.scheduler.workers
    wait(lambda: any(state.processing for state in states.values()))
    working = next(state for state in states.values() if state.processing)
    pid = next(worker.pid for worker in cluster.workers.values() if worker.worker_address == working.address)
    os.kill(pid, signal.SIGKILL)
    asking.join(300)
    (report,) = found
    pd.testing.assert_frame_equal(report.ladder, alone.ladder, check_exact=True)
    pd.testing.assert_frame_equal(report.structure, alone.structure, check_exact=True)
    assert pid in before
    wait(lambda: {worker.pid for worker in cluster.workers.values()} != before)  # it was started anew
