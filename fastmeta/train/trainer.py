"""The outer loop: a whole meta-step is one compiled function; what Python does beside it is kept to a few microseconds.

Source: Finn, Abbeel, Levine 2017, algorithm 1.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree

from fastmeta import array as fa
from fastmeta.algorithms.learner import Learner
from fastmeta.atomic import replacing
from fastmeta.compile import jit
from fastmeta.data.prefetch import Prefetch
from fastmeta.data.sampler import Sampler
from fastmeta.errors import DivergedError, expected, whole
from fastmeta.memory import MemoryEstimate, memory_estimate
from fastmeta.optim import Optimizer, apply_updates
from fastmeta.train.checkpoint import CHECKPOINT, json_text, load_checkpoint, save_checkpoint
from fastmeta.train.evaluate import evaluate
from fastmeta.tree import tree_map

__all__ = ["Progress", "Trained", "Trainer"]

REPORT_SECONDS = 0.2  # between two reports
POINTS = 500  # of the learning curve


class Progress(NamedTuple):
    """What a reporter is told a few times a second: means since the last report, and the speed.  ``accuracy`` is None without labels,
    ``validation`` the last row of `Trained.validations`, None before there is one.

    >>> now = Progress(step=50, steps=100, loss=0.5, accuracy=None, tasks_per_second=1e4, seconds_left=2.0, validation=None)
    >>> f"step {now.step} of {now.steps}, {now.seconds_left:.0f} s left"
    'step 50 of 100, 2 s left'
    """

    step: int
    steps: int
    loss: float
    accuracy: float | None
    tasks_per_second: float
    seconds_left: float
    validation: list[Any] | None


@dataclass
class Trained:
    """The end of a run.

    ``params`` are the best by validation accuracy, or loss where there is none, the last without validation, and ``state`` is the learner's state
    (averaged statistics of batch norm) that goes with them; ``last_params``, ``last_state`` and ``optimizer`` are those after
    ``step`` steps.  ``history``: rows [step, loss, accuracy or None], means since the row before;
    ``validations``: rows [step, loss, accuracy or None, its interval].  ``ended`` says why training stopped: "steps" (all
    done), "patience", "time limit" or "interrupted", and then ``signal`` by which.

    >>> from fastmeta import optim
    >>> learner = fm.MAML(fm.models.MLP((1, 8, 1)), loss=fm.nn.mse)
    >>> trained = Trainer(learner, fm.data.Sinusoid(tasks=4), optim.adam(1e-3)).run(3)
    >>> trained.ended, trained.params[0]["w"].shape, trained.best_step
    ('steps', (1, 8), None)
    """

    params: Any
    state: Any
    last_params: Any
    last_state: Any
    optimizer: Any
    step: int
    ended: str
    seconds: float
    history: list[list[Any]]
    validations: list[list[Any]]
    best_step: int | None
    checkpoint: Path | None
    signal: int | None = None

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended the run."""
        return self.ended == "interrupted"


@dataclass
class _Log:
    """What a run remembers beside parameters and optimiser; it goes into the checkpoint as JSON."""

    history: list[list[Any]] = field(default_factory=list)
    validations: list[list[Any]] = field(default_factory=list)
    best_step: int | None = None
    seconds: float = 0.0


