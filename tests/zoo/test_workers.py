import io
import math
import operator
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
import torch
from distributed import Future, LocalCluster, as_completed
from distributed.comm import CommClosedError
from threadpoolctl import threadpool_info, threadpool_limits

from invariances.errors import WorkersError
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


def begun(item):
    """Where this runs, which is long: a tenth of it takes 0.2 s."""
    for _ in range(2):
        time.sleep(0.2)
        workers.advance(0.1)
    return item, os.getpid()


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 2)


def test_short_work_starts_no_process(two_cores):
    results = list(workers.run(place, range(4), "test"))
    assert [item for item, _, _ in results] == list(range(4))
    assert {process for _, process, _ in results} == {os.getpid()}


def test_what_is_left_goes_to_processes_where_it_is_worth_them(two_cores, monkeypatch):
    monkeypatch.setattr(workers, "WORTH_WORKERS", 0.7)
    results = list(workers.run(place, range(4), "test"))
    assert sorted(item for item, _, _ in results) == list(range(4))
    here = [item for item, process, _ in results if process == os.getpid()]
    assert here == [0]  # 0.3 s, so that 0.9 s are left


def test_a_long_item_is_given_up_here_and_done_elsewhere(two_cores, monkeypatch, moves, look):
    look()
    monkeypatch.setattr(workers, "WORTH_WORKERS", 4.0)  # 0.2 s for a tenth of three items: 5.6 s are left
    results = list(workers.run(begun, range(3), "test"))
    assert sorted(item for item, _ in results) == list(range(3))
    assert os.getpid() not in {process for _, process in results}
    assert sum(moves) == pytest.approx(3)


def slow_to_start(item):
    """Where this runs; only the first time is there much to do before it."""
    if item == 0:
        time.sleep(1.5)
    workers.advance(0.9 + 0.1 * (1 - 1e-15))
    time.sleep(0.01)
    return item, os.getpid()


def test_what_the_first_item_takes_to_start_is_not_thought_to_come_again(two_cores, monkeypatch):
    monkeypatch.setattr(workers, "WORTH_WORKERS", 2.0)
    results = list(workers.run(slow_to_start, range(5), "test"))
    assert {process for _, process in results} == {os.getpid()}


def test_the_last_item_stays_here_however_long_it_takes(two_cores, monkeypatch):
    monkeypatch.setattr(workers, "WORTH_WORKERS", 0.0)
    assert [process for _, process in workers.run(begun, [1], "test")] == [os.getpid()]


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


