"""`python -m bench sin-K5 --tasks 32 --rounds 10 --threads 2 --out bench/results/sin-K5.json`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "FASTMETA_NUM_THREADS")


def pin(threads: int) -> None:
    """Everyone gets the same cores; pools read this once, so it must come before NumPy, torch, JAX or fastmeta."""
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise SystemExit(f"--threads: expected 1 to {len(cores)}, got {threads}")
    os.sched_setaffinity(0, cores[:threads])
    os.environ.update(dict.fromkeys(POOLS, str(threads)))


def begin(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options of a script, with those that all scripts have; threads are pinned, and where the figures come from is printed and returned."""
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="JSON (default: none)")
    options = parser.parse_args()
    pin(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    from bench import measure

    origin = measure.provenance()
    print(" | ".join(f"{k} {v}" for k, v in origin.items()), end="\n\n")
    return options, origin


def show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """One line per contestant; a spread prints as median (min-max)."""

    def text(value: Any) -> str:
        if isinstance(value, dict) and "median" in value:
            return f"{value['median']:g} ({value['min']:g}-{value['max']:g})"
        return " ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, dict) else f"{value:g}"

    heads = list(next(iter(rows.values())))
    table = [[title, *heads], *([name, *(text(row[h]) for h in heads)] for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print(flush=True)


def plot(reports: dict[str, dict[str, Any]], path: Path) -> None:
    """Microseconds per task, one group of bars per workload."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(2 + 1.5 * len(reports), 4), layout="constrained")
    names = list(dict.fromkeys(n for r in reports.values() for n in r["rows"]))
    for i, name in enumerate(names):
        found = [(j, r["rows"][name]["us_per_task"]) for j, r in enumerate(reports.values()) if name in r["rows"]]
        at = [j + (i - (len(names) - 1) / 2) * 0.8 / len(names) for j, _ in found]
        whiskers = [[us["median"] - us["min"] for _, us in found], [us["max"] - us["median"] for _, us in found]]
        axes.bar(at, [us["median"] for _, us in found], 0.8 / len(names), yerr=whiskers, label=name)
    axes.set(yscale="log", ylabel="us per task (median, range)", xticks=range(len(reports)), xticklabels=list(reports))
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "what", help="a workload, or: perceptrons, images, sin-train, first-call, memory, team, overhead, imports"
    )
    parser.add_argument("workload", nargs="?", default="sin-K5", help="for first-call, memory, team (default sin-K5)")
    parser.add_argument("--tasks", type=int, help="tasks per meta-step (default: the workload's)")
    parser.add_argument("--rounds", type=int, help="interleaved rounds, an even number (default: the workload's)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=1000, help="meta-steps of sin-train (the paper: 70000)")
    parser.add_argument("--only", help="contestants, comma-separated; the first is the base of the ratios")
    parser.add_argument("--out", type=Path, help="JSON (default bench/results/WHAT.json)")
    parser.add_argument("--plot", type=Path, help="bar chart of the times per task")
    options = parser.parse_args()
    pin(options.threads)

    from bench import images, measure, workloads

    WORKLOADS = workloads.WORKLOADS | images.WORKLOADS
    if options.workload not in WORKLOADS:
        parser.error(f"workload: expected one of {', '.join(WORKLOADS)}, got {options.workload}")
    chosen = WORKLOADS[options.workload]
    if options.tasks:
        chosen = replace(chosen, tasks=options.tasks)

    def contestants(known: dict[str, Any], usual: Sequence[str]) -> Sequence[str]:
        names = options.only.split(",") if options.only else usual
        if unknown := set(names) - set(known):
            parser.error(f"--only: expected some of {', '.join(known)}, got {', '.join(unknown)}")
        return names

    def of(workload: workloads.Workload) -> Sequence[str]:
        return contestants(workload.contestants, workload.usual)

    origin = measure.provenance()
    print(" | ".join(f"{k} {v}" for k, v in origin.items()), end="\n\n")

    reports: dict[str, dict[str, Any]] = {}
    match options.what:
        case "first-call":
            reports[f"first-call {chosen.name}"] = measure.first_calls(chosen, of(chosen))
        case "memory":
            if chosen.name in images.WORKLOADS:
                report = measure.memory_by_steps(chosen, (1, 5, 10), of(chosen))
            else:
                report = measure.memory(chosen, replace(chosen, tasks=4096), of(chosen))
            reports[f"memory {chosen.name}"] = report
        case "team":
            reports[f"team {chosen.name}"] = measure.teams(chosen, of(chosen), options.rounds or chosen.rounds)
        case "imports":
            reports["imports"] = measure.imports()
        case "sin-train":
            workload = WORKLOADS["sin-train"]
            names = contestants(measure.TRAINERS, list(measure.TRAINERS))
            reports["sin-train"] = measure.compare_training(workload, names, options.rounds or 10, options.steps)
        case what:
            perceptrons = [name for name in workloads.WORKLOADS if name != "sin-train"]
            groups = {"perceptrons": perceptrons, "images": list(images.WORKLOADS), "overhead": ["tiny"]}
            wanted = groups.get(what, [what])
            if unknown := set(wanted) - set(WORKLOADS):
                parser.error(
                    f"what: expected a workload ({', '.join(WORKLOADS)}) or a command, got {', '.join(unknown)}"
                )
            for name in wanted:
                workload = replace(WORKLOADS[name], tasks=options.tasks or WORKLOADS[name].tasks)
                title = f"{name} T={workload.tasks}"
                rounds = options.rounds or workload.rounds
                reports[title] = asdict(workload) | measure.compare(workload, of(workload), rounds)
                print(f"FMA peak GFLOP/s {reports[title]['peak_gflops']}, {workload.flops / 1e6:.4g} MFLOP per task")
                show(title, reports[title]["rows"])
            if options.plot:
                plot(reports, options.plot)
    if options.what in {"first-call", "memory", "team", "imports", "sin-train"}:
        for title, report in reports.items():
            show(title, report["rows"])
    out = options.out or Path(__file__).parent / "results" / f"{options.what}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"provenance": origin, "reports": reports}, indent=1) + "\n")


if __name__ == "__main__":
    main()
