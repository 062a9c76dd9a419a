"""What ``fastmeta train`` trains: from settings (plain JSON values, kept in checkpoints) to learner and samplers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastmeta import nn, optim
from fastmeta.algorithms import MAML, InnerLoop
from fastmeta.data import Omniglot, Sinusoid
from fastmeta.data.sampler import Sampler
from fastmeta.errors import expected, whole
from fastmeta.models import MLP

BATCH_NORM = {
    "batch": "batch (transductive): statistics of the batch at hand, in training and in tests",
    "running": "running: query sets of tests by averages over the query sets of training, support sets by their own statistics",
    "per_step": "per_step: query sets of tests by averages of training for the inner steps taken, support sets by their own statistics",
}
TEST_SEED, VALIDATION_SEED = 2**63, 2**62  # added to the run's seed: streams that training never meets

SINUSOID: dict[str, Any] = {
    "task": "sinusoid", "steps": 70_000, "tasks": 25, "shots": 10, "queries": 10, "hidden": [40, 40], "order": 2,
    "inner_lr": 0.01, "inner_steps": 1, "inner_clip": None, "meta_lr": 1e-3, "meta_lr_end": None, "meta_clip": None,
    "test_episodes": 1000, "test_steps": 10, "seed": 0,
}  # fmt: skip

OMNIGLOT: dict[str, Any] = {
    "task": "omniglot", "steps": 30_000, "tasks": 32, "ways": 5, "shots": 1, "queries": 5, "hidden": [256, 128, 64, 64],
    "order": 2, "inner_lr": 0.4, "inner_steps": 1, "inner_clip": None, "meta_lr": 1e-3, "meta_lr_end": None,
    "meta_clip": None, "rotations": "task", "split_seed": 0, "test_episodes": 600, "test_steps": 3, "test_queries": 15,
    "seed": 0,
}  # fmt: skip


@dataclass
class Recipe:
    """All that a run needs."""

    settings: dict[str, Any]
    learner: InnerLoop
    optimizer: optim.Optimizer
    train: Sampler
    validation: Sampler | None
    test: Callable[[str], Sampler]  # of a split; sinusoids have the split "test" only
    prefetch: int
    protocol: str  # the conditions of its figures, for people


def recipe(settings: Mapping[str, Any], data: str | None = None) -> Recipe:
    """The recipe for settings that are complete; ``data`` is the folder of a data set on disk.

    Errors: TypeError or ValueError naming the argument.

    >>> recipe(SINUSOID | {"tasks": 4}).train.batch(0).support_x.shape
    (4, 10, 1)
    """
    kinds = {"sinusoid": (SINUSOID, _sinusoid), "omniglot": (OMNIGLOT, _omniglot)}
    name = settings.get("task")
    if name not in kinds:
        raise expected("train", f"a task {' or '.join(kinds)}", repr(name))
    known, make = kinds[name]
    if settings.keys() != known.keys():
        raise expected("train", f"settings {sorted(known)}", sorted(settings))
    s = dict(settings)
    for key in ("steps", "test_episodes"):
        whole("train", key, s[key])
    whole("train", "test_steps", s["test_steps"], least=0)
    if not isinstance(s["hidden"], list):
        raise expected("train", "hidden a list of sizes", repr(s["hidden"]), TypeError)
    return make(s, data)


def _learner(s: dict[str, Any], model: MLP, loss: Callable[..., Any]) -> MAML:
    return MAML(
        model,
        loss=loss,
        inner_lr=s["inner_lr"],
        inner_steps=s["inner_steps"],
        order=s["order"],
        inner_clip=s["inner_clip"],
    )


def _optimizer(s: dict[str, Any]) -> optim.Optimizer:
    end = s["meta_lr_end"]
    rule = optim.adam(s["meta_lr"] if end is None else optim.cosine(s["meta_lr"], end, s["steps"]))
    return rule if s["meta_clip"] is None else optim.chain(optim.clip_by_global_norm(s["meta_clip"]), rule)


def _sinusoid(s: dict[str, Any], data: str | None) -> Recipe:
    if data is not None:
        raise expected("train sinusoid", "no data folder", data)

    def sampler(tasks: int, offset: int) -> Sinusoid:
        return Sinusoid(shots=s["shots"], queries=s["queries"], tasks=tasks, seed=s["seed"] + offset)

    return Recipe(
        settings=s,
        learner=_learner(s, MLP((1, *s["hidden"], 1)), nn.mse),
        optimizer=_optimizer(s),
        train=sampler(s["tasks"], 0),
        validation=None,
        test=lambda split: sampler(min(s["test_episodes"], 250), TEST_SEED),
        prefetch=0,
        protocol=f"{s['shots']} support and {s['queries']} query points a task, "
        "amplitude 0.1-5, phase 0-pi, x -5-5, mean squared error",
    )


def _omniglot(s: dict[str, Any], data: str | None) -> Recipe:
    def sampler(split: str, tasks: int, queries: int, offset: int) -> Omniglot:
        return Omniglot(
            data,
            split=split,
            ways=s["ways"],
            shots=s["shots"],
            queries=queries,
            tasks=tasks,
            seed=s["seed"] + offset,
            rotations=s["rotations"],
            split_seed=s["split_seed"],
            flat=True,
        )

    learner = _learner(s, MLP((784, *s["hidden"], s["ways"]), batch_norm=True), nn.cross_entropy)
    optimizer = _optimizer(s)
    offsets = {"train": 2**61, "validation": VALIDATION_SEED, "test": TEST_SEED}
    return Recipe(
        settings=s,
        learner=learner,
        optimizer=optimizer,
        train=sampler("train", s["tasks"], s["queries"], 0),
        validation=sampler("validation", 50, s["test_queries"], VALIDATION_SEED),
        test=lambda split: sampler(split, 50, s["test_queries"], offsets[split]),
        prefetch=2,
        protocol=f"{s['ways']}-way {s['shots']}-shot, {s['test_queries']} queries a class; characters split "
        f"1100/100/423 by seed {s['split_seed']}; rotations: {s['rotations']}; batch norm: {BATCH_NORM[learner.batch_norm]}",
    )