class Trainer:
    """Trains a learner on a sampler.

    Args:
        learner: see `fastmeta.algorithms.Learner`.
        sampler: makes the batch of tasks of every step.
        optimizer: of the meta-parameters, `fastmeta.optim`; chain it with `clip_by_global_norm` to clip meta-gradients.
        params: initial parameters, those of a pretrained model for instance; the learner's own by ``seed`` if None.
        seed: of the initial parameters.
        validation: a sampler of validation tasks; the parameters of the best accuracy, or of the lowest loss where there is none, are kept.
        validate_every: steps between validations.
        validation_episodes, validation_steps: tasks and inner steps of a validation (the learner's own if None).
        patience: validations in a row without a new best after which training stops, for which there must be ``validation``; None for no such stop.
        time_limit: seconds of training, resumed parts included, after which it stops; None for no limit.
        out: a folder for checkpoints, made when needed; None for no checkpoints.
        checkpoint_every: steps between checkpoints; at the end there is always one, however it comes.
        settings: JSON values kept in checkpoints, so that a run can be rebuilt from its file.
        prefetch: batches built ahead in a background thread; 0 for none, best where a batch costs microseconds.
        report: called with a `Progress` a few times a second.

    Ctrl-C or SIGTERM (by which Slurm and Kubernetes stop a job) ends the run after the step at hand, with a checkpoint; a second
    one ends that step too.  Signals are seen in the main thread only.
    Errors: TypeError or ValueError naming the argument; `DivergedError` naming task and inner step, before parameters
    are touched; OSError, before the first step, for an ``out`` that cannot be written to; `CheckpointError` for a checkpoint of
    another model.  After an error of a step, of a sampler or of ``report`` the last completed step of the run is in a checkpoint.
    RuntimeWarning, once in a run, naming the tasks whose ``aux["residual"]`` is not below 1: a system left unsolved.

    >>> import fastmeta as fm
    >>> from fastmeta import optim
    >>> from fastmeta.algorithms import MAML
    >>> from fastmeta.data import Sinusoid
    >>> from fastmeta.models import MLP
    >>> learner = MAML(MLP((1, 8, 1)), loss=fm.nn.mse)
    >>> trained = Trainer(learner, Sinusoid(tasks=4), optim.adam(1e-3)).run(20)
    >>> trained.step, trained.interrupted
    (20, False)
    """

    def __init__(
        self,
        learner: Learner,
        sampler: Sampler,
        optimizer: Optimizer,
        *,
        params: Any = None,
        seed: int = 0,
        validation: Sampler | None = None,
        validate_every: int = 1000,
        validation_episodes: int = 200,
        validation_steps: int | None = None,
        patience: int | None = None,
        time_limit: float | None = None,
        out: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10_000,
        settings: Mapping[str, Any] | None = None,
        prefetch: int = 0,
        report: Callable[[Progress], None] | None = None,
    ):
        if not isinstance(learner, Learner):
            raise expected("Trainer", "a learner", type(learner).__name__, TypeError)
        if not callable(getattr(sampler, "batch", None)):
            raise expected("Trainer", "a sampler with batch(step)", type(sampler).__name__, TypeError)
        if validation is not None and not callable(getattr(validation, "batch", None)):
            raise expected("Trainer", "validation, a sampler with batch(step)", type(validation).__name__, TypeError)
        if not isinstance(optimizer, Optimizer):
            raise expected("Trainer", "an optimiser of fastmeta.optim", type(optimizer).__name__, TypeError)
        self.learner, self.sampler, self.optimizer = learner, sampler, optimizer
        self.params = params
        self.seed = whole("Trainer", "seed", seed, least=0)
        self.validation = validation
        self.validate_every = whole("Trainer", "validate_every", validate_every)
        self.validation_episodes = whole("Trainer", "validation_episodes", validation_episodes)
        self.validation_steps = None if validation_steps is None else whole("Trainer", "validation_steps", validation_steps, least=0)
        self.patience = None if patience is None else whole("Trainer", "patience", patience)
        if patience is not None and validation is None:
            raise expected("Trainer", "validation tasks, which patience counts on", f"patience {patience} without validation")
        if time_limit is not None and not time_limit > 0:
            raise expected("Trainer", "time_limit above 0", time_limit)
        self.time_limit = time_limit
        self.out = None if out is None else Path(out)
        self.checkpoint_every = whole("Trainer", "checkpoint_every", checkpoint_every)
        self.settings = dict(settings or {})
        json_text("Trainer", "settings", self.settings)  # not only at the first checkpoint
        self.prefetch = whole("Trainer", "prefetch", prefetch, least=0)
        self.report = report
        self._meta_step = jit(self._make_step())

    def run(self, steps: int, resume: str | os.PathLike[str] | None = None) -> Trained:
        """Train up to meta-step ``steps``, from the beginning or from a checkpoint, its file or the folder that holds it; resuming changes no bit."""
        total = whole("Trainer", "steps", steps)
        params = self._initial()
        state, moments, step, log = self.learner.init_state(), self.optimizer.init(params), 0, _Log()
        best = (params, state)
        if resume is not None:
            extra = {"state": state} | ({"best": params, "best_state": state} if self.validation is not None else {})
            loaded = load_checkpoint(resume, params=params, optimizer=moments, extra=extra)
            params, state, moments, step = loaded.params, loaded.extra["state"], loaded.optimizer, loaded.sampler_step
            best = (loaded.extra.get("best", params), loaded.extra.get("best_state", state))
            log = _Log(**loaded.config.get("log", {}))
            if step > total:
                raise expected("Trainer", f"steps at least the checkpoint's {step}", total)
        if self.out is not None:
            _try_out(self.out)
        run = _Run(self, total, (step, params, state, moments), best, log)
        with _interruptible() as signals:
            run.loop(signals)
        return run.end(signals)

    def memory_estimate(self) -> MemoryEstimate:
        """The memory that a meta-step will take beside data, parameters and the optimiser's state (native backend only)."""
        params, state = self._initial(), self.learner.init_state()
        moments = self.optimizer.init(params)
        return memory_estimate(self._meta_step, params, state, moments, self.sampler.batch(0), self.learner.phase(0))

    def _initial(self) -> Any:
        return self.learner.init(self.seed) if self.params is None else self.params

    def _make_step(self) -> Callable[..., Any]:
        """(params, state, moments, episodes, phase) -> (params, state, moments, [loss, health, residual(, accuracy)]).

        Health is finite iff all is; the residual is the worst of all tasks, 0 where there is none.
        """
        learner, optimizer = self.learner, self.optimizer

        def meta_step(params: Any, state: Any, moments: Any, episodes: Any, phase: tuple[Any, ...]) -> Any:
            (loss, aux), grads = learner.value_and_grad(params, episodes, *phase)
            if not isinstance(aux, dict) or "loss" not in aux:
                got = sorted(aux) if isinstance(aux, dict) else type(aux).__name__
                raise expected(type(learner).__name__, "a loss that returns (loss, aux) with aux['loss'] (docs/writing-a-learner.md)", got, TypeError)
            # Sums of absolute values: an infinity or a NaN anywhere makes the sum one.
            health = fa.add(loss, fa.sum(aux["inner_losses"])) if "inner_losses" in aux else loss
            for g in optree.tree_leaves(grads):
                health = fa.add(health, fa.sum(fa.abs(g)))
            updates, moments = optimizer.update(grads, moments, params)
            numbers = [loss, health, fa.max(aux["residual"]) if "residual" in aux else fa.zeros_like(loss)]
            if "accuracy" in aux:
                numbers.append(fa.astype(fa.mean(aux["accuracy"]), dtype=loss.dtype))
            return apply_updates(params, updates), learner.update_state(state, aux), moments, fa.stack(numbers)

        return meta_step

    def diverged(self, params: Any, episodes: Any, step: int) -> DivergedError:
        """The exception that names the first task and inner step whose loss is not finite."""
        name, phase = type(self.learner).__name__, self.learner.phase(step)
        with np.errstate(all="ignore"):
            (_, aux), _ = self.learner.value_and_grad(params, episodes, *phase)
            losses = np.asarray(aux["loss"])[:, None]
            if "inner_losses" in aux:
                losses = np.concatenate([aux["inner_losses"], losses], axis=1)
            for task, inner in np.argwhere(~np.isfinite(losses)):
                return DivergedError(name, int(task), int(inner), float(losses[task, inner]), step)
            for task in range(len(losses)):  # all losses are finite: a gradient is not
                alone = tree_map(lambda x, k=task: x[k : k + 1], episodes)
                _, grads = self.learner.value_and_grad(params, alone, *phase)
                for g in optree.tree_leaves(grads):
                    if not np.isfinite(g).all():
                        bad = float(g[~np.isfinite(g)][0])
                        return DivergedError(f"{name} gradient", task, losses.shape[1] - 1, bad, step)
        return DivergedError(name, 0, losses.shape[1] - 1, float("nan"), step)

    def warn_unsolved(self, params: Any, episodes: Any, step: int) -> None:
        """Warns of the tasks whose system was left no better solved than by nothing, with their residuals."""
        (_, aux), _ = self.learner.value_and_grad(params, episodes, *self.learner.phase(step))
        residuals = np.asarray(aux["residual"])
        worst = np.flatnonzero(residuals >= min(1.0, residuals.max()))
        got = ", ".join(f"{residuals[task]:.4g} in task {task}" for task in worst)
        hint = "Take more iterations, more damping or a smaller inner rate; later meta-steps are not reported"
        where = type(self.learner).__name__
        warnings.warn(
            expected(where, "residuals below 1", f"{got} (meta-step {step})", RuntimeWarning, hint), stacklevel=4
        )


