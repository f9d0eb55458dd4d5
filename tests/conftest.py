"""What all tests share: one torch thread, a store of their own, no network, no data but the embedded."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
worker = os.environ.get("PYTEST_XDIST_WORKER")
if worker and hasattr(os, "sched_setaffinity"):
    # a core for each worker: no test starts processes that would run beside another's
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[int(worker.removeprefix("gw")) % len(allowed)]})
settings.register_profile("companion", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("companion")


LONG = ("tests/test_reproduce.py", "tests/notebooks", "tests/reliability", "tests/book/test_pages.py")
"""What takes longest, and comes first: no worker is then left with one of these when the others have ended."""


def pytest_collection_modifyitems(items):
    """Put long files before the others, which stay in their order."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory):
    """A store that no run outside the tests can see, shared by the tests of one worker."""
    patch = pytest.MonkeyPatch()
    patch.setenv("INVARIANCES_HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("INVARIANCES_DATA", "INVARIANCES_CLUSTER"):
        patch.delenv(name, raising=False)
    yield
    patch.undo()
