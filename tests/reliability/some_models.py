"""Train some models as a command of `invariances` and print a digest of each: what the tests here disturb."""

import hashlib
import itertools
import json
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

from invariances import zoo
from invariances.cli import app, main
from invariances.zoo import checkpoints, datasets, store, workers
from invariances.zoo.locating import View
from invariances.zoo.recipes import Network, Recipe, Training

CNN = Network("cnn", 3, 32, width=16)


def recipes(n, epochs=4):
    prepared = datasets.prepare(View("mnist", "builtin", 1000, 449, pixels=8, channels=1))
    return [Recipe(prepared.key, prepared.title, "classification", CNN, Training(epochs), seed) for seed in range(n)]


def digest(trained):
    """Over the bits of weights, spaces and scores."""
    bits = hashlib.sha256(json.dumps(trained.scores, sort_keys=True).encode())
    for name, array in sorted({**trained.weights, **trained.spaces}.items()):
        bits.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return bits.hexdigest()


@app.command()
def some_models(n: int, processes: int, every_step: bool = False, killed_at: int = 0) -> None:
    """Train models of seeds 0, 1, ..., n - 1, perhaps with a checkpoint after every step.

    Perhaps it is killed where it would give a checkpoint's file its name the `killed_at`-th time: of
    every two, the first is that of the arrays, the second that of the note.
    """
    if every_step:
        checkpoints.CHECKPOINT_SECONDS = 0.0
    if killed_at:
        die_at(killed_at)
    for recipe, trained in zoo.train(recipes(n), "cpu", processes).items():
        print(recipe.seed, digest(trained))


def die_at(last):
    replace, renames = Path.replace, itertools.count(1)

    def replace_or_die(path, target):
        if path.parent.name == "checkpoints" and next(renames) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    Path.replace = replace_or_die


def command(arguments, environment, folder, largest_file=None):
    """`invariances` in a process group of its own, as a shell would start it; its output goes to files."""
    os.setsid()
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # where workers were started first, their mask is here
    if largest_file:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    (folder / "saved").touch()
    save = store.save

    def save_and_say(kind, key, artefact):
        save(kind, key, artefact)
        with (folder / "saved").open("a") as lines:
            lines.write(f"{kind} {key}\n")

    store.save = save_and_say
    workers.LOG_SECONDS = float("inf")  # no line of progress, however slow this machine is
    sys.argv = ["invariances", *arguments]
    main()
