"""Runs that can be disturbed: the command in processes of its own, forked from one that has imported everything."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import some_models
from filelock import FileLock, Timeout

from invariances.zoo import workers

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["invariances.cli", *workers.PRELOADED])


class Run(NamedTuple):
    process: multiprocessing.Process
    home: Path
    folder: Path

    def signal(self, number):
        """To the process group, as a terminal does; a run that has just ended has none."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self, seconds=600):
        """Exit status, standard output and standard error."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s"
        return self.process.exitcode, (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def workers(self):
        """Processes that live and know the run's store, but for the one that started them."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("INVARIANCES_HOME") == str(self.home) and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def no_orphan(self, seconds=300):
        wait(lambda: not self.workers(), seconds)

    def finished(self):
        """How many models are stored."""
        return len(list(self.home.glob("models/*.json")))

    def under_way(self):
        """Whether a model is being trained or written: a run that was killed leaves locks, but holds none."""
        return any(held(lock) for lock in self.home.glob("models/*.lock"))

    def works_beyond(self, n):
        """Whether so many models are stored and another is under way."""
        return self.finished() >= n and self.under_way()

    def checkpoints(self):
        """How many checkpoints the process itself has written."""
        return (self.folder / "saved").read_text().count("checkpoints")


def held(lock):
    try:
        with FileLock(lock).acquire(blocking=False):
            return False
    except Timeout:
        return True


def wait(until, seconds=300):
    """Poll until something holds."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path):
    """Start the command in a store; what still runs after the test is ended."""
    started = []

    def start_one(n, processes=1, cluster="", largest_file=None, arguments=None):
        folder = tmp_path / f"run {len(started)}"
        folder.mkdir()
        home = tmp_path / "home"
        environment = {"INVARIANCES_HOME": str(home), "INVARIANCES_CLUSTER": cluster}
        arguments = arguments or ["some-models", str(n), str(processes)]
        process = CONTEXT.Process(target=some_models.command, args=(arguments, environment, folder, largest_file))
        process.start()
        started.append(process)
        wait((folder / "err").exists)  # it leads its group
        return Run(process, home, folder)

    yield start_one
    for process in started:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """What the command prints for n models, from a run in this process."""
    lines = train(tmp_path_factory.mktemp("undisturbed"), 40)
    return lambda n: "".join(lines[:n])


@pytest.fixture(scope="session")
def three_models(tmp_path_factory):
    """A store of three models; to be copied."""
    home = tmp_path_factory.mktemp("three")
    train(home, 3)
    return home


def train(home, n):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVARIANCES_HOME", str(home))
        trained = dict(some_models.zoo.train(some_models.recipes(n), "cpu", processes=1))
    return [f"{recipe.seed} {some_models.digest(model)}\n" for recipe, model in trained.items()]
