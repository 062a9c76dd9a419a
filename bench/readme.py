"""Writes README's tables and plot from the result files: `python -m bench.readme`."""

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
OTHERS = {"avx2": "AMD Zen 3 with AVX2", "zen4": "AMD Zen 4 with AVX-512", "zen5": "AMD Zen 5 with AVX-512"}  # machines, by the prefix of their result files
IMAGES = {  # one result file each
    "conv4-omni T=8": "Conv4, 64 channels, 28x28x1, 1 inner step, 8 tasks",
    "conv4-strided T=8": "the same with strides instead of pooling",
    "conv4-mini T=4": "Conv4, 32 channels, 84x84x3, 5 inner steps, 4 tasks",
    "resnet12 T=2": "ResNet12, 64-160-320-640, 32x32x3, 1 inner step, 2 tasks",
}
IMAGE_PEERS = {"torch loop": ("torch-loop", "torch-loop-nhwc"), "torch.func": ("torch-func",), "JAX jit": ("jax",)}
MEMORY = "memory conv4-mini"


def reports() -> tuple[dict[str, Any], dict[str, Any]]:
    """All reports by title, and where the newest came from."""
    files = [json.loads(f.read_text()) for f in [RESULTS / "perceptrons.json", *sorted(RESULTS.glob("sinK*.json"))]]
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
    return "\n".join([*lines, "", elsewhere()])


def elsewhere() -> str:
    """The first three rows on other machines, as far as each was measured, and the nearest rival of all rows."""
    peers = ("jax", "torch-compile", "torch-bmm", "torch-func")
    lines = ["| the first three rows on | " + " | ".join(PEERS[p] for p in peers) + " | nearest rival of all eight rows |"]
    lines.append("|---|" + "---|" * (len(peers) + 1))
    for prefix, name in OTHERS.items():
        files = [json.loads(f.read_text()) for f in sorted(RESULTS.glob(f"{prefix}-*.json"))]
        found = {title: report["rows"] for f in files for title, report in f["reports"].items()}
        first = [found[title] for title in SHOWN][:3]
        cells = [", ".join(f"{rows[p]['ratio']['median']:.3g}" for rows in first if p in rows) + " x" for p in peers]
        least, nearest = min((row["ratio"]["median"], p) for title in SHOWN for p, row in found[title].items() if p in PEERS)
        date = files[0]["provenance"]["date"][:10]
        lines.append(f"| {name}, {date} | " + " | ".join(cells) + f" | {PEERS[nearest]}, {least:.3g} x |")
    return "\n".join([*lines, ""])


def image_table() -> str:
    """Convolutional workloads that have a result file, each file from one run; empty if there are none."""
    files = [json.loads(f.read_text()) for f in sorted(RESULTS.glob("*.json"))]
    found = {title: report for f in files for title, report in f["reports"].items()}
    origins = [f["provenance"] for f in files if f["reports"].keys() & IMAGES.keys()]
    if not origins:
        return ""
    lines = ["", "| second-order MAML, 5-way 1-shot, float32 | fastmeta | of peak | " + " | ".join(IMAGE_PEERS) + " |"]
    lines.append("|---|---|---|" + "---|" * len(IMAGE_PEERS))
    for title in [t for t in IMAGES if t in found]:
        rows = found[title]["rows"]
        ours = rows["fastmeta"]
        ratios = [[rows[p]["ratio"]["median"] for p in peers if p in rows] for peers in IMAGE_PEERS.values()]
        cells = [f"{min(r):.3g} x" if r else "" for r in ratios]  # the better layout of images
        time = f"{ours['us_per_task']['median'] / 1e3:.3g} ms"
        share = f"{min(ours['percent_of_peak'].values()):.0f} %"  # of the widest vectors
        lines.append(f"| {IMAGES[title]} | **{time}** | {share} | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        "Milliseconds per task through `fm.MAML`, percent of the multiply-add peak measured in the same run (counting the operations of direct convolution, of "
        "which Winograd's algorithm saves up to three quarters: hence above 100 %), and how many times longer the others take, torch's loop in its better layout (empty: not measured); each file is one run, all contestants in float64 within 1e-9 of autograd first: "
        + "; ".join(sorted({f"{o['threads']} threads, {o['cpu']}, {o['date'][:10]}" for o in origins})) + "."
    )
    if MEMORY in found:
        parts = [
            f"{name} {', '.join(f'{mb:.0f}' for key, mb in row.items() if key.startswith('peak'))} MB"
            for name, row in found[MEMORY]["rows"].items()
        ]
        lines[-1] += f" Peak memory beyond import and data of the third with 1, 5 and 10 inner steps: {'; '.join(parts)}."
    return "\n".join([*lines, ""])


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
    text = re.sub(r"(<!-- bench -->\n).*?(<!-- /bench -->)", lambda m: m[1] + table(found, origin) + "\n" + image_table() + m[2], readme.read_text(), flags=re.S)
    readme.write_text(text)
    plot(found, ROOT / "docs" / "meta-gradient.png")


if __name__ == "__main__":
    main()
