"""The outer loop: it learns, resumes bit by bit, stops at Ctrl-C and before divergence does harm."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import optree
import pytest

import fastmeta as fm
from fastmeta import optim
from fastmeta.algorithms import MAML
from fastmeta.data import EpisodeSampler, Sinusoid
from fastmeta.data.sampler import Sampler
from fastmeta.errors import CheckpointError, DivergedError
from fastmeta.models import MLP
from fastmeta.train import plots
from fastmeta.train.checkpoint import load_checkpoint
from fastmeta.train.evaluate import evaluate
from fastmeta.train.trainer import Trainer


def regression(**options):
    return MAML(**({"model": MLP((1, 8, 1)), "loss": fm.nn.mse, "inner_steps": 2} | options))


def classes(seed=0, **options):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 12)
    x = rng.normal(size=(6, 5)).astype(np.float32)[y] + 0.3 * rng.normal(size=(72, 5)).astype(np.float32)
    return EpisodeSampler.from_arrays(
        x, y, **({"ways": 3, "shots": 2, "queries": 4, "tasks": 8, "seed": seed} | options)
    )


def trainer(sampler=None, **options):
    rule = optim.chain(optim.clip_by_global_norm(10.0), optim.adam(optim.cosine(1e-2, 1e-3, 20)))
    return Trainer(options.pop("learner", None) or regression(), sampler or Sinusoid(tasks=4), rule, **options)


class Wrapped(Sampler):
    """A sampler that calls ``before(step)`` first and passes the batch through ``change``."""

    def __init__(self, sampler, before=lambda step: None, change=lambda step, e: e):
        self.sampler, self.before, self.change = sampler, before, change

    def batch(self, step):
        self.before(step)
        return self.change(step, self.sampler.batch(step))


def assert_same_bits(a, b):
    for u, v in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True):
        assert (u.dtype, u.shape, u.tobytes()) == (v.dtype, v.shape, v.tobytes())


def test_it_learns_and_reports():
    told = []
    t = trainer(learner=regression(inner_steps=1), report=told.append)
    before = evaluate(t.learner, t.learner.init(0), Sinusoid(tasks=50, seed=9), episodes=100)["loss"]
    trained = t.run(400)
    after = evaluate(t.learner, trained.params, Sinusoid(tasks=50, seed=9), episodes=100)["loss"]
    assert after < 0.8 * before
    assert trained.history[-1][0] == 400
    assert np.mean([row[1] for row in trained.history[-50:]]) < np.mean([row[1] for row in trained.history[:50]])
    assert told[-1].step == told[-1].steps == 400
    assert told[-1].tasks_per_second > 0
    assert told[-1].accuracy is None
    assert [p.step for p in told] == sorted({p.step for p in told})


def test_a_meta_step_is_the_learners_gradient_and_the_optimisers_update():
    learner, sampler, rule = regression(), Sinusoid(tasks=4), optim.adam(1e-2)
    params = learner.init(5)
    state = rule.init(params)
    for step in range(3):
        _, g = learner.value_and_grad(params, sampler.batch(step))
        updates, state = rule.update(g, state, params)
        params = optim.apply_updates(params, updates)
    trained = Trainer(learner, sampler, rule, seed=5).run(3)
    for a, b in zip(optree.tree_leaves(params), optree.tree_leaves(trained.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_resumed_is_the_same_bits(tmp_path, prefetch):
    whole = trainer(out=tmp_path / "whole").run(20)
    trainer(out=tmp_path / "part", prefetch=prefetch).run(10)
    part = trainer(out=tmp_path / "part", prefetch=prefetch).run(20, tmp_path / "part" / "checkpoint.safetensors")
    assert_same_bits((whole.params, whole.optimizer), (part.params, part.optimizer))
    assert [row[0] for row in part.history] == list(range(1, 21))
    assert [row[1] for row in part.history] == [row[1] for row in whole.history]


def test_classification_keeps_the_best_by_validation_and_resumes_it(tmp_path):
    learner = MAML(MLP((5, 16, 3), batch_norm=True), inner_lr=0.4)

    def make(folder):
        return trainer(
            classes(), learner=learner, validation=classes(1), validate_every=5, validation_episodes=16, out=folder
        )

    whole = make(tmp_path / "a").run(20)
    assert [row[0] for row in whole.validations] == [5, 10, 15, 20]
    best = max(whole.validations, key=lambda row: row[2])
    assert whole.best_step == best[0]
    assert evaluate(learner, whole.params, classes(1), episodes=16)["accuracy"] == pytest.approx(best[2])
    assert all(0 <= row[2] <= 1 for row in whole.history)
    make(tmp_path / "b").run(12)
    part = make(tmp_path / "b").run(20, tmp_path / "b" / "checkpoint.safetensors")
    assert_same_bits((whole.last_params, whole.params), (part.last_params, part.params))
    assert [r[:3] for r in part.validations if r[0] != 12] == [r[:3] for r in whole.validations]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_resumes(tmp_path, number):
    def press(step):
        if step == 7:
            signal.raise_signal(number)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped = trainer(Wrapped(Sinusoid(tasks=4), press), out=tmp_path).run(20)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert stopped.interrupted and stopped.signal == number
    assert 8 <= stopped.step < 20
    assert (
        load_checkpoint(stopped.checkpoint, params=stopped.params, optimizer=stopped.optimizer).sampler_step
        == stopped.step
    )
    resumed = trainer(out=tmp_path).run(20, stopped.checkpoint)
    assert not resumed.interrupted and resumed.signal is None
    assert_same_bits(resumed.params, trainer().run(20).params)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_step_at_hand(tmp_path, number):
    def press(step):
        if step == 7:
            signal.raise_signal(number)
            signal.raise_signal(number)

    stopped = trainer(Wrapped(Sinusoid(tasks=4), press), out=tmp_path).run(20)
    assert stopped.interrupted
    assert stopped.step == 7
    assert_same_bits(trainer(out=tmp_path).run(20, stopped.checkpoint).params, trainer().run(20).params)


def fail(error):
    raise error


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("error", [OSError("the disk is gone"), SystemExit(3)])
def test_an_error_of_the_sampler_loses_no_step(tmp_path, error, prefetch):
    broken = Wrapped(Sinusoid(tasks=4), before=lambda step: step == 7 and fail(error))
    with pytest.raises(type(error)) as info:
        trainer(broken, out=tmp_path, prefetch=prefetch).run(20)
    assert info.value is error
    assert load_checkpoint(tmp_path, params=regression().init()).sampler_step == 7
    assert_same_bits(trainer().run(20, resume=tmp_path).params, trainer().run(20).params)


def test_an_error_of_the_report_loses_no_step(tmp_path):
    slow = Wrapped(Sinusoid(tasks=4), before=lambda step: time.sleep(0.1))
    with pytest.raises(ZeroDivisionError):
        trainer(slow, out=tmp_path, report=lambda told: told.step / 0).run(1000)
    assert 0 < load_checkpoint(tmp_path, params=regression().init()).sampler_step < 1000


def test_an_error_before_the_first_step_leaves_an_earlier_checkpoint(tmp_path):
    kept = trainer(out=tmp_path).run(3).checkpoint.read_bytes()
    with pytest.raises(RuntimeError, match="no data"):
        trainer(Wrapped(Sinusoid(tasks=4), before=lambda step: fail(RuntimeError("no data"))), out=tmp_path).run(20)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept


def full(descriptor):
    raise OSError("no space left")


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_first_step(tmp_path, monkeypatch):
    steps = []
    run = trainer(Wrapped(Sinusoid(tasks=4), steps.append), out=tmp_path / "new" / "run").run
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"\[Trainer\] expected out, a folder that can be written to, got .*run \(no space left\)"):
            run(5)
    assert not steps and not list((tmp_path / "new" / "run").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"\[Trainer\] expected out, a folder that can be written to"):
        trainer(out=tmp_path / "file").run(5)


def test_an_error_tells_that_no_checkpoint_could_be_written(tmp_path, monkeypatch):
    def break_all(step):
        if step == 4:
            monkeypatch.setattr(os, "fsync", full)
            raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data") as info:
        trainer(Wrapped(Sinusoid(tasks=4), break_all), out=tmp_path).run(20)
    assert info.value.__notes__ == ["No checkpoint of meta-step 4 could be written: no space left"]


def test_it_runs_in_a_thread():
    result = []
    thread = threading.Thread(target=lambda: result.append(trainer().run(5)))
    thread.start()
    thread.join()
    assert result[0].step == 5


def test_divergence_names_task_and_inner_step_before_harm(tmp_path):
    def spoil(step, e):
        if step == 6:
            e.support_x[2] = 1e15
        return e

    with pytest.raises(
        DivergedError, match=r"\[MAML\] expected finite losses, got (inf|nan) in task 2 at inner step 1 \(meta-step 6\)"
    ) as info:
        trainer(Wrapped(Sinusoid(tasks=4), change=spoil), out=tmp_path).run(20)
    assert (info.value.task, info.value.inner_step, info.value.step) == (2, 1, 6)
    good = trainer().run(6)
    saved = load_checkpoint(tmp_path / "checkpoint.safetensors", params=good.params, optimizer=good.optimizer)
    assert saved.sampler_step == 6
    assert_same_bits((saved.params, saved.optimizer), (good.params, good.optimizer))


def test_a_query_loss_that_is_not_finite_is_the_step_after_the_last():
    def spoil(step, e):
        e.query_y[1, 0] = np.nan
        return e

    with pytest.raises(DivergedError) as info:
        trainer(Wrapped(Sinusoid(tasks=4), change=spoil)).run(3)
    assert (info.value.task, info.value.inner_step, info.value.step) == (1, 2, 0)


def test_checkpoints_come_periodically(tmp_path):
    seen = []

    def look(step):
        path = tmp_path / "checkpoint.safetensors"
        if path.exists():
            t = trainer()
            params = t.learner.init()
            seen.append(load_checkpoint(path, params=params).sampler_step)

    trainer(Wrapped(Sinusoid(tasks=4), look), out=tmp_path, checkpoint_every=4).run(10)
    assert sorted(set(seen)) == [4, 8]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    trainer(out=tmp_path).run(2)
    with pytest.raises(CheckpointError, match="another model"):
        trainer(learner=regression(model=MLP((1, 9, 1)))).run(4, tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="steps at least the checkpoint's 2, got 1"):
        trainer().run(1, tmp_path / "checkpoint.safetensors")


def test_evaluate_takes_exactly_so_many_tasks():
    learner = regression()
    params, sampler = learner.init(0), Sinusoid(tasks=8, seed=2)
    result = evaluate(learner, params, sampler, episodes=11, steps=1)
    parts = np.concatenate([learner.measure(params, sampler.batch(k), 1)["losses"] for k in (0, 1)])[:11]
    assert result["tasks"] == 11
    assert result["losses"] == pytest.approx(parts.mean(axis=0).tolist())


def test_plots_are_whole_png_files(tmp_path):
    metrics = {"tasks": 3, "losses": [2.0, 1.0], "losses_interval": [0.1, 0.2]}
    plots.learning_curve(tmp_path / "a.png", [[1, 2.0, 0.4], [2, 1.0, 0.6]], [[2, 1.5, 0.5, 0.1]], title="t")
    plots.learning_curve(tmp_path / "b.png", [[1, 2.0, None], [2, 1.0, None]])
    plots.adaptation_curve(tmp_path / "c.png", metrics, trained_steps=1)
    for name in "abc":
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert content.endswith(b"IEND\xaeB`\x82")


def test_a_run_resumes_from_its_folder(tmp_path):
    first = trainer(out=tmp_path).run(4)
    assert_same_bits(trainer().run(8, resume=tmp_path).params, trainer().run(8, resume=first.checkpoint).params)
    with pytest.raises(FileNotFoundError, match="no file at .*checkpoint.safetensors"):
        trainer().run(8, resume=tmp_path / "..")


def test_given_parameters_are_where_it_begins():
    given = regression().init(7)
    run = trainer(params=given).run(3)
    assert_same_bits(run.params, trainer(seed=7).run(3).params)
    net = MAML(lambda p, x: x @ p["w"], loss=fm.nn.mse)
    assert Trainer(net, Sinusoid(tasks=2), optim.sgd(0.1), params={"w": np.zeros((1, 1), np.float32)}).run(2).step == 2


BAD = [
    (lambda: Trainer(MAML(lambda p, x: x), Sinusoid(), optim.sgd(0.1)).run(1), TypeError, r"\[MAML\] expected a model with init\(seed\), got function"),
    (lambda: Trainer(fm.ProtoNet(MLP((5, 4)), ways=4), classes(), optim.sgd(0.1)).run(1), ValueError, "expected ways 3, the number of classes of the training tasks, got 4"),
    (lambda: Trainer(None, Sinusoid(), optim.sgd(0.1)), TypeError, "a learner, got NoneType"),
    (lambda: Trainer(regression(), [1], optim.sgd(0.1)), TypeError, r"a sampler with batch\(step\), got list"),
    (lambda: Trainer(regression(), Sinusoid(), "adam"), TypeError, "an optimiser"),
    (lambda: trainer(seed=-1), ValueError, "seed at least 0"),
    (lambda: trainer(validate_every=0), ValueError, "validate_every at least 1"),
    (lambda: trainer(checkpoint_every=0), ValueError, "checkpoint_every at least 1"),
    (lambda: trainer(settings={"data": os}), TypeError, r"\[Trainer\] expected settings of JSON values"),
    (lambda: trainer(validation=[1]), TypeError, r"\[Trainer\] expected validation, a sampler with batch\(step\), got list"),
    (lambda: trainer(validation_steps=-1), ValueError, r"\[Trainer\] expected validation_steps at least 0, got -1"),
    (lambda: trainer(patience=3), ValueError, r"\[Trainer\] expected validation tasks, .* got patience 3 without validation"),
    (lambda: trainer(prefetch=-1), ValueError, "prefetch at least 0"),
    (lambda: trainer().run(0), ValueError, "steps at least 1"),
    (lambda: trainer().run(1.5), TypeError, "steps a whole number"),
    (lambda: trainer().run(5, "nowhere.safetensors"), FileNotFoundError, "no file at nowhere"),
    (lambda: evaluate(regression(), regression().init(), Sinusoid().batch(0)), TypeError, r"\[evaluate\] expected a sampler with batch\(step\), got Episode"),
    (lambda: evaluate(regression(), regression().init(), Sinusoid(), episodes=0), ValueError, "episodes at least 1"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_options_are_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_patience_ends_a_run_that_no_longer_improves():
    options = {"learner": MAML(MLP((5, 8, 3)), inner_lr=1e-9), "validation": classes(1), "validation_episodes": 8}
    rule = optim.sgd(1e-9)  # nothing is learned: the first validation stays the best
    run = Trainer(options.pop("learner"), classes(), rule, validate_every=2, patience=3, **options).run(50)
    assert (run.ended, run.step, run.best_step, run.interrupted) == ("patience", 8, 2, False)


def test_without_accuracy_the_lowest_loss_is_the_best():
    learner = MAML(MLP((1, 16, 1)), loss=fm.nn.mse)
    options = {"validation": Sinusoid(tasks=8, seed=3), "validation_episodes": 16, "validate_every": 20}
    run = Trainer(learner, Sinusoid(tasks=8), optim.adam(1e-3), patience=2, **options).run(200)
    losses = {row[0]: row[1] for row in run.validations}
    assert run.best_step == min(losses, key=losses.get) and run.step > 40  # it improves for longer than patience
    assert evaluate(learner, run.params, options["validation"], episodes=16, state=run.state)["loss"] == losses[run.best_step]


def test_a_time_limit_ends_a_run_with_a_validation_and_counts_resumed_time(tmp_path):
    options = {"learner": MAML(MLP((5, 8, 3))), "validation": classes(1), "validation_episodes": 8, "out": tmp_path}
    slow = Wrapped(classes(), before=lambda step: time.sleep(0.02))
    run = trainer(slow, time_limit=0.1, **options).run(1000)
    assert run.ended == "time limit" and 0 < run.step < 1000
    assert run.validations[-1][0] == run.history[-1][0] == run.step
    again = trainer(slow, time_limit=0.1, **options).run(1000, run.checkpoint)
    assert (again.ended, again.step) == ("time limit", run.step)
    assert again.validations == run.validations
    with pytest.raises(ValueError, match="time_limit above 0"):
        trainer(time_limit=0)


@pytest.mark.parametrize(
    ("method", "result", "message"),
    [("loss", lambda value: (value, {}), r"\[Mine\] expected a loss that returns \(loss, aux\) with aux\['loss'\]"), ("measure", lambda value: {"loss": value}, r"\[Mine\] expected a measure of 'losses'")],
    ids=["loss", "measure"],
)
def test_learners_that_break_their_contract_are_named(method, result, message):
    base = getattr(MAML, method)

    def broken(self, *args):
        value = base(self, *args)
        return result(value[0] if method == "loss" else value["losses"])

    learner = type("Mine", (MAML,), {method: broken})(MLP((1, 8, 1)), loss=fm.nn.mse)
    with pytest.raises(TypeError, match=message):
        Trainer(learner, Sinusoid(tasks=4), optim.adam(1e-3), validation=Sinusoid(tasks=4), validate_every=1).run(2)
