"""Plots on disk; matplotlib (the extra ``plots``) is imported when one is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fastmeta.atomic import replacing

__all__ = ["adaptation_curve", "available", "learning_curve"]

TRAIN, VALIDATION = "#3366aa", "#cc5533"


def available() -> bool:
    """Whether matplotlib can be imported.

    >>> available() in (True, False)
    True
    """
    try:
        import matplotlib.figure  # noqa: F401  (only whether it is there)
    except ImportError:
        return False
    return True


def learning_curve(
    path: str | os.PathLike[str],
    history: Sequence[Sequence[float | None]],
    validations: Sequence[Sequence[float | None]] = (),
    *,
    title: str = "",
) -> None:
    """Draw training and validation against the meta-step to a PNG file.

    ``history``: rows (step, loss, accuracy or None); ``validations``: rows (step, loss, accuracy or None, interval).
    Accuracy is drawn if there is one, else the loss on a logarithmic axis.
    """
    figure, axes = _figure(title)
    accuracy = any(row[2] is not None for row in history)
    column = 2 if accuracy else 1
    axes.plot([r[0] for r in history], [r[column] for r in history], color=TRAIN, linewidth=1, label="training tasks")
    if validations:
        axes.plot(
            [r[0] for r in validations],
            [r[column] for r in validations],
            color=VALIDATION,
            marker=".",
            label="validation tasks",
        )
        axes.legend(frameon=False)
    axes.set_xlabel("meta-step")
    axes.set_ylabel("query accuracy" if accuracy else "query loss")
    if not accuracy:
        axes.set_yscale("log")
    _save(figure, path)


def adaptation_curve(
    path: str | os.PathLike[str], metrics: dict[str, Any], *, trained_steps: int | None = None, title: str = ""
) -> None:
    """Draw accuracy (else loss) after 0..K inner steps, with its 95 % interval, to a PNG file.

    ``metrics`` as `fastmeta.algorithms.summary` gives them; ``trained_steps`` marks the inner steps used in training.
    """
    figure, axes = _figure(title)
    name = "accuracies" if "accuracies" in metrics else "losses"
    steps = list(range(len(metrics[name])))
    axes.errorbar(steps, metrics[name], metrics[f"{name}_interval"], color=TRAIN, marker="o", markersize=4, capsize=3)
    if trained_steps is not None:
        axes.axvline(trained_steps, color="0.7", linestyle="--", linewidth=1, label="inner steps in training")
        axes.legend(frameon=False)
    axes.set_xticks(steps[:: max(1, len(steps) // 10)])
    axes.set_xlabel(f"inner steps ({metrics['tasks']} new tasks, 95 % interval)")
    axes.set_ylabel("query accuracy" if name == "accuracies" else "query loss")
    _save(figure, path)


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10)
    return figure, axes


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    with replacing(path) as file:
        figure.savefig(file, format="png")
