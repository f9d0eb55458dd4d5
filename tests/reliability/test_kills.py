"""Killed at any moment, a rerun goes on and ends with the same bits."""

import random
import signal
import time

import psutil
import pytest
from conftest import wait

from invariances.zoo import store
from invariances.zoo.contents import CONTENTS


def states(run, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(run.home))
    return set(store.entries(True, CONTENTS)["state"])


@pytest.mark.parametrize(("processes", "kills", "starting"), [(2, 3, 1), (1, 17, 4)])
def test_killed_at_twenty_moments_the_models_are_those_of_an_undisturbed_run(
    start, undisturbed, monkeypatch, processes, kills, starting
):
    draw, hit, n = random.Random(processes), 0, 40
    for kill in range(kills):
        run = start(n, processes)
        if kill >= starting:
            goal = run.finished() + draw.randrange(3)
            wait(lambda run=run, goal=goal: run.works_beyond(goal) or not run.process.is_alive())
        time.sleep(draw.uniform(0, 0.1 if kill >= starting else 1.5))
        # every other time the main process alone: its workers have to notice
        alive = run.process.is_alive()
        run.process.kill() if kill % 2 or not alive else run.signal(signal.SIGKILL)
        run.end()
        run.no_orphan()
        wait(lambda run=run: not run.under_way())  # who dies gives back the locks, perhaps a moment later
        hit += alive and run.finished() < n
        assert "damaged" not in states(run, monkeypatch)
    assert hit >= 0.8 * kills  # the kills came in the midst of it

    run = start(n, processes)
    status, out, err = run.end()
    assert (status, out, err) == (0, undisturbed(n), "")
    run.no_orphan()
    assert states(run, monkeypatch) <= {"whole", "leftover"}
    store.prune(store.Selection(), CONTENTS)
    assert states(run, monkeypatch) == {"whole"}


def test_killed_in_the_midst_of_a_training_it_goes_on_from_a_checkpoint(start, undisturbed, monkeypatch):
    arguments = ["some-models", "2", "1", "--every-step"]
    written = 0
    for killed_at in (3, 4, 9, 12, 20, 1):  # odd: before its arrays are in place; even: before its note is
        run = start(2, arguments=[*arguments, "--killed-at", str(killed_at)])
        assert run.end() == (-signal.SIGKILL, "", "")
        written += run.checkpoints()
        assert any(run.home.glob("checkpoints/*.json"))
        assert "damaged" not in states(run, monkeypatch)
    run = start(2, arguments=arguments)
    assert run.end() == (0, undisturbed(2), "")
    assert written + run.checkpoints() == 2 * 32  # one for each step: none that had one was taken again
    store.prune(store.Selection(), CONTENTS)
    assert states(run, monkeypatch) == {"whole"}
    assert not any(run.home.glob("checkpoints/*.safetensors"))


def test_a_worker_killed_in_the_midst_costs_a_retry_and_no_bit(start, undisturbed):
    run = start(6, 2)
    wait(lambda: run.under_way())
    workers = [one for one in run.workers() if one.ppid() != run.process.pid]  # copies of a process that it started
    assert len(workers) == 2
    assert run.finished() < 6
    workers[0].kill()
    assert run.end() == (0, undisturbed(6), "")
    assert not psutil.pid_exists(workers[0].pid)
    run.no_orphan()
