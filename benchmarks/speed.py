"""How fast the method is: against peers, loops written by hand and bare matrix products, and as data grow.

Needs the extra `bench`. Every figure is a ratio of times from one run on one thread, taken in turns.
"""

from __future__ import annotations

import os

# before numpy is imported: one thread for everybody
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
# a kernel forced on OpenBLAS would slow the numpy peers
os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)

import math
import multiprocessing
import platform
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import combinations, islice, permutations
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import peers
import threadpoolctl
import torch
import typer
from sklearn.model_selection import KFold
from tqdm import tqdm

from invariances.alignment import align
from invariances.discovery import discover
from invariances.metrics.kernels import TILE_BYTES, cheaper
from invariances.metrics.table import pairwise
from invariances.paper.plots import WIDTH, save_svg
from invariances.report import Report

HERE = Path(__file__).resolve().parent.parent
OURS = "invariances"
ALL_CORES = "invariances, on all cores"
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
INVARIANCES = ("absolute", "scale", "relative", "affine")
METRICS = ("cosine", "cka", "procrustes")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Sizes(NamedTuple):
    """What is run; `quick` only shows that it works."""

    cka: tuple[int, int, int] = (4000, 512, 32)
    """Samples, width, models."""
    align: tuple[int, int, int, int] = (4500, 128, 32, 500)
    """The same, and anchors."""
    samples: tuple[int, ...] = (4_000, 8_000, 16_000, 32_000, 64_000, 256_000, 1_024_000)
    models: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    discover: tuple[int, int, int, int] = (5000, 256, 5, 600)
    """Samples, width, models, anchors; `grown` has its growth from there."""
    grown: tuple[tuple[int, ...], ...] = (
        (2500, 5000, 10_000, 20_000, 40_000),
        (64, 128, 256, 512),
        (3, 6, 12),
    )
    rule_models: tuple[int, ...] = (2, 4, 8, 16, 32)
    rule_samples: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384)


FULL = Sizes()
QUICK = Sizes(
    (400, 32, 6),
    (450, 16, 4, 50),
    (1000, 4000, 16_000),
    (4, 8, 16),
    (600, 24, 4, 100),
    ((600, 1200), (12, 24), (3, 6)),
    (2, 8),
    (256, 1024),
)


