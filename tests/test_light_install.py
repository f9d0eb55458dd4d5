"""The wheel in an environment that has the light dependencies and nothing else."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
CATCHES_A_HANG = 600


def _closure(names):
    """The distributions that some need, directly or not, without extras."""
    found, waiting = {}, list(names)
    while waiting:
        name = re.split(r"[<>=!~;\[ (]", waiting.pop())[0]
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        waiting += [line for line in found[key].requires or [] if "extra ==" not in line]
    return found


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """The path of packages: the wheel of this project, and links to its light dependencies."""
    folder = tmp_path_factory.mktemp("light")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder, ROOT]
    subprocess.run(command, check=True, timeout=CATCHES_A_HANG)
    (wheel,) = folder.glob("invariances-*.whl")
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for distribution in _closure(dependencies).values():
        for file in distribution.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    return site


def _run(light, folder, *arguments, code="from invariances.cli import main; main()"):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "INVARIANCES"))}
    environment |= {"PYTHONPATH": str(light), "INVARIANCES_HOME": str(folder / "home")}
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=CATCHES_A_HANG,
    )


@pytest.fixture
def folder(tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 6)) * np.linspace(2, 0.5, 6)
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", x[:, ::-1])
    return tmp_path


def test_the_wheel_says_that_it_has_types(light):
    assert (light / "invariances" / "py.typed").is_file()


def test_discover_answers(light, folder):
    done = _run(light, folder, "discover", "a.npy", "b.npy", "--anchors", "60")
    assert done.returncode == 0, done.stderr
    assert "'orthogonal'" in done.stdout


def test_the_method_is_imported_and_used(light, folder):
    code = (
        "import numpy as np, invariances as i; a = np.load('a.npy'); "
        "print(i.align({'a': a, 'b': a[:, ::-1]}, 60).shape, i.discover([a, 2 * a], 60).verdict.invariance)"
    )
    done = _run(light, folder, code=code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "scale"


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["discover", "a.npy", "b.npy", "--anchors", "60", "--html", "r.html"], "plot"),
        (["run", "initialization", "--dry-run"], "zoo,book"),
        (["run", "initialization"], "zoo,book"),
        (["book"], "zoo,book"),
        (["reproduce"], "zoo,book"),
        (["data"], "zoo"),
        (["data", "--check"], "zoo"),
        (["store"], "zoo"),
    ],
)
def test_what_a_command_lacks_is_named_with_its_extra_before_the_work(arguments, extra, light, folder):
    done = _run(light, folder, *arguments)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert f"pip install 'invariances[{extra}]'" in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in folder.iterdir()) == ["a.npy", "b.npy"]


def test_a_plot_names_the_extra(light, folder):
    code = "import numpy as np, invariances as i; a = np.load('a.npy'); i.discover([a, 2 * a], 60).plot()"
    done = _run(light, folder, code=code)
    assert done.stderr.strip().splitlines()[-1].endswith("run pip install 'invariances[plot]'")