def test_a_script_that_workers_cannot_import_is_told_what_to_do():
    script = """
from invariances.errors import WorkersError
from invariances.zoo import workers
try:
    list(workers.run(abs, [1, 2], "test", 2))
except WorkersError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable], input=script, capture_output=True, text=True, timeout=600, check=True, cwd=os.sep
    )
    assert "put what trains under `if __name__ == '__main__':`" in done.stdout
    assert done.stdout.count("\n") == 1


def environment(name):
    return os.environ.get(name)


def test_local_workers_keep_freed_memory_and_have_one_thread():
    names = list(workers.KEEP_MEMORY)
    found = list(workers.run(environment, names, "test", processes=2))
    assert sorted(found) == sorted(str(value) for value in workers.KEEP_MEMORY.values())
    assert str(2**30) in found


def profiled(_):
    return dask.config.get("distributed.worker.profile.enabled"), os.getpid()


def test_local_workers_are_not_profiled():
    found = list(workers.run(profiled, [1, 2], "test", processes=2))
    assert [on for on, _ in found] == [False, False]
    assert os.getpid() not in {process for _, process in found}
    assert dask.config.get("distributed.worker.profile.enabled") is True  # elsewhere it stays as it was


def the_first_waits(item):
    folder, number = item
    (folder / str(number)).touch()
    end = time.monotonic() + 30
    while number == 0 and len(list(folder.iterdir())) < 8 and time.monotonic() < end:
        time.sleep(0.05)
    return number


def test_no_item_is_set_aside_behind_a_long_one(tmp_path):
    items = [(tmp_path, number) for number in range(8)]
    assert list(workers.run(the_first_waits, items, "test", processes=2))[:6] == [1, 2, 3, 4, 5, 6]


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


# Progress --------------------------------------------------------------------------------------


class Screen(io.StringIO):
    """A terminal that remembers."""

    def isatty(self):
        return True


@pytest.fixture
def look(monkeypatch):
    """Put a terminal in the place of standard error; called in the test, since pytest sets its own before."""

    def put(shown=None):
        shown = shown or Screen()
        monkeypatch.setattr("sys.stderr", shown)
        return shown

    return put


@pytest.fixture
def moves(monkeypatch):
    """Every step of the bar, in its units."""
    steps = []

    class Bar(workers.tqdm):
        def update(self, n=1):
            steps.append(n)
            return super().update(n)

    monkeypatch.setattr(workers, "tqdm", Bar)
    return steps


def in_steps(item):
    """Report all but the last quarter of the work, and a number to show."""
    for _ in range(3):
        workers.advance(item / 4, loss=item / 3, epoch=7)
    return item


def too_much(item):
    workers.advance(100 * item)
    workers.advance(1)
    return item


def slowly(item):
    for _ in range(4):
        time.sleep(0.3)
        workers.advance(item / 5, loss=0.5)
    return item


def die(item):
    os._exit(1)


def half_then_die_once(marker):
    workers.advance(1)
    time.sleep(1)
    return die_once(marker)


def test_advance_outside_a_run_does_nothing(capsys):
    assert workers.advance(3, loss=0.1) is None
    assert capsys.readouterr() == ("", "")


def test_the_bar_moves_by_what_units_report_and_ends_full(moves, look):
    screen = look()
    assert list(workers.run(in_steps, [4, 8], "training", 1, size=float)) == [4, 8]
    assert moves == [1, 1, 1, 1, 2, 2, 2, 2]
    assert "training 2/2: 100%" in screen.getvalue()
    assert "loss=2.67" in screen.getvalue()
    assert "epoch=7" in screen.getvalue()


def test_without_sizes_every_item_is_one(moves, look):
    screen = look()
    list(workers.run(math.sqrt, [1, 4, 9], "roots", 1))
    assert moves == [1, 1, 1]
    assert "roots 3/3: 100%" in screen.getvalue()


def test_too_large_a_report_does_not_move_the_bar_beyond_the_item(moves, look):
    look()
    list(workers.run(too_much, [4, 8], "test", 1, size=float))
    assert moves == [4, 8]


def test_a_unit_that_fails_leaves_no_listener_behind(moves, look):
    look()
    with pytest.raises(ZeroDivisionError):
        list(workers.run(lambda item: workers.advance(1) or item / 0, [4], "test", 1, size=float))
    workers.advance(1)
    assert moves == [1]


def test_short_work_leaves_no_line_in_a_log(look):
    log = look(io.StringIO())
    list(workers.run(in_steps, [4, 8], "training", 1, size=float))
    assert log.getvalue() == ""


def test_long_work_leaves_whole_lines_in_a_log_seldom(look, monkeypatch):
    monkeypatch.setattr(workers, "LOG_SECONDS", 0.5)
    log, began = look(io.StringIO()), time.monotonic()
    list(workers.run(slowly, [5, 10], "training", 1, size=float))  # 2.4 s at least
    lines = log.getvalue().splitlines()
    assert log.getvalue() == "".join(f"{line}\n" for line in lines)
    assert all(re.fullmatch(r"training [012]/2: +\d+% \[[^\r]*, loss=0\.5\]", line) for line in lines)
    assert lines[-1].startswith("training 2/2: 100% ")
    assert 2 <= len(lines) <= (time.monotonic() - began) / 0.5 + 1


def test_units_on_a_cluster_move_the_bar_while_they_work(moves, look, monkeypatch):
    screen = look()
    with cluster_of_one() as cluster:
        monkeypatch.setenv("INVARIANCES_CLUSTER", cluster.scheduler_address)
        assert list(workers.run(slowly, [5, 10], "training", size=float)) == [5, 10]
    assert len(moves) > 4  # more than the two that finished
    assert sum(moves) == pytest.approx(15)
    assert min(moves) > 0
    assert "loss=0.5" in screen.getvalue()


def test_what_a_lost_worker_had_done_does_not_count_twice(moves, look, tmp_path):
    look()
    markers = [tmp_path / "dies", tmp_path / "lives"]
    markers[1].touch()
    list(workers.run(half_then_die_once, markers, "test", 2, size=lambda marker: 2))
    assert sum(moves) == 4
    assert moves.count(1) >= 3  # reports came in, and the rest with the end


# A cluster that fails --------------------------------------------------------------------------


def sentence(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("cluster", ["tcp://127.0.0.1:9", "nonsense", "file", "empty"])
def test_a_scheduler_that_does_not_answer_is_one_sentence(tmp_path, monkeypatch, capfd, cluster):
    monkeypatch.setattr(workers, "SCHEDULER_TIMEOUT", 1)
    if cluster in ("file", "empty"):
        content, cluster = "not json" if cluster == "file" else "{}", str(tmp_path / "scheduler.json")
        Path(cluster).write_text(content)
    monkeypatch.setenv("INVARIANCES_CLUSTER", cluster)
    with pytest.raises(WorkersError, match="unset it to use this machine") as caught:
        list(workers.run(math.sqrt, [1, 2], "test"))
    assert f"no Dask scheduler answers at {cluster}" in sentence(caught)
    assert capfd.readouterr() == ("", "")


def test_a_unit_that_ends_every_worker_is_one_sentence():
    killed = pytest.raises(WorkersError, match="ended every worker process")
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), killed as caught:
        list(workers.run(die, [1, 2], "training models", 2))
    assert "training models stopped" in sentence(caught)
    assert "(1 times)" in sentence(caught)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_machine_that_stood_still_is_given_a_second_chance(failures):
    stalls = iter([AssertionError] * failures)

    def start():
        for stall in stalls:
            raise stall
        return "started"

    if failures < 2:
        assert workers._started_twice(start) == "started"
    else:
        with pytest.raises(RuntimeError, match="more than 10 s to start a thread, twice"):
            workers._started_twice(start)


def test_ctrl_c_is_put_off_until_the_block_ends():
    before, reached = signal.getsignal(signal.SIGINT), []  # ignored where the tests run in the background of a shell
    with pytest.raises(KeyboardInterrupt), workers._uninterrupted():
        signal.raise_signal(signal.SIGINT)
        reached.append(1)
    assert reached == [1]
    assert signal.getsignal(signal.SIGINT) is before
    with workers._uninterrupted():
        pass


@pytest.mark.parametrize(("waits", "call"), [(as_completed, "next_batch"), (Future, "result")])
def test_ctrl_c_within_dask_s_waiting_is_heard_after_it(monkeypatch, waits, call):
    """`threading.Event.wait`, interrupted as it takes back its lock, releases one that it does not hold."""
    waited, whole = getattr(waits, call), []

    def pressed(*args, **options):
        signal.raise_signal(signal.SIGINT)
        answer = waited(*args, **options)
        whole.append(call)
        return answer

    with cluster_of_one() as cluster:
        monkeypatch.setenv("INVARIANCES_CLUSTER", cluster.scheduler_address)
        monkeypatch.setattr(waits, call, pressed)
        with pytest.raises(KeyboardInterrupt):
            list(workers.run(abs, [1, 2], "test"))
    assert whole == [call]


def test_a_result_that_the_scheduler_took_with_it_is_one_sentence(monkeypatch):
    def gone(self):
        raise CommClosedError("in <TCP (closed) gather>: Stream is closed")

    with cluster_of_one() as cluster:
        monkeypatch.setenv("INVARIANCES_CLUSTER", cluster.scheduler_address)
        monkeypatch.setattr(Future, "result", gone)
        with pytest.raises(WorkersError, match="went away; what is finished is kept") as lost:
            list(workers.run(abs, [1, 2], "test"))
        assert "\n" not in str(lost.value)
