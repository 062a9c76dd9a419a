"""What the commands do."""

from __future__ import annotations

import json
import math
import shlex
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optree
from rich.console import Console

import fastmeta as fm
from fastmeta import backends
from fastmeta.algorithms import MAML
from fastmeta.atomic import replacing
from fastmeta.cli import display
from fastmeta.cli.machine import cache_folder, isa, machine, versions
from fastmeta.cli.recipes import OMNIGLOT, SINUSOID, Recipe, recipe
from fastmeta.data import Sinusoid
from fastmeta.errors import CheckpointError, expected
from fastmeta.models import MLP
from fastmeta.train import plots
from fastmeta.train.checkpoint import CHECKPOINT, load_checkpoint, read
from fastmeta.train.evaluate import evaluate
from fastmeta.train.trainer import Trained, Trainer


class Usage(ValueError):
    """The command line asks for something that cannot be."""


class Show:
    """Where the output goes: tables for people, or JSON alone, or nothing."""

    def __init__(self, quiet: bool, as_json: bool):
        self.quiet, self.as_json = quiet, as_json
        self.console = Console(quiet=quiet or as_json, highlight=False, markup=False)  # [brackets] are text

    def tell(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def result(self, values: dict[str, Any]) -> None:
        if self.as_json:
            print(json.dumps(plain(values), allow_nan=False))


def train(
    defaults: dict[str, Any],
    given: dict[str, Any],
    data: str | None,
    *,
    out: str | None,
    resume: str | None,
    checkpoint_every: int,
    show: Show,
    threads: int | None = None,
    validate_every: int = 500,
) -> None:
    """Train, test, and write checkpoint.safetensors, result.json and two plots into a folder."""
    import typer

    begun = time.perf_counter()
    if resume is not None and Path(resume).is_dir():
        resume = str(Path(resume) / CHECKPOINT)
    with _usage():
        set_threads(threads)
        _readable(given)
    settings = _settings(defaults, given, resume)
    with _usage():
        r = recipe(settings, data)
    folder = (
        Path(out) if out is not None else Path(resume).parent if resume is not None else _new_folder(settings["task"])
    )
    with _usage():
        trainer = Trainer(
            r.learner,
            r.train,
            r.optimizer,
            seed=settings["seed"],
            validation=r.validation,
            validate_every=validate_every,
            validation_steps=settings["test_steps"],
            out=folder,
            checkpoint_every=checkpoint_every,
            settings=settings,
            prefetch=r.prefetch,
        )
    there = folder / CHECKPOINT
    if there.exists() and (resume is None or not there.samefile(resume)):
        again = _command("train", settings["task"], "--resume", str(there), data=data)
        raise Usage(str(expected("train", "--out a folder without a run", f"{folder}, which has one", ValueError, f"Remove it, or go on with it: {again}")))
    show.tell(
        f"{settings['task']}: {r.protocol}\n{r.learner!r}\n{settings['tasks']} tasks a meta-step, results in {folder}"
    )
    show.tell(display.memory(trainer))
    start = 0 if resume is None else load_step(resume)
    live = display.Live(show.console, settings["task"], settings["steps"], start, r.learner.batch_norm)
    trainer.report = live
    with live:
        trained = trainer.run(settings["steps"], resume)
    if trained.signal is not None:
        again = _command("train", settings["task"], "--resume", str(trained.checkpoint), data=data)
        show.tell(f"interrupted at meta-step {trained.step:,}; saved. Go on with:\n  {again}")
        show.result({"interrupted": True, "step": trained.step, "checkpoint": str(trained.checkpoint), "resume": again})
        raise typer.Exit(128 + trained.signal)
    try:
        metrics = evaluate(
            r.learner,
            trained.params,
            r.test("test"),
            episodes=settings["test_episodes"],
            steps=settings["test_steps"],
            state=trained.state,
        )
    except KeyboardInterrupt:
        again = _command("eval", str(trained.checkpoint), data=data)
        show.tell(f"interrupted in the final test; training is saved. Test with:\n  {again}")
        raise typer.Exit(130) from None
    result = _result(r, trained, metrics, time.perf_counter() - begun)
    drawn = _write(folder, r, trained, metrics, result)
    _tables(show, r, trained, metrics, [str(folder / "result.json"), str(trained.checkpoint), *drawn])
    show.result({key: value for key, value in result.items() if key != "history"} | {"folder": str(folder)})


def load_step(path: str) -> int:
    """The meta-step at which a checkpoint was written."""
    return int(read(Path(path))[1]["sampler_step"])


def evaluate_checkpoint(
    path: str,
    data: str | None,
    episodes: int | None,
    steps: int | None,
    split: str,
    *,
    show: Show,
    threads: int | None = None,
) -> None:
    """Evaluate a checkpoint on new tasks."""
    begun = time.perf_counter()
    settings = _stored_settings(path)
    with _usage():
        set_threads(threads)
        splits = ("test",) if settings["task"] == "sinusoid" else ("test", "validation", "train")
        if split not in splits:
            raise expected("eval", f"split {' or '.join(splits)} for {settings['task']}", repr(split))
        settings["test_episodes"] = settings["test_episodes"] if episodes is None else episodes
        settings["test_steps"] = settings["test_steps"] if steps is None else steps
        r = recipe(settings, data)
    template, state = r.learner.init(settings["seed"]), r.learner.init_state()
    extra = {"state": state} | ({"best": template, "best_state": state} if r.validation is not None else {})
    loaded = load_checkpoint(path, params=template, extra=extra)
    best = loaded.config["log"]["best_step"]
    params, state = (
        (loaded.params, loaded.extra["state"]) if best is None else (loaded.extra["best"], loaded.extra["best_state"])
    )
    metrics = evaluate(
        r.learner, params, r.test(split), episodes=settings["test_episodes"], steps=settings["test_steps"], state=state
    )
    step = loaded.sampler_step if best is None else best
    show.tell(f"{settings['task']}: {r.protocol}\n{r.learner!r}\n{split} tasks, after {step:,} meta-steps")
    title = f"{metrics['tasks']} new tasks"
    show.console.print(display.metrics_table(metrics, title, settings["inner_steps"], r.learner.batch_norm))
    show.result(
        {
            "config": settings,
            "checkpoint": path,
            "step": step,
            "split": split,
            "protocol": r.protocol,
            "versions": versions(),
            "machine": machine(),
            "wall_seconds": time.perf_counter() - begun,
            "metrics": metrics,
        }
    )


def bench(tasks: int, inner_steps: int, seconds: float, *, show: Show, threads: int | None = None) -> None:
    """Time the meta-gradient of a batch of sinusoid tasks."""
    with _usage():
        set_threads(threads)
        if not (math.isfinite(seconds) and 0 < seconds <= 600):
            raise expected("bench", "seconds above 0 and at most 600", seconds)
        learner = MAML(MLP((1, 40, 40, 1)), loss=fm.nn.mse, inner_lr=0.01, inner_steps=inner_steps)
        episodes = Sinusoid(tasks=tasks).batch(0)
    params = learner.init(0)
    begun = time.perf_counter()
    learner.value_and_grad(params, episodes)
    first = time.perf_counter() - begun
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        learner.value_and_grad(params, episodes)
        times.append(time.perf_counter() - began)
    best, median = min(times), statistics.median(times)
    result = {
        "workload": {
            "net": "1-40-40-1",
            "tasks": tasks,
            "inner_steps": inner_steps,
            "order": 2,
            "shots": 10,
            "queries": 10,
        },
        "first_call_seconds": first,
        "best_seconds": best,
        "median_seconds": median,
        "rounds": len(times),
        "tasks_per_second": tasks / median,
        "versions": versions(),
        "machine": machine(),
    }
    show.console.print(
        display.facts_table(
            {
                "workload": f"{tasks} tasks, {inner_steps} inner steps, second order, net 1-40-40-1, 10 + 10 points",
                "median": f"{1e6 * median:,.0f} us a meta-gradient, {1e6 * median / tasks:.1f} us a task",
                "best": f"{1e6 * best:,.0f} us, {1e6 * best / tasks:.1f} us a task",
                "speed": f"{tasks / median:,.0f} tasks/s",
                "first call": f"{1e3 * first:.0f} ms (trace, differentiate, plan)",
                **{name: str(value) for name, value in machine().items()},
            },
            "sinusoid meta-gradient",
        )
    )
    show.result(result)


def info(show: Show) -> None:
    """Versions, backends, threads, instruction set, folders; exit code 1 if the backend or the threads asked for cannot be had."""
    import typer

    wrong: list[str] = []

    def told(what: Callable[[], Any]) -> Any:
        """What it gives, or why it cannot: the table says it beside all that can."""
        try:
            return what()
        except (RuntimeError, ValueError) as error:
            wrong.append(str(error))
            return {"error": str(error)}

    values: dict[str, Any] = {
        "versions": versions(),
        "backends": backends.available(),
        "threads": told(backends.num_threads),
        "isa": isa(),
        "plots": "ok" if plots.available() else "matplotlib is missing; pip install fastmeta[plots]",
        "cache": cache_folder(),
        "machine": told(machine),
    }
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{name.removesuffix('s')} {key}": text for key, text in value.items()}
        else:
            flat[name] = value
    show.console.print(display.facts_table(flat, "fastmeta"))
    show.result(values)
    if wrong:
        raise typer.Exit(1)


def plain(value: Any) -> Any:
    """A JSON value: arrays' numbers as Python's, NaN and infinity as null.

    >>> plain({"a": [np.float32(0.5), float("nan")]})
    {'a': [0.5, None]}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- parts


@contextmanager
def _usage() -> Iterator[None]:
    """Refused arguments inside are errors of usage."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (ValueError, TypeError) as error:
        raise Usage(str(error)) from error


def set_threads(threads: int | None) -> None:
    """Sets the number of threads if one is given."""
    if threads is not None:
        fm.set_num_threads(threads)


def _readable(given: dict[str, Any]) -> None:
    """Turns options that are text into settings, in place."""
    if "hidden" in given:
        try:
            given["hidden"] = [int(part) for part in given["hidden"].split(",")]
        except ValueError:
            raise expected("train", "hidden sizes like 40,40", repr(given["hidden"])) from None
    if given.get("rotations") == "none":
        given["rotations"] = None


def _settings(defaults: dict[str, Any], given: dict[str, Any], resume: str | None) -> dict[str, Any]:
    """All settings: those given over the defaults; resumed, those of the checkpoint, of which steps may change."""
    if resume is None:
        return defaults | given
    stored = _stored_settings(resume)
    if stored["task"] != defaults["task"]:
        raise Usage(str(expected("train", f"a checkpoint of {defaults['task']}", f"one of {stored['task']}: {resume}")))
    for key, value in given.items():
        if key != "steps" and stored[key] != value:
            flag = f"--{key.replace('_', '-')}"
            raise Usage(str(expected("train", f"{flag} {stored[key]} as in {resume}, or left out", value)))
    return stored | given


def _stored_settings(path: str) -> dict[str, Any]:
    _, metadata = read(Path(path))
    settings = json.loads(metadata.get("config", "{}")).get("settings", {})
    known = {"sinusoid": SINUSOID, "omniglot": OMNIGLOT}.get(settings.get("task", ""))
    if known is None or settings.keys() != known.keys():
        raise expected(
            "load_checkpoint", "a checkpoint of fastmeta train", f"other settings in {path}", CheckpointError
        )
    return dict(settings)


def _new_folder(task: str) -> Path:
    name = f"{task}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, n = Path("runs") / name, 1
    while folder.exists():
        n += 1
        folder = Path("runs") / f"{name}-{n}"
    return folder


def _command(*words: str, data: str | None) -> str:
    return shlex.join(["fastmeta", *words, *([] if data is None else ["--data", data])])


def _result(r: Recipe, trained: Trained, metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "config": r.settings,
        "seed": r.settings["seed"],
        "protocol": r.protocol,
        "parameters": sum(int(np.size(x)) for x in optree.tree_leaves(trained.params)),
        "meta_steps": trained.step,
        "best_step": trained.best_step,
        "train_seconds": trained.seconds,
        "wall_seconds": seconds,
        "tasks_per_second": trained.step * r.settings["tasks"] / trained.seconds,
        "versions": versions(),
        "machine": machine(),
        "metrics": metrics,
        "validations": trained.validations,
        "history": trained.history,
    }


def _write(folder: Path, r: Recipe, trained: Trained, metrics: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """result.json and, with matplotlib, the plots; returns the plots' paths."""
    with replacing(folder / "result.json") as file:
        file.write(json.dumps(plain(result), indent=1, allow_nan=False).encode() + b"\n")
    if not plots.available():
        return []
    learning, adaptation = folder / "learning_curve.png", folder / "adaptation_curve.png"
    title = f"{r.settings['task']}, {type(r.learner).__name__}"
    plots.learning_curve(learning, trained.history, trained.validations, title=title)
    plots.adaptation_curve(adaptation, metrics, trained_steps=r.settings["inner_steps"], title=title)
    return [str(learning), str(adaptation)]


def _tables(show: Show, r: Recipe, trained: Trained, metrics: dict[str, Any], files: list[str]) -> None:
    s = r.settings
    table = display.metrics_table(metrics, f"{metrics['tasks']} new tasks", s["inner_steps"], r.learner.batch_norm)
    show.console.print(table)
    speed = trained.step * s["tasks"] / trained.seconds
    rows = {
        "trained": f"{trained.step:,} meta-steps in {display.duration(trained.seconds)}, {speed:,.0f} tasks/s",
        "conditions": r.protocol,
        "files": "\n".join(files),
    }
    if trained.best_step is not None:
        rows["best"] = f"meta-step {trained.best_step:,} by validation"
    if len(files) == 2:
        rows["plots"] = "none: matplotlib is missing; pip install fastmeta[plots]"
    show.console.print(display.facts_table(rows, "run"))
