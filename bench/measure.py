"""The harness: equal results first, then interleaved rounds; memory, first calls and imports in fresh processes."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import functools
import importlib
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bench.workloads import Build, Result, Workload, in_double

TRAINERS = {"fastmeta": "bench.ours", "jax": "bench.peers_jax"}
DOUBLE_TOLERANCE = 1e-9
TURN = 0.05  # seconds of calls per contestant and round
LONG = 0.4  # seconds of a call that needs no warming up
BUDGET, FEW = 15.0, 2  # seconds of measured calls after which a contestant leaves, but not before so many rounds
Thunk = Callable[[], Any]
Record = dict[str, Any]


def build(contestant: str, workload: Workload, double: bool = False) -> Callable[[], Result]:
    module, function = workload.contestants[contestant]
    make: Build = getattr(importlib.import_module(module), function)
    data = workload.params(), workload.episodes()
    return make(workload, *(in_double(*data) if double else data))


def error(result: Result, reference: np.ndarray) -> float:
    """Relative l2 distance of loss and meta-gradient from the reference."""
    value, gradient = result
    flat = np.concatenate([np.asarray(a, np.float64).ravel() for a in (value, *gradient)])
    return float(np.linalg.norm(flat - reference) / np.linalg.norm(reference))


def agreement(workload: Workload, name: str, thunk: Thunk, truth: np.ndarray) -> Record:
    """Distances from the reference by dtype; a contestant that computes something else ends the run."""
    runs = {"float32": (thunk, workload.tolerance)}
    if workload.double:
        runs["float64"] = (build(name, workload, double=True), DOUBLE_TOLERANCE)
    errors = {}
    for dtype, (run, tolerance) in runs.items():
        distance = error(run(), truth)
        if not distance <= tolerance:
            raise SystemExit(f"{workload.name}: {name} is {distance:.1e} from the reference in {dtype}; no timing")
        errors[dtype] = float(f"{distance:.1e}")
    return errors


# ---- timing


def turn(thunk: Thunk) -> float:
    """Best seconds of one call in a turn; the first call only brings caches and thread pools back, unless it is long."""
    start = time.perf_counter()
    thunk()
    first = time.perf_counter() - start
    if first > LONG:
        return first
    best, end, calls = float("inf"), 0.0, 0
    while calls < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        end = end or start + TURN
        thunk()
        best, calls = min(best, time.perf_counter() - start), calls + 1
    return best


def interleave(
    thunks: dict[str, Thunk], rounds: int, measure: Callable[[Thunk], float] = turn, patient: Container[str] = ()
) -> dict[str, list[float]]:
    """Seconds per round; every second round runs backwards, so that none always follows the same neighbour.

    Slow ones leave early, those in ``patient`` never.
    """
    if rounds % 2:
        raise SystemExit(f"--rounds: expected an even number, got {rounds}")
    seconds: dict[str, list[float]] = {name: [] for name in thunks}
    for r in range(rounds):
        for name in list(thunks)[:: -1 if r % 2 else 1]:
            if r < FEW or name in patient or sum(seconds[name]) < BUDGET:
                seconds[name].append(measure(thunks[name]))
    return seconds


def spread(values: Sequence[float], digits: int = 4) -> Record:
    out = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {k: float(f"{v:.{digits}g}") for k, v in out.items()}


def rows(seconds: dict[str, list[float]], unit: str, per_second: float) -> dict[str, Record]:
    """Times in a unit, and ratios to the first contestant, round by round as long as each was there."""
    base = next(iter(seconds.values()))
    return {
        name: {unit: spread([v * per_second for v in s]), "ratio": spread([v / b for v, b in zip(s, base, strict=False)], 3)}
        for name, s in seconds.items()
    }


def agree(title: str, results: dict[str, Any]) -> None:
    """Ends the run unless everyone is within 1e-3 of the largest entry of the first contestant's results."""
    first, *others = [[np.asarray(a) for a in r] for r in results.values()]
    for name, other in zip(list(results)[1:], others, strict=True):
        for a, b in zip(first, other, strict=True):
            worst = np.abs(a.ravel() - b.ravel()).max() / np.abs(a).max()
            if not worst <= 1e-3:
                raise SystemExit(f"{title}: {name} differs by {worst:.1e}; no timing")