def _score(row: list[Any]) -> float:
    """What the best validation has the highest of: accuracy, or minus the loss, below any for one that is not a number."""
    score = -row[1] if row[2] is None else row[2]
    return -math.inf if math.isnan(score) else float(score)


class _Run:
    """One run of a trainer: what changes."""

    def __init__(self, trainer: Trainer, total: int, now: tuple[int, Any, Any, Any], best: tuple[Any, Any], log: _Log):
        self.trainer, self.total, self.best, self.log = trainer, total, best, log  # best: (params, state)
        self.now = now  # (step, params, state, moments) change together, in one assignment
        self.first, self.saved, self.warned = now[0], -1, False
        self.begun = time.perf_counter() - log.seconds
        self.row_every = max(1, total // POINTS)

    def loop(self, signals: list[int]) -> None:
        t = self.trainer
        batches: Any = Prefetch(t.sampler, t.prefetch, start=self.now[0]) if t.prefetch else t.sampler
        batch, phase, meta_step, isfinite = batches.batch, t.learner.phase, t._meta_step, math.isfinite
        chunk, row, shown = 1, _Mean(), _Mean()
        told = time.perf_counter()
        step, params, state, moments = self.now
        try:
            while not self._over() and not signals:
                end = min(step + chunk, *(self._next(step, n) for n in self._periods()), self.total)
                began, loss_sum, share_sum, count = time.perf_counter(), 0.0, 0.0, 0
                share: list[float] = []
                while step < end:
                    episodes = batch(step)
                    if step == self.first:
                        t.learner.check(episodes)
                    new, new_state, new_moments, numbers = meta_step(params, state, moments, episodes, phase(step))
                    loss, health, residual, *share = numbers.tolist()
                    if not isfinite(health):
                        raise t.diverged(params, episodes, step)
                    if residual >= 1.0 and not self.warned:
                        self.warned = True
                        t.warn_unsolved(params, episodes, step)
                    step += 1
                    self.now = (step, new, new_state, new_moments)
                    params, state, moments = new, new_state, new_moments
                    loss_sum += loss
                    count += 1
                    if share:
                        share_sum += share[0]
                clock = time.perf_counter()
                if clock - began < REPORT_SECONDS / 4:
                    chunk = min(2 * chunk, 4096)
                elif clock - began > REPORT_SECONDS:
                    chunk = max(1, chunk // 2)
                for mean in (row, shown):
                    mean.add(count, loss_sum, share_sum if share else None)
                self._events(row)
                if t.report is not None and (clock - told > REPORT_SECONDS or step == self.total):
                    self._tell(shown, clock - told, len(episodes[0]))
                    told = time.perf_counter()
                    shown.clear()
            if row.count:
                self.log.history.append([step, *row.values()])
            if self._over() == "time limit" and t.validation is not None and self._validated() < step:
                self.validate()
        except KeyboardInterrupt:  # the second Ctrl-C, or one raised by a sampler
            pass
        except BaseException as error:
            self._rescue(error)
            raise
        finally:
            if t.prefetch:
                batches.close()

    def _over(self) -> str | None:
        """Why training is over; None if it is not."""
        t, log = self.trainer, self.log
        if self.now[0] >= self.total:
            return "steps"
        if t.patience is not None and sum(row[0] > (log.best_step or 0) for row in log.validations) >= t.patience:
            return "patience"
        if t.time_limit is not None and time.perf_counter() - self.begun >= t.time_limit:
            return "time limit"
        return None

    def _validated(self) -> int:
        """The step of the last validation, 0 if there was none."""
        return self.log.validations[-1][0] if self.log.validations else 0

    def _periods(self) -> list[int]:
        t = self.trainer
        periods = [self.row_every]
        if t.validation is not None:
            periods.append(t.validate_every)
        if t.out is not None:
            periods.append(t.checkpoint_every)
        return periods

    @staticmethod
    def _next(step: int, period: int) -> int:
        return (step // period + 1) * period

    def _events(self, row: _Mean) -> None:
        """What falls due after this step: a row of history, a validation, a checkpoint."""
        t, step = self.trainer, self.now[0]
        if step % self.row_every == 0 or step == self.total:
            self.log.history.append([step, *row.values()])
            row.clear()
        if t.validation is not None and (step % t.validate_every == 0 or step == self.total):
            self.validate()
        if step % t.checkpoint_every == 0 and step < self.total:
            self.save()

    def validate(self) -> None:
        t, (step, params, state, _) = self.trainer, self.now
        assert t.validation is not None
        result = evaluate(
            t.learner, params, t.validation, episodes=t.validation_episodes, steps=t.validation_steps, state=state
        )
        row, rows = [step, result["loss"], result.get("accuracy"), result.get("accuracy_interval")], self.log.validations
        if all(_score(row) > _score(before) for before in rows):
            self.best, self.log.best_step = (params, state), step
        rows.append(row)

    def save(self) -> Path | None:
        """Writes a checkpoint of the step at hand, once."""
        t, (step, params, state, moments) = self.trainer, self.now
        if t.out is None:
            return None
        path = t.out / CHECKPOINT
        if self.saved != step:
            self.log.seconds = time.perf_counter() - self.begun
            log, best = dict(vars(self.log)), dict(zip(("best", "best_state"), self.best, strict=True))
            save_checkpoint(
                path,
                params=params,
                optimizer=moments,
                sampler_step=step,
                config={"settings": t.settings, "log": log},
                extra={"state": state} | ({} if t.validation is None else best),
            )
            self.saved = step
        return path

    def _rescue(self, error: BaseException) -> None:
        """Writes the checkpoint of the last completed step before an error ends the run; the error tells if that fails too."""
        if self.now[0] == self.first:  # nothing is lost, and a checkpoint of an earlier run may be there
            return
        try:
            self.save()
        except OSError as failed:
            error.add_note(f"No checkpoint of meta-step {self.now[0]} could be written: {failed}")

    def end(self, signals: list[int]) -> Trained:
        path, over = self.save(), self._over()
        step, params, state, moments = self.now
        log = self.log
        best, best_state = (params, state) if log.best_step is None else self.best
        return Trained(
            params=best,
            state=best_state,
            last_params=params,
            last_state=state,
            optimizer=moments,
            step=step,
            ended=over or "interrupted",
            seconds=time.perf_counter() - self.begun,
            history=log.history,
            validations=log.validations,
            best_step=log.best_step,
            checkpoint=path,
            signal=None if over else (signals or [signal.SIGINT])[0],  # a sampler may raise KeyboardInterrupt
        )

    def _tell(self, mean: _Mean, seconds: float, tasks: int) -> None:
        assert self.trainer.report is not None
        step = self.now[0]
        loss, share = mean.values()
        speed = mean.count / seconds if seconds > 0 else 0.0
        left = (self.total - step) / speed if speed > 0 else math.inf
        last = self.log.validations[-1] if self.log.validations else None
        self.trainer.report(Progress(step, self.total, loss, share, speed * tasks, left, last))


class _Mean:
    """Sums of losses and accuracies over steps."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.count, self.loss, self.share = 0, 0.0, None  # type: int, float, float | None

    def add(self, count: int, loss: float, share: float | None) -> None:
        self.count += count
        self.loss += loss
        if share is not None:
            self.share = share + (self.share or 0.0)

    def values(self) -> tuple[float, float | None]:
        n = max(self.count, 1)
        return self.loss / n, None if self.share is None else self.share / n


def _try_out(folder: Path) -> None:
    """Makes the folder and writes there as checkpoints will be written, so that no training is lost for want of a right or space."""
    trial = folder / f"{CHECKPOINT}.trial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(trial) as file:
            file.write(b"trial")
        trial.unlink()
    except OSError as error:
        raise expected("Trainer", "out, a folder that can be written to", f"{folder} ({error})", type(error)) from error


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that gets the first Ctrl-C or SIGTERM, for the loop to look at; the second acts at once."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():  # None is a handler that Python cannot set
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
