"""`fastmeta reproduce`: results, resumption, refusals; and the page that is written from the results."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from omniglot_archive import write_archives
from typer.testing import CliRunner

from fastmeta.cli import app, reproduce
from fastmeta.cli.replications import REPLICATIONS, GradientReplication, MetricReplication, gradient, metric
from fastmeta.data import Omniglot
from fastmeta.train import trainer

# bench is beside the package and not installed with it
_spec = importlib.util.spec_from_file_location("written", Path(__file__).parents[1] / "bench" / "replications.py")
written = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(written)

TINY = GradientReplication(
    "MAML", inner_lr=0.4, inner_steps=1, test_steps=2, channels=4, ways=2, queries=2, test_queries=2, tasks=2, steps=6,
    validate_every=2, validation_episodes=4, test_episodes=20,
)  # fmt: skip


PROTO = MetricReplication(
    "ProtoNet", channels=4, train_ways=4, validation_ways=3, ways=2, queries=2, test_queries=2, steps=6, validate_every=2,
    validation_episodes=4, test_episodes=20,
)  # fmt: skip


def characters(root, *, split="all", classes=None, **options):
    """All of the few characters of the tests' archive, whatever the split or list."""
    return Omniglot(root, split="all", **options)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Two tiny configurations, their own archive and cache, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTMETA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FASTMETA_DEBUG", raising=False)
    monkeypatch.setattr(gradient, "Omniglot", characters)
    monkeypatch.setattr(metric, "Omniglot", characters)
    more = {"other": replace(TINY, learner="ANIL", seed=1), "proto": PROTO, "proto-3": replace(PROTO, ways=3, trained="proto")}
    monkeypatch.setattr(reproduce, "REPLICATIONS", {"tiny": TINY, **more})
    write_archives(tmp_path / "data")


def run(*args):
    return CliRunner().invoke(app, ["reproduce", *map(str, args), "--data", "data", "--out", "o"])


def result(name="tiny"):
    with open(f"o/{name}.json") as file:
        return json.load(file)


def test_a_queue_writes_results_and_logs_and_leaves_what_is_there(tmp_path):
    done = run("tiny", "other", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout).keys() == {"tiny", "other"}
    first = result()
    assert (first["replication"], first["ended"], first["meta_steps"], first["metrics"]["tasks"]) == ("tiny", "steps", 6, 20)
    assert len(first["metrics"]["accuracies"]) == 3 and first["best_step"] in (2, 4, 6)
    assert first["config"] == TINY.settings() and result("other")["config"]["learner"] == "ANIL"
    assert {"split", "rotations", "batch_norm", "loss"} == first["protocol"].keys()
    assert {"versions", "machine", "wall_seconds", "train_seconds"} <= first.keys()
    log = (tmp_path / "o" / "tiny" / "log.txt").read_text()
    assert "ended by steps" in log and "memory of a meta-step" in log
    assert "is there" in run("tiny").stdout
    assert result() == first


@pytest.mark.parametrize("mode", ["running", "per_step"])
def test_the_batch_norm_mode_stands_beside_every_accuracy(mode, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "REPLICATIONS", {"tiny": replace(TINY, options={"batch_norm": mode})})
    done = run("tiny")
    assert done.exit_code == 0, done.output
    assert result()["protocol"]["batch_norm"].startswith(f"{mode}: query sets of tests by averages")
    for text in (done.stdout, (tmp_path / "o" / "tiny" / "log.txt").read_text()):
        assert re.search(rf"accuracy [\d.]+ % \(batch\)  validation [\d.]+ % \({mode}\)", text)
        assert f"20 test tasks (batch norm: {mode})" in text


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    run("tiny")
    whole = result()
    (tmp_path / "o").rename(tmp_path / "whole")

    class Stopped(trainer.Trainer):
        def run(self, steps, resume=None):
            trained = super().run(3, resume)
            trained.ended, trained.signal = "interrupted", signal.SIGTERM
            return trained

    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "Trainer", Stopped)
        stopped = run("tiny", "other")
    assert stopped.exit_code == 143 and "goes on from there" in stopped.stdout
    assert not list((tmp_path / "o").glob("*.json"))
    assert "from meta-step 3" in run("tiny").stdout
    assert result()["metrics"] == whole["metrics"]


def test_configurations_that_differ_in_tests_share_a_training(tmp_path):
    assert run("proto-3", "proto").exit_code == 0
    few, more = result("proto"), result("proto-3")
    assert (few["config"]["ways"], more["config"]["ways"], more["config"]["train_ways"]) == (2, 3, 4)
    assert few["validations"] == more["validations"] and few["best_step"] == more["best_step"]
    assert few["metrics"] != more["metrics"] and len(few["metrics"]["accuracies"]) == 1
    assert {path.name for path in (tmp_path / "o").iterdir() if path.is_dir()} == {"proto"}
    assert "from meta-step 6" in (tmp_path / "o" / "proto" / "log.txt").read_text()


def test_what_shares_a_training_agrees_about_it():
    for name, r in REPLICATIONS.items():
        training, settings = r.training(name)
        assert REPLICATIONS[training].training(training) == (training, settings)


def test_the_time_limit_ends_a_run_with_a_result():
    assert run("tiny", "--minutes", 1e-9).exit_code == 0
    stopped = result()
    assert (stopped["ended"], stopped["config"]["minutes"]) == ("time limit", 1e-9)
    assert stopped["meta_steps"] < 6


def test_refusals(tmp_path, monkeypatch):
    assert "omniglot-maml" not in run("--list").stdout and "tiny" in run("--list").stdout
    for args, code, message in [((), 2, "expected a name"), (("nothing",), 2, "'nothing'"), (("tiny", "--minutes", 0), 2, "minutes above 0")]:
        refused = run(*args)
        assert refused.exit_code == code and message in refused.stderr, refused.output
    run("tiny")
    (tmp_path / "o" / "tiny.json").unlink()
    monkeypatch.setattr(reproduce, "REPLICATIONS", {"tiny": replace(TINY, version=2)})
    refused = run("tiny")
    assert refused.exit_code == 1 and "another one's" in refused.stderr
    (tmp_path / "o" / "tiny.json").write_text("{")
    refused = run("tiny")
    assert refused.exit_code == 1 and "tiny.json. Remove it" in refused.stderr


def test_the_list_as_json():
    listed = json.loads(run("--list", "--json").stdout)
    assert listed["tiny"] == {"learner": "MAML", "ways": 2, "shots": 1, "steps": 6, "minutes": TINY.minutes}


@pytest.mark.parametrize("name", REPLICATIONS)
def test_every_configuration_makes_its_learner_and_rule(name):
    r = REPLICATIONS[name]
    assert name == f"omniglot-{name.split('-', 1)[1].rsplit('-', 1)[0]}-{r.ways}w{r.shots}s"
    assert r.make_learner().init(r.seed) is not None and r.optimizer()
    assert json.loads(json.dumps(r.settings())) == r.settings()


def test_the_page_is_what_the_results_say():
    assert written.PAGE.read_text() == written.page(written.results(written.RESULTS))


def test_the_page_tells_result_limit_and_what_is_missing():
    run("tiny", "--minutes", 1e-9)
    page = written.page({"omniglot-maml-5w1s": result()})
    assert "stopped by the time limit" in page and "98.7 ± 0.4" in page and "`omniglot-anil-5w1s`" in page
