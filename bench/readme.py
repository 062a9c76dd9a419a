"""Writes README's table and plot from the result files: `python -m bench.readme`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PEERS = {"jax": "JAX jit(vmap)", "torch-compile": "torch.compile", "torch-bmm": "torch, hand-batched", "torch-func": "torch.func", "torch-loop": "torch loop"}
SHOWN = {
    "sin-K5 T=32": "MAML, 5 inner steps, 1-40-40-1, 32 tasks",
    "sin-K5 T=256": "the same, 256 tasks",
    "sin-K5 T=4": "the same, 4 tasks",
    "sin-K1 T=32": "1 inner step, 32 tasks",
    "tanh-64 T=32": "tanh, 3 x 64 units, 5 steps",
    "relu-128 T=32": "1-128-128-1, 5 steps",
    "xent T=32": "32 features, 5 classes, cross-entropy",
    "adam T=32": "Adam as inner rule, 5 steps",
}


def reports() -> tuple[dict[str, Any], dict[str, Any]]:
    """All reports by title, and where the newest came from."""
    files = [json.loads(f.read_text()) for f in [RESULTS / "all.json", *sorted(RESULTS.glob("sinK*.json"))]]
    merged = {title: report for f in files for title, report in f["reports"].items()}
    return merged, max((f["provenance"] for f in files), key=lambda p: p["date"])


def table(found: dict[str, Any], origin: dict[str, Any]) -> str:
    head = "| second-order meta-gradient, float32 | fastmeta | " + " | ".join(PEERS.values()) + " |"
    lines = [head, "|---|---|" + "---|" * len(PEERS)]
    for title, text in SHOWN.items():
        rows = found[title]["rows"]
        cells = [f"{rows[p]['ratio']['median']:.3g} x" if p in rows else "" for p in PEERS]
        lines.append(f"| {text} | **{rows['fastmeta']['us_per_task']['median']:.3g} us** | " + " | ".join(cells) + " |")
    versions = origin["versions"]
    lines.append("")
    lines.append(
        f"Microseconds per task, and how many times longer the others take: medians of interleaved rounds in one run after the results were checked "
        f"for equality, {origin['threads']} threads, {origin['cpu'].split(' (')[0]} with AVX-512, torch {versions['torch']}, JAX {versions['jax']}, "
        f"{origin['date'][:10]}; spreads and all workloads in [bench/results](bench/results)."
    )
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = found["sin-K5 T=32"]["rows"]
    names = [n for n in ("fastmeta", *PEERS) if n in rows]
    values = [rows[n]["us_per_task"]["median"] for n in names]
    figure, axes = plt.subplots(figsize=(7, 2.2))
    bars = axes.barh([{"fastmeta": "fastmeta", **PEERS}[n] for n in names], values, color=["#2b6cb0"] + ["#a0aec0"] * (len(names) - 1))
    axes.bar_label(bars, [f"{v:.0f}" for v in values], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(1, 5000)
    axes.invert_yaxis()
    axes.set_xlabel("microseconds per task, MAML meta-gradient, 5 inner steps, 32 tasks (log scale)", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    found, origin = reports()
    readme = ROOT / "README.md"
    text = re.sub(r"(<!-- bench -->\n).*?(<!-- /bench -->)", lambda m: m[1] + table(found, origin) + "\n" + m[2], readme.read_text(), flags=re.S)
    readme.write_text(text)
    plot(found, ROOT / "docs" / "meta-gradient.png")


if __name__ == "__main__":
    main()
