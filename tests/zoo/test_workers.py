import math
import operator
import os
import time
from pathlib import Path

import pytest
import torch
from distributed import LocalCluster
from threadpoolctl import threadpool_info, threadpool_limits

from invariances.zoo import workers


@pytest.fixture
def three_threads():
    with threadpool_limits(2, "blas"):
        torch.set_num_threads(3)
        yield
    torch.set_num_threads(1)


def place(item):
    """Where this runs, and on how many threads."""
    time.sleep(0.3)
    return item, os.getpid(), torch.get_num_threads()


def die_once(marker):
    """Take the whole process away the first time."""
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)
    return os.getpid()


def cluster_of_one():
    return LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    )


# Threads ---------------------------------------------------------------------------------------


def test_one_thread_is_one_thread_and_gives_the_others_back(three_threads):
    with workers.one_thread():
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    assert torch.get_num_threads() == 3
    assert max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas") == 2


def test_one_thread_gives_the_others_back_after_a_failure(three_threads):
    with pytest.raises(ZeroDivisionError), workers.one_thread():
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3


def test_between_two_units_the_caller_has_its_threads_back(three_threads):
    inside, outside = [], []
    for _, _, threads in workers.run(place, [1, 2], "test", processes=1):
        inside.append(threads)
        outside.append(torch.get_num_threads())
    assert (inside, outside) == ([1, 1], [3, 3])


def test_a_unit_elsewhere_has_one_thread_whatever_its_process_has(three_threads):
    assert workers._work(place, 1, print) == (1, os.getpid(), 1)
    assert torch.get_num_threads() == 3


def test_there_is_a_core_and_no_more_than_the_machine_has():
    assert 1 <= workers.cores() <= os.cpu_count()


# Here ------------------------------------------------------------------------------------------


def test_no_items_give_no_results():
    assert list(workers.run(math.sqrt, [], "test")) == []


@pytest.mark.parametrize(("items", "processes"), [([1, 4, 9], 1), ([4], 2), ([4], None)])
def test_one_process_or_one_item_runs_here_in_order(items, processes):
    results = list(workers.run(place, items, "test", processes))
    assert [item for item, _, _ in results] == items
    assert {process for _, process, _ in results} == {os.getpid()}


def test_a_failing_unit_fails_the_run_here():
    results = workers.run(math.sqrt, [4, -1, 9], "test", processes=1)
    assert next(results) == 2
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        next(results)


# Elsewhere -------------------------------------------------------------------------------------


def test_two_processes_yield_all_results_each_on_one_thread(three_threads):
    results = list(workers.run(place, range(6), "test", processes=2))
    assert sorted(item for item, _, _ in results) == list(range(6))
    processes = {process for _, process, _ in results}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {threads for _, _, threads in results} == {1}


def test_a_failing_unit_fails_the_run_elsewhere(monkeypatch):
    with cluster_of_one() as cluster:
        monkeypatch.setenv("INVARIANCES_CLUSTER", cluster.scheduler_address)
        with pytest.raises(ValueError, match=r"math domain|nonnegative"):
            list(workers.run(math.sqrt, [-1, -1], "test"))


def test_a_lost_worker_costs_a_retry_and_not_the_run(tmp_path):
    markers = [tmp_path / "dies", tmp_path / "lives"]
    markers[1].touch()
    results = list(workers.run(die_once, markers, "test", processes=2))
    assert len(results) == 2
    assert markers[0].exists()
    assert os.getpid() not in results


@pytest.mark.parametrize("named_by", ["address", "file"])
def test_a_cluster_that_the_environment_names_is_used(tmp_path, monkeypatch, named_by):
    with cluster_of_one() as cluster:
        if named_by == "file":
            named = tmp_path / "scheduler.json"
            with cluster.get_client() as client:
                client.write_scheduler_file(str(named))
        else:
            named = cluster.scheduler_address
        monkeypatch.setenv("INVARIANCES_CLUSTER", str(named))
        before = cluster.scheduler.transition_counter
        assert sorted(workers.run(operator.neg, [1, 2, 3], "test", processes=1)) == [-3, -2, -1]
        assert cluster.scheduler.transition_counter > before  # it was this cluster that worked