def models_like(n: int, d: int, count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Spaces of `count` models of the same samples: one shared code, rotated, with private noise; float32."""
    rng = np.random.default_rng(seed)
    code = rng.normal(size=(n, d)) * np.geomspace(1, 0.1, d) + 2 * rng.normal(size=(10, d))[classes_like(n)]
    for _ in range(count):
        rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
        yield (code @ rotation + 0.3 * rng.normal(size=(n, d))).astype(np.float32)


def classes_like(n: int) -> np.ndarray:
    """Ten classes."""
    return np.arange(n) % 10


# Timing ------------------------------------------------------------------------------------------


class Contender(NamedTuple):
    """Something to time, and how its time is to be read."""

    run: Callable[[], object]
    dtype: str = "float32"
    rounds: int = 1_000
    """In how many rounds it takes part: fewer for the slow."""
    share: float = 1.0
    """Which part of the work it does; its time is divided by that."""


def race(contenders: Mapping[str, Contender], rounds: int, title: str | None) -> tuple[pd.DataFrame, dict[str, object]]:
    """Seconds for the whole work, rounds x contenders, and what each returned; in each round they run in turns."""
    seconds = pd.DataFrame(np.nan, index=range(rounds), columns=list(contenders))
    returned: dict[str, object] = {}
    bar = tqdm(total=sum(min(rounds, each.rounds) for each in contenders.values()), desc=title, disable=title is None)
    for round_ in range(rounds):
        names = [name for name in contenders if round_ < contenders[name].rounds]
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            start = time.perf_counter()
            returned[name] = contenders[name].run()
            seconds.loc[round_, name] = (time.perf_counter() - start) / contenders[name].share
            bar.update()
    bar.close()
    return seconds, returned


def compared(seconds: pd.DataFrame, reference: str, contenders: Mapping[str, Contender], **row: object) -> list[dict]:
    """One row per contender: its median time, and the median over rounds of its time over the reference's."""
    return [
        {
            **row,
            "what": name,
            "seconds": seconds[name].median(),
            "ratio_to": reference,
            "ratio": (seconds[name] / seconds[reference]).median(),
            "repeats": int(seconds[name].count()),
            "dtype": contenders[name].dtype,
            "share_timed": contenders[name].share,
        }
        for name in seconds
    ]


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the times over the sizes, both logarithmic."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def steepest(sizes: pd.Series, seconds: pd.Series) -> float:
    """The exponent over all cases or over the larger half, whichever is worse: fixed costs flatter the whole."""
    half = len(sizes) // 2
    return max(exponent(sizes, seconds), exponent(sizes.iloc[half:], seconds.iloc[half:]))


# Study: all pairs of linear CKA ------------------------------------------------------------------


def study_cka(sizes: Sizes, rounds: int) -> list[dict]:
    """Linear CKA of all pairs of models: ours, peers, by hand, and the bare products."""
    n, d, count = sizes.cka
    spaces = list(models_like(n, d, count))
    tiny = [x[:64, :8] for x in spaces[:3]]
    pairs = list(combinations(range(count), 2))

    def looped(peer: peers.Peer, timed: int) -> Callable[[], list[float]]:
        return lambda: [peer.score(spaces[i], spaces[j]) for i, j in pairs[:timed]]

    whole: dict[str, tuple[Callable, str]] = {
        OURS: (lambda s: pairwise(s, "cka").to_numpy(), "float32"),
        f"{OURS}, debiased": (lambda s: pairwise(s, "cka_debiased").to_numpy(), "float32"),
        "pytorch-cka, all at once": (peers.pytorch_cka_at_once, "float32"),
        "by hand, numpy": (peers.cached_loop_numpy, "float32"),
        "by hand, torch": (peers.cached_loop_torch, "float32"),
        "bare products, numpy": (peers.bare_products_numpy, "float32"),
        "bare products, torch": (peers.bare_products_torch, "float32"),
    }
    contenders = {}
    for name, (run, dtype) in whole.items():
        run(tiny)  # whatever is loaded or compiled on first use
        contenders[name] = Contender(lambda run=run: run(spaces), dtype, 3 if "at once" in name else rounds)
    singles = {}
    for peer in peers.cka_peers():
        peer.score(*tiny[:2])
        start = time.perf_counter()
        peer.score(*spaces[:2])
        singles[peer] = time.perf_counter() - start
    fastest = min(singles, key=singles.get)
    for peer, single in singles.items():
        timed = len(pairs) if peer is fastest else min(peer.pairs, len(pairs))
        few = 3 if single * timed > 5 else rounds
        contenders[f"{peer.name}, pair by pair"] = Contender(looped(peer, timed), peer.dtype, few, timed / len(pairs))
    seconds, returned = race(contenders, rounds, "all pairs of CKA")
    off = _differences(returned, {f"{peer.name}, pair by pair": peer.debiased for peer in singles}, pairs)
    facts = {"study": "cka", "n": n, "d": d, "models": count}
    rows = compared(seconds, OURS, contenders, **facts)
    bare = seconds.filter(like="bare").median().idxmin()
    only = {OURS: contenders[OURS], bare: contenders[bare]}
    rows += compared(seconds[list(only)], bare, only, **facts)[:1]
    return [{**row, "off": off.get(row["what"], math.nan)} for row in rows]


def _differences(
    returned: Mapping[str, object], debiased: Mapping[str, bool], pairs: list[tuple[int, int]]
) -> dict[str, float]:
    """By how much each is off ours at most; nobody is timed on other numbers, but float32 Gram matrices are rough."""
    out = {}
    for name, scores in returned.items():
        if scores is None:
            continue
        ours = returned[f"{OURS}, debiased" if debiased.get(name, "at once" in name or "debiased" in name) else OURS]
        upper = [scores[i, j] for i, j in pairs] if isinstance(scores, np.ndarray) else scores
        expected = [ours[i, j] for i, j in islice(pairs, len(upper))]
        out[name] = float(np.abs(np.subtract(upper, expected)).max())
        if out[name] > 0.02:
            raise SystemExit(f"{name} is off by {out[name]:.1e}: nothing to compare")
    return out


# Study: the whole of phase 1 ---------------------------------------------------------------------


def study_align(sizes: Sizes, rounds: int) -> list[dict]:
    """Four invariances, three metrics, both nulls: `align` against the same numbers put together from peers."""
    n, d, count, k = sizes.align
    spaces = {f"model {i}": x for i, x in enumerate(models_like(n, d, count))}
    labels, anchors = classes_like(n), np.arange(k)
    names, timed = list(spaces), list(combinations(spaces, 2))[:2]
    pairs = count * (count - 1) // 2
    shuffles = peers.shuffles_of(labels[k:])

    def ours(chosen: Mapping[str, np.ndarray]) -> pd.DataFrame:
        return align(chosen, anchors, INVARIANCES, METRICS, labels[: len(next(iter(chosen.values())))])

    def represented(some: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
        return {name: peers.represent(spaces[name][k:], spaces[name][:k]) for name in some}

    ready = represented({name for pair in timed for name in pair})

    def paired() -> dict:
        return {
            (a, b): peers.phase_one_pair(ready[a], ready[b], spaces[a][:k], spaces[b][:k], shuffles) for a, b in timed
        }

    ours({name: spaces[name][: 2 * k, :8] for name in names[:2]})
    contenders = {
        OURS: Contender(lambda: ours(spaces)),
        "peers: each model": Contender(lambda: represented(names[:2]), "float32", share=2 / count),
        "peers: each pair": Contender(paired, "float32 and float64", share=len(timed) / pairs),
    }
    seconds, returned = race(contenders, min(rounds, 3), "phase 1")
    _check_align(returned[OURS], returned["peers: each pair"])
    seconds["peers' calls"] = seconds.pop("peers: each model") + seconds["peers: each pair"]
    contenders["peers' calls"] = contenders["peers: each pair"]
    del seconds["peers: each pair"]
    return compared(seconds, OURS, contenders, study="align", n=n, d=d, models=count)


def _check_align(table: pd.DataFrame, peers_own: Mapping[tuple[str, str], Mapping]) -> None:
    """Nobody is timed on other numbers; the ridge penalties' grids differ, and nulls by shuffles are noisy."""
    ours = table.set_index(["model_a", "model_b", "invariance", "metric"])
    for (a, b), cells in peers_own.items():
        for (invariance, metric), cell in cells.items():
            key = (b, a, "affine", metric) if invariance == "affine back" else (a, b, invariance, metric)
            close = {"score": 0.02 if "affine" in invariance else 1e-3, "null": 0.02, "null_within_class": 0.02}
            for column, bound in close.items():
                if abs(ours.loc[key, column] - cell[column]) > bound:
                    raise SystemExit(f"{column} of {key} is {ours.loc[key, column]}, the peers' is {cell[column]}")


# Study: growth -----------------------------------------------------------------------------------


def study_samples(sizes: Sizes, rounds: int) -> list[dict]:
    """Time and memory against the number of samples, in feature space, from files."""
    d, count = 128, 4
    return _grown("samples", [(n, d, count) for n in sizes.samples], "features", rounds)


def study_models(sizes: Sizes, rounds: int) -> list[dict]:
    """Time and memory against the number of models, from files."""
    return _grown("models", [(1000, 64, count) for count in sizes.models], "auto", rounds)


def _grown(study: str, cases: Sequence[tuple[int, int, int]], method: str, rounds: int) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n, d, count in tqdm(cases, desc=study):
            paths = []
            for i, x in enumerate(models_like(n, d, count)):
                paths.append(Path(folder) / f"{n}-{i}.npy")
                np.save(paths[-1], x)
            facts = {"study": study, "what": method, "n": n, "d": d, "models": count, "dtype": "float32"}
            rows.append({**facts, "repeats": rounds, "data_mb": n * d * count * 4 / 2**20})
            timed = _in_fresh_process(paths, method, rounds, {})
            held = _in_fresh_process(paths, method, 0, FREED_AT_ONCE)
            rows[-1] |= {**held, "seconds": timed["seconds"], "allocator_mb": timed.get("resident_mb", math.nan)}
            for path in paths:
                path.unlink()
    first = rows[0]
    which = "n" if study == "samples" else "models"
    return [
        {**row, "ratio_to": f"{which} = {first[which]}", "ratio": row["seconds"] / first["seconds"]} for row in rows
    ]


MEMORY = {
    "data_mb": "the files themselves",
    "allocator_mb": "resident, with what the allocator keeps",
    "resident_mb": "resident",
    "anonymous_mb": "anonymous",
}
"""Columns of memory, and what they count."""

FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Makes glibc give memory back as soon as it is freed, so that what is measured is what the code holds."""


def _in_fresh_process(paths: Sequence[Path], method: str, rounds: int, settings: Mapping[str, str]) -> dict[str, float]:
    """`measure` in a process of its own, so that no case inherits another's memory."""
    os.environ.update(settings)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        measured = pool.apply(measure, (paths, method, rounds))
    for name in settings:
        del os.environ[name]
    return measured


def measure(paths: Sequence[Path], method: Literal["features", "gram", "auto"], rounds: int) -> dict[str, float]:
    """Median seconds, and by how much the memory grew at its highest, of one matrix of CKA from files."""
    small = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
    pairwise([small, small + 1], "cka", method)  # libraries' own buffers
    memory = _watched(lambda: pairwise(paths, "cka", method))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        pairwise(paths, "cka", method)
        seconds.append(time.perf_counter() - start)
    return {**memory, **({"seconds": float(np.median(seconds))} if seconds else {})}


def _watched(run: Callable[[], object]) -> dict[str, float]:
    """Growth of the peaks of memory in MiB while `run` runs; nothing where there is no /proc (not Linux).

    Anonymous memory is what the process itself holds; it is sampled. Resident memory also counts the
    pages of mapped files, which the system can take back at any time; its peak is the kernel's own.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        run()
        return {}

    def held(field: str) -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) / 1024

    reset.write_text("5")  # sets the highest resident size so far to the present one
    resident, anonymous = held("VmRSS"), held("RssAnon")
    peak, done = [anonymous], threading.Event()

    def sample() -> None:
        while not done.wait(0.001):
            peak.append(held("RssAnon"))

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return {"anonymous_mb": max(peak) - anonymous, "resident_mb": held("VmHWM") - resident}


# Study: discover ---------------------------------------------------------------------------------


def study_discover(sizes: Sizes, rounds: int) -> list[dict]:
    """`discover` against what one would write with scipy and scikit-learn, on the same anchors and folds; float64."""
    n, d, count, k = sizes.discover
    spaces = {f"model {i}": x.astype(np.float64) for i, x in enumerate(models_like(n, d, count))}
    folds = KFold(5, shuffle=True, random_state=0)
    pairs = list(permutations(spaces, 2))

    def ours(some: Mapping[str, np.ndarray]) -> Report:
        return discover(some, np.arange(k))

    def by_hand(timed: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict[str, float]]:
        halves = {name: (x[:k], x[k:]) for name, x in spaces.items()}
        found = {}
        for a, b in timed:
            beside = [halves[name] for name in spaces if name not in (a, b)]
            others = tuple(np.hstack(half) for half in zip(*beside, strict=True))
            found[a, b] = peers.ladder_pair(halves[a], halves[b], others, folds)
        return found

    ours({name: x[: 2 * k, :8] for name, x in spaces.items()})
    timed = pairs[:2]
    contenders = {
        OURS: Contender(lambda: ours(spaces), "float64"),
        ALL_CORES: Contender(lambda: on_all_cores(lambda: ours(spaces)), "float64"),
        "by hand, scipy and scikit-learn": Contender(lambda: by_hand(timed), "float64", 3, len(timed) / len(pairs)),
        "one decomposition a pair and class": Contender(lambda: decompose(d, 8 * len(pairs)), "float64"),
    }
    seconds, returned = race(contenders, rounds, "discover")
    _check_discover(returned[OURS], returned["by hand, scipy and scikit-learn"])
    return compared(seconds, OURS, contenders, study="discover", n=n, d=d, models=count)


def on_all_cores(run: Callable[[], object]) -> object:
    """What it returns, run on all cores of this process and not on the one that the others have."""
    if not CORES:
        return run()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    try:
        return run()
    finally:
        os.sched_setaffinity(0, before)


def decompose(d: int, times: int) -> None:
    """Singular value decompositions of a d x d matrix."""
    matrix = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(times):
        torch.linalg.svd(matrix)


def _check_discover(report: Report, by_hand: Mapping[tuple[str, str], Mapping[str, float]]) -> None:
    """Nobody is timed on other numbers. Ours also filters noise that is left, so that they are close, not equal."""
    ours = report.ladder.set_index("class").explained_variance
    for name, expected in pd.DataFrame(by_hand.values()).mean().items():
        if expected > 0 and abs(ours[name] - expected) > 0.05:  # below 0 a map is worse than none
            raise SystemExit(f"{name} explains {ours[name]:.3f} with discover, {expected:.3f} by hand")


def study_discover_growth(sizes: Sizes, rounds: int) -> list[dict]:
    """Time of `discover` against samples, width and models, one at a time."""
    n, d, _, k = sizes.discover
    lines = {
        "n": [(more, d, 3) for more in sizes.grown[0]],
        "d": [(n, more, 3) for more in sizes.grown[1]],
        "models": [(n, d // 2, more) for more in sizes.grown[2]],
    }
    rows = []
    for size, cases in lines.items():
        seconds = []
        for case in tqdm(cases, desc=f"discover by {size}"):
            spaces = list(models_like(*case))
            contender = {OURS: Contender(lambda spaces=spaces: discover(spaces, np.arange(k)))}
            seconds.append(race(contender, min(rounds, 2), None)[0][OURS].median())
            facts = dict(zip(("n", "d", "models"), case, strict=True))
            more = {"seconds": seconds[-1], "ratio": seconds[-1] / seconds[0], "ratio_to": f"{size} = {cases[0]}"}
            rows.append({"study": "growth", "what": size, **facts, **more, "repeats": min(rounds, 2)})
    return [{**row, "dtype": "float32", "share_timed": 1.0} for row in rows]


# Study: the cost rule ----------------------------------------------------------------------------


def study_rule(sizes: Sizes, rounds: int) -> list[dict]:
    """Both formulas of CKA on both sides of the border, and whether the rule takes the faster."""
    cases = [(2048, 256, count) for count in sizes.rule_models] + [(n, 256, 16) for n in sizes.rule_samples]
    cases = list(dict.fromkeys(cases))  # the two lines cross
    rows = []
    for n, d, count in tqdm(cases, desc="cost rule"):
        spaces = list(models_like(n, d, count))
        contenders = {
            method: Contender(lambda method=method, spaces=spaces: pairwise(spaces, "cka", method))
            for method in ("features", "gram", "auto")
        }
        seconds, _ = race(contenders, rounds, None)
        faster = seconds[["features", "gram"]].median().idxmin()
        rows += compared(seconds, faster, contenders, study="rule", n=n, d=d, models=count)
    return rows


STUDIES: dict[str, Callable[[Sizes, int], list[dict]]] = {
    "cka": study_cka,
    "align": study_align,
    "samples": study_samples,
    "models": study_models,
    "discover": study_discover,
    "growth": study_discover_growth,
    "rule": study_rule,
}


# What came out -----------------------------------------------------------------------------------


NAMES = {"n": "samples", "d": "width", "models": "models"}


class Finding(NamedTuple):
    """One claim with its bound."""

    claim: str
    target: str
    measured: str
    met: bool


def findings(table: pd.DataFrame) -> list[Finding]:
    """Every claim about speed, from the table alone."""
    out: list[Finding] = []

    def at_least(claim: str, bound: float, value: float) -> None:
        out.append(Finding(claim, f"≥ {bound:g} ×", f"{value:.3g} ×", value >= bound))

    def at_most(claim: str, bound: float, value: float, unit: str = "") -> None:
        out.append(Finding(claim, f"≤ {bound:g}{unit}", f"{value:.3g}{unit}", value <= bound))

    for study, part in table.groupby("study", sort=False):
        if study == "cka":
            slower = part[part.ratio_to == OURS].set_index("what").ratio
            rivals = slower[slower.index.str.contains("pair by pair|at once")]
            at_least(f"all pairs of CKA: fastest peer ({rivals.idxmin()}) over ours", 5, rivals.min())
            at_least("all pairs of CKA: loop by hand over ours", 2, slower[slower.index.str.contains("by hand")].min())
            bare = part[part.ratio_to != OURS].iloc[0]
            at_most(f"all pairs of CKA: ours over the {bare.ratio_to}", 1.5, bare.ratio, " ×")
        if study == "align":
            at_least("phase 1: peers' calls over ours", 10, part.set_index("what").ratio["peers' calls"])
        if study == "samples":
            at_most("samples: exponent of the time", 1.1, steepest(part.n, part.seconds))
            if "resident_mb" in part and len(part) > 2:
                last, before = part.iloc[-1], part[part.n <= part.n.iloc[-1] / 2].iloc[-1]
                times = last.resident_mb / before.resident_mb
                at_most(f"samples: memory for {last.n / before.n:g} times as many", 1.2, times, " ×")
        if study == "models":
            at_most("models: exponent of the time", 2.1, steepest(part.models, part.seconds))
            if "resident_mb" in part and len(part) > 1:
                first, last = part.iloc[0], part.iloc[-1]
                grown = math.log(last.resident_mb / first.resident_mb) / math.log(last.models / first.models)
                at_most("models: exponent of the memory, from the fewest to the most", 1.1, grown)
        if study == "discover":
            ratios = part.set_index("what").ratio
            at_least("discover: by hand over ours", 1, ratios["by hand, scipy and scikit-learn"])
            times = ratios[ALL_CORES] / ratios.filter(like="one decomposition").item()
            at_most(f"discover on {part.cores.iloc[0]} cores over one decomposition a pair and class", 6, times, " ×")
        if study == "growth":
            line = part[part.what == "n"]
            at_most("discover, by samples: exponent of the time", 1.1, steepest(line.n, line.seconds))
            line = part[part.what == "models"]  # the pairs of few models grow faster than N squared
            pairs = line.models * (line.models - 1)
            at_most("discover, by ordered pairs of models: exponent of the time", 1.1, steepest(pairs, line.seconds))
        if study == "rule":
            # by the formulas' own times: a third run of the one that is taken would add its noise
            forced = part.pivot_table("seconds", ["n", "d", "models"], "what")
            taken = [
                row[cheaper(n, [d] * count)] / row[["features", "gram"]].min()
                for (n, d, count), row in forced.iterrows()
            ]
            at_most("cost rule: the one it takes over the faster, at worst", 1.1, max(taken), " ×")
    return out


def extrapolation(table: pd.DataFrame) -> list[tuple[str, str]]:
    """What 10,000 models and a million samples would take, at the rate of the largest case that was timed."""
    case = table[table.study == "samples"].iloc[-1]
    models, n, d = 10_000, 1_000_000, int(case.d)

    def products(models: float, n: float) -> float:
        return n * d**2 * models * (models + 1)  # two operations each, half of all pairs

    rate = products(case.models, case.n) / case.seconds
    work = products(models, n)
    tiles = math.ceil(models * d / math.sqrt(TILE_BYTES / 8))
    read = tiles * (tiles + 1) / 2 * 2 * (models / tiles) * n * d * 4
    workers = work / rate / 86_400
    return [
        ("models × samples × width", f"{models:,} × {n:,} × {d}"),
        ("operations, $n\\,d^2 N(N+1)$", f"{work:.2g}"),
        ("rate of one core in this run", f"{rate / 1e9:.0f} · 10⁹ operations a second"),
        ("core-days, operations over rate", f"{work / rate / 86_400:,.0f}"),
        ("workers of one core, to be done in one day", f"{math.ceil(workers):,}"),
        ("read by all of them together", f"{read / 1e12:,.0f} TB, in {tiles * (tiles + 1) // 2:,} pairs of tiles"),
        ("read by each worker", f"{read / (work / rate) / 1e6:.0f} MB a second"),
    ]


def machine() -> dict[str, object]:
    """Facts of the machine that belong to every figure."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    blas = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "numpy_blas": "; ".join(f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in blas),
        "torch_blas": "MKL" if torch.backends.mkl.is_available() else "other",
        "numpy": np.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peers": "; ".join(f"{name} {version(name)}" for name in peers.PACKAGES),
        "load_before": round(os.getloadavg()[0], 2),
    }


def write(table: pd.DataFrame, into: Path) -> None:
    """The table, the fragments that the page includes, and the figures."""
    into.mkdir(parents=True, exist_ok=True)
    table.to_csv(into / "speed.csv", index=False, float_format="%.6g")
    lines = [(f.claim, f.target, f.measured, "yes" if f.met else "**no**") for f in findings(table)]
    _fragment(into / "findings.md", ("What", "Target", "Measured", "Met"), lines)
    part = table[(table.study == "cka") & (table.ratio_to == OURS)]
    lines = [(row.what, row.dtype, _plain(row.ratio), _timed(row), _off(row.off)) for row in part.itertuples()]
    _fragment(into / "cka.md", ("What", "Arithmetic", "Time over ours", "Timed", "Off ours at most"), lines)
    part = table[(table.study == "align") & (table.ratio_to == OURS)]
    lines = [(row.what, row.dtype, _plain(row.ratio), _timed(row)) for row in part.itertuples()]
    _fragment(into / "align.md", ("What", "Arithmetic", "Time over ours", "Timed"), lines)
    part = table[table.study == "discover"]
    lines = [(row.what, row.dtype, _plain(row.ratio), _timed(row)) for row in part.itertuples()]
    _fragment(into / "discover.md", ("What", "Arithmetic", "Time over ours", "Timed"), lines)
    if (table.study == "samples").any():
        _fragment(into / "extrapolation.md", ("Quantity", "Value"), extrapolation(table))
    facts = {key: ", ".join(map(str, dict.fromkeys(table[key]))) for key in machine()}
    _fragment(into / "machine.md", ("Machine", ""), [(key.replace("_", " "), value) for key, value in facts.items()])
    _draw_ratios(table, into / "ratios.svg")
    _draw_growth(table, into / "growth.svg")
    _draw_discover(table, into / "discover.svg")
    _draw_rule(table, into / "rule.svg")


def _timed(row: NamedTuple) -> str:
    part = "all" if row.share_timed == 1 else f"{row.share_timed:.1%}"
    return f"{part} of the work, {row.repeats} {'times' if row.repeats > 1 else 'time'}"


def _plain(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def _off(value: float) -> str:
    return "" if math.isnan(value) else "0" if value == 0 else f"{value:.0e}"


def _fragment(path: Path, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    rows = [heads, ["---"] * len(heads), *lines]
    path.write_text("\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n", encoding="utf-8")


def _draw_ratios(table: pd.DataFrame, path: Path) -> None:
    parts = {"cka": "CKA of all pairs", "align": "phase 1"}
    present = {key: title for key, title in parts.items() if (table.study == key).any()}
    if not present:
        return
    figure, axes = plt.subplots(
        len(present), 1, figsize=(WIDTH, 4.6), layout="constrained", squeeze=False, height_ratios=[4, 1][: len(present)]
    )
    for ax, (study, title) in zip(axes.flat, present.items(), strict=True):
        part = table[(table.study == study) & (table.ratio_to == OURS) & (table.what != OURS)].sort_values("ratio")
        colours = [
            "C7" if "bare" in what else "C1" if "hand" in what else "C2" if OURS in what else "C0" for what in part.what
        ]
        ax.barh(part.what, part.ratio, color=colours)
        ax.bar_label(ax.containers[0], [_plain(ratio) for ratio in part.ratio], padding=3)
        ax.axvline(1, color="0.3", linewidth=1)
        ax.set(xscale="log", title=title, xlabel="time over ours")
        ax.margins(x=0.15)
    _save(figure, path)


def _draw_growth(table: pd.DataFrame, path: Path) -> None:
    parts = {"samples": ("n", "samples"), "models": ("models", "models")}
    present = [key for key in parts if (table.study == key).any()]
    if not present:
        return
    figure, axes = plt.subplots(2, len(present), figsize=(WIDTH, 5.6), layout="constrained", squeeze=False)
    for (above, below), study in zip(axes.T, present, strict=True):
        size, label = parts[study]
        part = table[table.study == study]
        above.loglog(part[size], part.ratio, "o-")
        above.set(title=f"exponent {steepest(part[size], part.seconds):.2f}", ylabel="time over the smallest case")
        for (column, name), style in zip(MEMORY.items(), ("k--", "o-", "s-", "v:"), strict=True):
            below.loglog(part[size], part[column], style, label=name, markersize=4)
        below.set(xlabel=label, ylabel="growth of memory, MiB")
        for ax in (above, below):
            _ticks(ax, part[size])
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def _draw_discover(table: pd.DataFrame, path: Path) -> None:
    part = table[table.study == "growth"]
    if part.empty:
        return
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3), layout="constrained", sharey=True)
    for ax, (size, name) in zip(axes, NAMES.items(), strict=True):
        line = part[part.what == size]
        ax.loglog(line[size], line.ratio, "o-")
        ax.set(xlabel=name, title=f"exponent {steepest(line[size], line.seconds):.2f}")
        _ticks(ax, line[size])
    axes[0].set_ylabel("time over the smallest case")
    _save(figure, path)


def _draw_rule(table: pd.DataFrame, path: Path) -> None:
    part = table[table.study == "rule"]
    if part.empty:
        return
    sides = {
        "models": (part[part.n == 2048], "models (n = 2048, d = 256)"),
        "n": (part[part.models == 16], "samples (16 models, d = 256)"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2), layout="constrained", sharey=True)
    for ax, (size, (side, label)) in zip(axes, sides.items(), strict=True):
        for method, style in (("features", "o-"), ("gram", "s-"), ("auto", "k:")):
            line = side[side.what == method].sort_values(size)
            ax.loglog(line[size], line.ratio, style, label=method)
        ax.set(xlabel=label)
        _ticks(ax, side[size])
    axes[0].set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes[0].minorticks_off()
    axes[0].set_ylabel("time over the faster formula")
    axes[0].legend(frameon=False)
    _save(figure, path)


def _ticks(ax: plt.Axes, sizes: pd.Series) -> None:
    """The sizes that were timed, and no others."""
    values = sorted(set(sizes.astype(int)))
    ax.set_xticks(
        values, [f"{value // 1000}k" if value >= 2000 and value % 1000 == 0 else f"{value}" for value in values]
    )
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.tick_params(axis="x", labelrotation=45)


def _save(figure: plt.Figure, path: Path) -> None:
    save_svg(figure, path)


@app.command()
def main(
    only: Annotated[
        list[str] | None, typer.Option(help=f"A study, repeatable: {', '.join(STUDIES)}. All by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed; medians are shown.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, to see that it works; not for the book.")
    ] = False,
    into: Annotated[Path | None, typer.Option(help="Folder for table, fragments and figures.")] = None,
) -> None:
    """Time the method against peers, by hand, and in growth; print and draw ratios.

    Example: python benchmarks/speed.py --only cka --only rule --rounds 3 --into _build/speed
    """
    unknown = [name for name in only or () if name not in STUDIES]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no study; choose from {', '.join(STUDIES)}", param_hint="--only")
    into = into or (HERE / "_build" / "speed" if quick else HERE / "book" / "speed")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if CORES:  # pairs are spread over threads, one per core
        os.sched_setaffinity(0, {min(CORES)})
    facts = machine()
    if facts["load_before"] > 0.3:
        typer.echo(f"the machine is busy (load {facts['load_before']}): these figures are provisional", err=True)
    path = into / "speed.csv"
    table = pd.read_csv(path) if only and path.exists() else pd.DataFrame({"study": []})
    counts = dict.fromkeys(("n", "d", "models", "repeats", "cores", "threads"), int)
    for name in only or STUDIES:
        rows = pd.DataFrame(STUDIES[name](QUICK if quick else FULL, rounds)).assign(**facts)
        table = pd.concat([table[table.study != name], rows]).astype(counts)
        table = table.sort_values("study", key=lambda names: names.map(list(STUDIES).index), kind="stable")
        write(table, into)  # after each, so that an interrupted run keeps what it has
    for finding in findings(table):
        typer.echo(f"{'met ' if finding.met else 'MISS'} {finding.claim}: {finding.measured} (target {finding.target})")


if __name__ == "__main__":
    app()
