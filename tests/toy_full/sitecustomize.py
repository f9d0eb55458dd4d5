"""The profile "full" at toy sizes, on embedded data, in every process whose PYTHONPATH names this folder.

Python imports a module of this name at its start, so that the notebooks' kernels have these sizes, too.
"""

from dataclasses import replace

from invariances.paper.profiles import PROFILES
from invariances.zoo import workers

SIZES = {"data": "builtin", "seeds": 3, "n_train": {"": 100}, "n_test": 60, "n_parallel": 100}
SMALL = {name: getattr(PROFILES["smoke"], name) for name in ("pixels", "pixels_imagenet", "vocabulary", "length")}
TRAINING = {name: getattr(PROFILES["smoke"], name) for name in ("batch_size", "networks")}
EPOCHS = dict.fromkeys(PROFILES["full"].epochs, 1)

PROFILES["full"] = replace(PROFILES["full"], **SIZES, **SMALL, **TRAINING, epochs=EPOCHS)
workers.cores = lambda: 1