def contest(title: str, thunks: dict[str, Thunk], rounds: int, unit: str, per_second: float) -> dict[str, Record]:
    """Times of contestants whose results agree."""
    agree(title, {name: thunk() for name, thunk in thunks.items()})
    return rows(interleave(thunks, rounds), unit, per_second)


def compare(workload: Workload, names: Sequence[str], rounds: int) -> Record:
    """Microseconds per task of every contestant, and its ratio to the first one, round by round."""
    reference = importlib.import_module(workload.reference).reference
    truth = reference(workload, workload.params(), workload.episodes())
    thunks = {n: build(n, workload) for n in names}
    errors = {n: agreement(workload, n, thunk, truth) for n, thunk in thunks.items()}
    peaks: dict[str, list[float]] = {isa: [] for isa in peak()}

    def timed(thunk: Thunk) -> float:
        if thunk is thunks[names[0]]:
            for isa, gflops in peak().items():
                peaks[isa].append(gflops)
        return turn(thunk)

    seconds = interleave(thunks, rounds, timed, names[:1])
    best_peak = {isa: round(max(values), 1) for isa, values in peaks.items()}
    rows = {}
    for name, values in seconds.items():
        us = spread([v / workload.tasks * 1e6 for v in values])
        ratio = spread([v / base for v, base in zip(values, seconds[names[0]], strict=False)], 3)
        share = {isa: round(workload.flops / us["median"] / 10 / gflops, 2) for isa, gflops in best_peak.items()}
        rows[name] = {
            "us_per_task": us,
            "ratio": ratio,
            "percent_of_peak": share,
            "error": errors[name],
            "rounds": len(values),
        }
    return {
        "peak_gflops": {k: round(v, 1) for k, v in best_peak.items()},
        "mflop_per_task": workload.flops / 1e6,
        "rows": rows,
    }


