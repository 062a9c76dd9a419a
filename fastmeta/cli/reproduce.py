"""``fastmeta reproduce``: trains named configurations one after another, each to a result file."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optree
from rich.console import Console

from fastmeta.atomic import replacing
from fastmeta.cli import display
from fastmeta.cli.commands import Show, Usage, load_step, plain, set_threads
from fastmeta.cli.machine import machine, versions
from fastmeta.cli.replications import REPLICATIONS, Replication
from fastmeta.errors import expected
from fastmeta.train.checkpoint import CHECKPOINT, read
from fastmeta.train.evaluate import evaluate
from fastmeta.train.trainer import Progress, Trained, Trainer


def list_all(show: Show) -> None:
    """A line for every configuration."""
    width = max(map(len, REPLICATIONS))
    for name, r in REPLICATIONS.items():
        show.tell(f"{name:{width}}  {r.learner}, {r.ways}-way {r.shots}-shot, at most {r.steps:,} meta-steps or {r.minutes:g} min")
    of = ("learner", "ways", "shots", "steps", "minutes")
    show.result({name: {field: getattr(r, field) for field in of} for name, r in REPLICATIONS.items()})


def queue(
    wanted: Sequence[str], data: str | None, out: str, minutes: float | None, show: Show, threads: int | None = None
) -> None:
    """Trains and tests one after another into OUT/NAME.json; an interrupt ends it.  What has a result is left alone.

    OUT/NAME/ keeps checkpoint and log; a run that was interrupted goes on from there.  Configurations that differ in their
    tests only share the folder of the first, and its training.
    """
    for name in wanted:
        if name not in REPLICATIONS:
            raise Usage(str(expected("reproduce", f"a name of {', '.join(REPLICATIONS)}", repr(name))))
    if minutes is not None and not minutes > 0:
        raise Usage(str(expected("reproduce", "minutes above 0", minutes)))
    set_threads(threads)
    results: dict[str, Any] = {}
    for name in wanted:
        path = Path(out) / f"{name}.json"
        if path.exists():
            show.tell(f"{name}: {path} is there")
        else:
            r = REPLICATIONS[name]
            _one(name, r if minutes is None else replace(r, minutes=minutes), data, path, show)
        results[name] = _metrics(path)
    show.result(results)


def _metrics(path: Path) -> Any:
    try:
        return json.loads(path.read_text())["metrics"]
    except (ValueError, KeyError, TypeError):
        raise expected("reproduce", "a result that was written to its end", f"{path}", ValueError, "Remove it to train again") from None


def _one(name: str, r: Replication, data: str | None, path: Path, show: Show) -> None:
    """Trains and tests one configuration and writes its result."""
    import typer

    training, settings = r.training(name)
    folder = path.parent / training
    folder.mkdir(parents=True, exist_ok=True)
    resume = _resumable(folder / CHECKPOINT, settings)
    learner = r.make_learner()
    with (folder / "log.txt").open("a", buffering=1) as file:
        log = Console(file=file, width=160, highlight=False, markup=False)
        steps_done = 0 if resume is None else load_step(str(resume))
        mode = learner.batch_norm
        lines = [display.Live(console, name, r.steps, steps_done, mode) for console in (show.console, log)]

        def tell(text: str) -> None:
            show.tell(text)
            log.print(text, soft_wrap=True, markup=False)

        def report(progress: Progress) -> None:
            for line in lines:
                line(progress)

        trainer = Trainer(
            learner,
            r.sampler("train", data),
            r.optimizer(),
            seed=r.seed,
            validation=r.sampler("validation", data),
            validate_every=r.validate_every,
            validation_episodes=r.validation_episodes,
            validation_steps=r.test_steps,
            patience=r.patience,
            time_limit=60 * r.minutes,
            out=folder,
            checkpoint_every=r.validate_every,
            settings=settings,
            prefetch=2,
            report=report,
        )
        tell(f"{name}: {learner!r}, from meta-step {steps_done:,}, at most {r.minutes:g} minutes")
        tell(display.memory(trainer))
        with lines[0]:
            trained = trainer.run(r.steps, resume)
        if trained.signal is not None:
            tell(f"interrupted at meta-step {trained.step:,}; saved. The same command goes on from there")
            raise typer.Exit(128 + trained.signal)
        began = time.perf_counter()
        tests = r.sampler("test", data)
        metrics = evaluate(
            learner, trained.params, tests, episodes=r.test_episodes, steps=r.test_steps, state=trained.state
        )
        result = _result(name, r, trained, metrics, trained.seconds + time.perf_counter() - began)
        with replacing(path) as target:
            target.write(json.dumps(plain(result), indent=1, allow_nan=False).encode() + b"\n")
        tell(
            f"{100 * metrics['accuracy']:.2f} ± {100 * metrics['accuracy_interval']:.2f} % on {metrics['tasks']} test tasks (batch norm: {mode}); "
            f"{trained.step:,} meta-steps in {display.duration(trained.seconds)}, ended by {trained.ended}; {path}"
        )


def _resumable(checkpoint: Path, settings: dict[str, Any]) -> Path | None:
    """The checkpoint, if there is one; refused if it is of another training (the time limit may differ)."""
    if not checkpoint.exists():
        return None
    stored = json.loads(read(checkpoint)[1].get("config", "{}")).get("settings", {})
    if stored | {"minutes": settings["minutes"]} != plain(settings):
        raise expected("reproduce", "a checkpoint of this configuration", f"another one's: {checkpoint}")
    return checkpoint


def _result(name: str, r: Replication, trained: Trained, metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "replication": name,
        "config": r.settings(),
        "protocol": r.protocol(),
        "ended": trained.ended,
        "meta_steps": trained.step,
        "best_step": trained.best_step,
        "parameters": sum(int(np.size(x)) for x in optree.tree_leaves(trained.params)),
        "train_seconds": trained.seconds,
        "wall_seconds": seconds,
        "tasks_per_second": trained.step * r.tasks / trained.seconds,
        "versions": versions(),
        "machine": machine(),
        "metrics": metrics,
        "validations": trained.validations,
    }
