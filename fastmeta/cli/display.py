"""What a person sees of a run."""

from __future__ import annotations

import math
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from fastmeta import backends
from fastmeta.train.trainer import Progress as Told
from fastmeta.train.trainer import Trainer


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.fields.get("left", math.inf)
        return Text("" if math.isinf(seconds) else f"{duration(seconds)} left", style="cyan")


class Live:
    """A progress line: loss, accuracy (and whose batch-norm statistics it is by), tasks per second, time left.

    Where there is no terminal, a plain line now and then.
    """

    def __init__(self, console: Console, label: str, steps: int, start: int = 0, batch_norm: str = "batch"):
        self.console, self.batch_norm = console, batch_norm
        self.plain = not console.is_terminal
        self.told = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,}/{task.total:,}"),
            TextColumn("{task.fields[numbers]}"),
            _Left(),
            console=console,
            auto_refresh=False,
        )
        self.task = self.bar.add_task(label, total=steps, completed=start, numbers="", left=math.inf)

    def __enter__(self) -> Live:
        if not self.plain:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.plain:
            self.bar.stop()

    def __call__(self, p: Told) -> None:
        text = f"loss {p.loss:.4g}"
        if p.accuracy is not None:
            text += f"  accuracy {100 * p.accuracy:.1f} % (batch)"  # training normalises by the batch in every mode
        if p.validation is not None and p.validation[2] is not None:
            text += f"  validation {100 * p.validation[2]:.1f} % ({self.batch_norm})"
        text += f"  {p.tasks_per_second:,.0f} tasks/s"
        if not self.plain:
            self.bar.update(self.task, completed=p.step, numbers=text, left=p.seconds_left, refresh=True)
        elif time.monotonic() - self.told > 10 or p.step == p.steps:
            self.told = time.monotonic()
            left = "" if p.step == p.steps else f"  {duration(p.seconds_left)} left"
            self.console.print(f"step {p.step:,}/{p.steps:,}  {text}{left}", highlight=False, soft_wrap=True)


def memory(trainer: Trainer) -> str:
    """What a meta-step will take, as a line."""
    if backends.chosen() != "native":
        return f"memory of a meta-step: the {backends.chosen()} backend cannot tell"
    return f"memory of a meta-step, beside data, parameters and optimiser: {trainer.memory_estimate()}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them.

    >>> duration(3), duration(75), duration(3700)
    ('3 s', '1:15 min', '1:01:40 h')
    """
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60}:{s % 60:02d} min"
    return f"{s // 3600}:{s // 60 % 60:02d}:{s % 60:02d} h"


def metrics_table(metrics: dict[str, Any], title: str, trained_steps: int, batch_norm: str) -> Table:
    """Query loss and accuracy, by batch norm of this mode, after each number of inner steps."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("inner steps", justify="right")
    table.add_column("query loss", justify="right")
    accurate = "accuracies" in metrics
    if accurate:
        table.add_column(f"query accuracy (batch norm: {batch_norm})", justify="right")
    for k, loss in enumerate(metrics["losses"]):
        row = [f"{k}{' (as trained)' if k == trained_steps else ''}", _pm(loss, metrics["losses_interval"][k])]
        if accurate:
            row.append(f"{_pm(100 * metrics['accuracies'][k], 100 * metrics['accuracies_interval'][k], 2)} %")
        table.add_row(*row)
    return table


def facts_table(rows: dict[str, Any], title: str) -> Table:
    """Names and values."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _pm(value: float, interval: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}" + ("" if math.isnan(interval) else f" ± {interval:.{digits}f}")