def compare_training(workload: Workload, names: Sequence[str], rounds: int, steps: int, rate: float = 1e-3) -> Record:
    """Seconds per 1,000 meta-steps of whole training runs; the mean loss of the last tenth says they learn alike."""
    runs, losses = {}, {}
    rows: dict[str, Record] = {}
    for name in names:
        start = time.perf_counter()
        runs[name] = importlib.import_module(TRAINERS[name]).train(workload, workload.params(), steps, rate)
        rows[name] = {"prepare_s": round(time.perf_counter() - start, 2)}

    def once(name: str) -> float:
        start = time.perf_counter()
        losses[name] = runs[name]()
        return time.perf_counter() - start

    seconds = interleave({n: functools.partial(once, n) for n in names}, rounds, lambda thunk: thunk(), names)
    for name, values in seconds.items():
        rows[name]["final_loss"] = round(float(losses[name][-max(1, steps // 10) :].mean()), 4)
        rows[name]["seconds_per_1000"] = spread([v / steps * 1e3 for v in values])
        rows[name]["ratio"] = spread([v / b for v, b in zip(values, seconds[names[0]], strict=True)], 3)
    return {"steps": steps, "rows": rows}


# ---- fresh processes


def fresh(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args) in a new interpreter, so that nothing warm or resident is left from others."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def first_call(contestant: str, workload: Workload) -> float:
    """Seconds from data to the first result, imports excluded; compilers must not find last time's work on disk."""
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    importlib.import_module(workload.contestants[contestant][0])
    start = time.perf_counter()
    build(contestant, workload)()
    return time.perf_counter() - start


def megabytes(field: str) -> float:
    """VmRSS or VmHWM (the high-water mark of VmRSS) of this process."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(field))
    return int(line.split()[1]) / 1024


def peak_memory(contestant: str, workload: Workload) -> float:
    """Megabytes at the highest point of a few calls beyond imports and data."""
    thunk = build(contestant, workload)
    before = megabytes("VmRSS")
    for _ in range(3):
        thunk()
    return megabytes("VmHWM") - before


def growth(contestant: str, workload: Workload, calls: int = 1000) -> float:
    """Megabytes of resident memory gained over `calls` meta-steps after 100 to settle."""
    thunk = build(contestant, workload)
    for _ in range(100):
        thunk()
    before = megabytes("VmRSS")
    for _ in range(calls):
        thunk()
    return megabytes("VmRSS") - before


def import_ms(modules: str, repeats: int = 7) -> float:
    """Median milliseconds of `import modules` inside a new interpreter, from compiled bytecode as in an installed package."""
    code = f"import time; s = time.perf_counter(); import {modules}; print(time.perf_counter() - s)"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment) for _ in range(repeats)]
    return (
        statistics.median(float(r.stdout) for r in runs) * 1e3 if not any(r.returncode for r in runs) else float("nan")
    )


def first_calls(workload: Workload, names: Sequence[str], repeats: int = 3) -> Record:
    runs = {n: [fresh(first_call, n, workload) * 1e3 for _ in range(repeats)] for n in names}
    return {"rows": {n: {"first_call_ms": spread(v)} for n, v in runs.items()}}


def memory(small: Workload, large: Workload, names: Sequence[str]) -> Record:
    rows = {}
    for name in names:
        figures = fresh(peak_memory, name, small), fresh(peak_memory, name, large), fresh(growth, name, small)
        keys = f"peak_mb_T{small.tasks}", f"peak_mb_T{large.tasks}", "growth_mb_1000_calls"
        rows[name] = dict(zip(keys, (round(f, 1) for f in figures), strict=True))
    return {"rows": rows}


def memory_by_steps(workload: Workload, steps: Sequence[int], names: Sequence[str]) -> Record:
    """Peak megabytes with more and more inner steps, and how often the first figure the last one is."""
    rows = {}
    for name in names:
        peaks = [fresh(peak_memory, name, replace(workload, steps=k)) for k in steps]
        rows[name] = {f"peak_mb_K{k}": round(mb, 1) for k, mb in zip(steps, peaks, strict=True)} | {"growth": round(peaks[-1] / peaks[0], 2)}
    return {"rows": rows}


def teams(workload: Workload, names: Sequence[str], rounds: int) -> Record:
    """Milliseconds of a call with one, two and three tasks: on two threads an odd one leaves a core idle unless they share it."""
    rows = {}
    for name in names:
        seconds = interleave({str(t): build(name, replace(workload, tasks=t)) for t in (1, 2, 3)}, rounds)
        rows[name] = {f"ms_T{t}": spread([v * 1e3 for v in values]) for t, values in seconds.items()}
        for t in (1, 3):
            rows[name][f"T{t}_to_T2"] = spread([a / b for a, b in zip(seconds[str(t)], seconds["2"], strict=True)], 3)
    return {"rows": rows}


def imports() -> Record:
    modules = ("numpy, optree", "numpy, optree, fastmeta", "jax", "torch")
    return {"rows": {m: {"import_ms": round(import_ms(m), 1)} for m in modules}}


# ---- the machine


@functools.cache
def peak_libraries() -> dict[str, ctypes.CDLL]:
    """The FMA loop of peak.cpp compiled for every vector width that this CPU has."""
    flags = {"avx2": ["-mavx2", "-mfma", "-DLANES=8"], "avx512f": ["-mavx512f", "-DLANES=16"]}
    libraries = {}
    for isa in sorted(flags.keys() & cpu()["flags"]):
        target = Path(tempfile.mkdtemp()) / "peak.so"
        source = Path(__file__).with_name("peak.cpp")
        subprocess.run(["g++", "-O3", "-std=c++17", "-shared", "-fPIC", *flags[isa], source, "-o", target], check=True)
        libraries[isa] = ctypes.CDLL(str(target))
        libraries[isa].peak_gflops.restype = ctypes.c_double
    return libraries


def peak() -> dict[str, float]:
    """Billions of floating-point operations per second on the cores in use, per vector width."""
    cores = sorted(os.sched_getaffinity(0))
    array = (ctypes.c_int * len(cores))(*cores)
    return {isa: library.peak_gflops(array, len(cores)) for isa, library in peak_libraries().items()}


@functools.cache
def cpu() -> Record:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return {
        "model": f"{fields.get('model name')} (family {fields.get('cpu family')}, model {fields.get('model')})",
        "flags": set(fields.get("flags", "").split()),
    }


def provenance() -> Record:
    from fastmeta import backends

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()

    versions = {"python": platform.python_version()}
    for name in ("fastmeta", "numpy", "torch", "jax", "jaxlib"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else ""),
        "cpu": cpu()["model"],
        "flags": sorted(f for f in cpu()["flags"] if f in {"avx2", "fma", "avx512f", "amx_tile"}),
        "threads": len(os.sched_getaffinity(0)),
        "backend": backends.chosen(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }
