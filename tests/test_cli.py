"""The command line: results, messages, exit codes."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from hosts import ENGINES
from typer.testing import CliRunner

import fastmeta as fm
from fastmeta.cli import app, commands, display, recipes
from fastmeta.data import EpisodeSampler

SMALL = [
    "--hidden",
    "8",
    "--tasks",
    "4",
    "--test-episodes",
    "20",
    "--test-steps",
    "3",
    "--shots",
    "5",
    "--queries",
    "5",
]


@pytest.fixture(autouse=True)
def quiet_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTMETA_DEBUG", raising=False)
    before = fm.backends.state.threads
    yield
    fm.backends.state.threads = before


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def sinusoid(*args):
    return run("train", "sinusoid", *SMALL, *args)


def test_train_sinusoid_writes_everything(tmp_path):
    result = sinusoid("--steps", 30, "--out", "o")
    assert result.exit_code == 0, result.output
    assert "query loss" in result.stdout
    told = r", .*: [\d.]+ MB \(.*code [\d.]+\)" if ENGINES[0] == "native" else ": the numba backend cannot tell"
    assert re.search(f"memory of a meta-step{told}", result.stdout)
    assert {p.name for p in (tmp_path / "o").iterdir()} == {
        "checkpoint.safetensors", "result.json", "learning_curve.png", "adaptation_curve.png",
    }  # fmt: skip
    stored = json.loads((tmp_path / "o" / "result.json").read_text())
    assert stored["config"]["hidden"] == [8]
    assert stored["meta_steps"] == 30
    assert stored["metrics"]["tasks"] == 20
    assert len(stored["metrics"]["losses"]) == 4
    assert {"seed", "versions", "machine", "wall_seconds", "history", "protocol"} <= stored.keys()


def test_json_is_all_that_is_printed():
    result = sinusoid("--steps", 5, "--out", "o", "--json")
    assert result.exit_code == 0
    values = json.loads(result.stdout)
    assert values["metrics"]["tasks"] == 20
    assert values["folder"] == "o"
    assert result.stderr == ""


def test_quiet_prints_nothing():
    result = sinusoid("--steps", 5, "--out", "o", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_resume_is_the_same_run(tmp_path):
    whole = json.loads(sinusoid("--steps", 20, "--out", "whole", "--json").stdout)
    sinusoid("--steps", 8, "--out", "part", "--quiet")
    part = run("train", "sinusoid", "--resume", "part", "--steps", 20, "--json")
    assert part.exit_code == 0, part.output
    assert json.loads(part.stdout)["metrics"] == whole["metrics"]
    assert json.loads(part.stdout)["folder"] == "part"


def test_without_out_each_run_has_its_own_folder(tmp_path):
    for _ in range(2):
        assert sinusoid("--steps", 2, "--quiet").exit_code == 0
    assert len(list((tmp_path / "runs").glob("sinusoid-*/result.json"))) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(number, code, tmp_path, monkeypatch):
    batch = recipes.Sinusoid.batch

    def pressed(self, step):
        if step == 5:
            signal.raise_signal(number)
        return batch(self, step)

    monkeypatch.setattr(recipes.Sinusoid, "batch", pressed)
    result = sinusoid("--steps", 2000, "--out", "o")
    assert result.exit_code == code
    assert "fastmeta train sinusoid --resume o/checkpoint.safetensors" in result.stdout
    monkeypatch.setattr(recipes.Sinusoid, "batch", batch)
    again = run("train", "sinusoid", "--resume", "o/checkpoint.safetensors", "--steps", 40, "--json")
    assert json.loads(again.stdout)["meta_steps"] in (40, 2000), again.output
    monkeypatch.setattr(recipes.Sinusoid, "batch", pressed)
    values = json.loads(sinusoid("--steps", 2000, "--out", "p", "--json").stdout)
    assert values["interrupted"] is True
    assert values["resume"] == "fastmeta train sinusoid --resume p/checkpoint.safetensors"


def test_divergence_is_one_line_and_exit_code_1():
    result = sinusoid("--steps", 50, "--out", "o", "--inner-lr", "1e12")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "error: [MAML] expected finite losses" in result.stderr
    assert "at inner step" in result.stderr


def test_more_memory_than_there_is_is_one_line(monkeypatch):
    def train(*args, **options):
        raise MemoryError("Unable to allocate 82.0 GiB")

    monkeypatch.setattr(commands, "train", train)
    result = sinusoid("--steps", 1, "--out", "o")
    assert (result.exit_code, result.stderr) == (1, "error: Unable to allocate 82.0 GiB\n")


def test_eval_of_a_checkpoint():
    sinusoid("--steps", 10, "--out", "o", "--quiet")
    trained = json.loads(Path("o/result.json").read_text())
    result = run("eval", "o/checkpoint.safetensors", "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["metrics"] == trained["metrics"]
    assert values["step"] == 10
    more = run("eval", "o/checkpoint.safetensors", "--episodes", 7, "--steps", 1)
    assert "7 new tasks" in more.stdout
    assert more.stdout.count("±") == 2


def test_brackets_are_shown():
    console = commands.Show(quiet=False, as_json=False).console
    with console.capture() as shown:
        console.print(display.facts_table({"backend numba": "fastmeta[numba]"}, "fastmeta"))
        console.print("[MAML] expected steps")
    assert "fastmeta[numba]" in shown.get() and "[MAML] expected steps" in shown.get()


def test_bench_and_info():
    values = json.loads(run("bench", "--seconds", 0.05, "--tasks", 4, "--inner-steps", 1, "--json").stdout)
    assert values["tasks_per_second"] > 0
    assert values["machine"]["backend"] == ENGINES[0]
    assert "tasks/s" in run("bench", "--seconds", 0.05, "--tasks", 4).stdout
    values = json.loads(run("info", "--json").stdout)
    assert values["versions"]["fastmeta"] == fm.__version__
    assert set(values["backends"]) >= {"native", "numba", "numpy"}
    assert "cache" in run("info").stdout


def test_help_names_every_command():
    text = run("--help").stdout
    assert all(name in text for name in ("train", "eval", "reproduce", "bench", "info"))
    assert "--inner-lr" in run("train", "omniglot", "--help").stdout


USAGE = [
    (["train", "sinusoid", "--ways", "5"], "No such option"),
    (["train", "imagenet"], "No such command"),
    (["train", "sinusoid", "--steps", "many"], "--steps"),
    (["train", "sinusoid", "--steps", "0"], "steps at least 1"),
    (["train", "sinusoid", "--tasks", "0"], "tasks at least 1"),
    (["train", "sinusoid", "--shots", "-1"], "shots at least 1"),
    (["train", "sinusoid", "--inner-lr", "0"], "inner_lr above 0"),
    (["train", "sinusoid", "--inner-steps", "0"], "inner steps at least 1"),
    (["train", "sinusoid", "--order", "3"], "order 1 or 2"),
    (["train", "sinusoid", "--meta-lr", "-1"], "lr above 0"),
    (["train", "sinusoid", "--meta-clip", "0"], "max_norm above 0"),
    (["train", "sinusoid", "--hidden", "40;40"], "hidden sizes like 40,40"),
    (["train", "sinusoid", "--hidden", "0"], "each at least 1"),
    (["train", "sinusoid", "--seed", "-1"], "seed at least 0"),
    (["train", "sinusoid", "--threads", "0"], "positive integer"),
    (["train", "sinusoid", "--checkpoint-every", "0"], "checkpoint_every at least 1"),
    (["train", "omniglot", "--rotations", "some"], "rotations"),
    (["train", "omniglot", "--ways", "0"], "1"),
    (["bench", "--tasks", "0"], "tasks at least 1"),
    (["bench", "--seconds", "-1"], "seconds above 0"),
    (["eval"], "Missing argument"),
]


@pytest.mark.parametrize(("args", "message"), USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_wrong_usage_is_one_line_and_exit_code_2(args, message, tmp_path):
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert message.lower() in result.stderr.lower()
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_failures_are_one_line_and_exit_code_1(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    for args, message in (
        (["eval", "none.safetensors"], "no file at none"),
        (["eval", "bad.safetensors"], "a whole safetensors file"),
        (["train", "sinusoid", "--resume", "bad.safetensors"], "a whole safetensors file"),
        (["train", "omniglot", "--data", "nowhere"], "no folder at nowhere"),
    ):
        result = run(*args)
        assert result.exit_code == 1, result.output
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


BAD_VARIABLES = [("FASTMETA_DEBUG", "yes", "0 or 1"), ("FASTMETA_BACKEND", "tpu", "one of native"), ("FASTMETA_NUM_THREADS", "many", "a positive integer")]


@pytest.mark.parametrize(("name", "value", "message"), BAD_VARIABLES)
def test_bad_variables_are_one_line_and_exit_code_1(name, value, message, monkeypatch):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(fm.backends, "state", fm.backends._State())
    result = run("bench", "--seconds", 0.01, "--tasks", 2)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: [{name}] expected {message}") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(("name", "value", "message"), BAD_VARIABLES[1:])
def test_info_tells_bad_variables_beside_the_rest(name, value, message, monkeypatch):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(fm.backends, "state", fm.backends._State())
    result = run("info")
    assert (result.exit_code, result.stderr) == (1, "")
    assert f"[{name}] expected {message}" in result.stdout and "backend numpy" in result.stdout and "cache" in result.stdout
    assert f"[{name}] expected {message}" in json.loads(run("info", "--json").stdout)["machine"]["error"]


def test_info_of_a_backend_that_is_not_there_says_why_and_fails(monkeypatch):
    monkeypatch.setattr(fm.backends, "chosen", lambda: (_ for _ in ()).throw(RuntimeError("no such device")))
    result = run("info")
    assert result.exit_code == 1
    assert "no such device" in result.stdout and "backend numpy" in result.stdout


def test_the_version_is_told():
    assert (run("--version").exit_code, run("--version").stdout) == (0, f"fastmeta {fm.__version__}\n")


def test_a_run_is_gone_on_with_but_never_replaced():
    assert sinusoid("--steps", 3, "--out", "o", "--quiet").exit_code == 0
    kept = Path("o/checkpoint.safetensors").read_bytes()
    sinusoid("--steps", 3, "--out", "other", "--quiet")
    for again in (sinusoid("--steps", 3, "--out", "o"), run("train", "sinusoid", "--resume", "other", "--steps", 4, "--out", "o")):
        assert again.exit_code == 2
        assert again.stderr == (
            "error: [train] expected --out a folder without a run, got o, which has one. "
            "Remove it, or go on with it: fastmeta train sinusoid --resume o/checkpoint.safetensors\n"
        )
    assert Path("o/checkpoint.safetensors").read_bytes() == kept
    assert run("train", "sinusoid", "--resume", "o", "--steps", 4, "--out", "o").exit_code == 0


def test_resume_refuses_other_settings():
    sinusoid("--steps", 3, "--out", "o", "--quiet")
    path = "o/checkpoint.safetensors"
    result = run("train", "sinusoid", "--resume", path, "--tasks", 9)
    assert result.exit_code == 2
    assert "--tasks 4 as in o/checkpoint.safetensors, or left out, got 9" in result.stderr
    assert run("train", "omniglot", "--resume", path).exit_code == 2
    assert run("eval", path, "--split", "validation").exit_code == 2
    assert run("train", "sinusoid", "--resume", path, "--steps", 2).exit_code == 1


class Characters(EpisodeSampler):
    """Stands in for Omniglot: random "characters" of 784 features, split by name."""

    def __init__(self, root, *, split, ways, shots, queries, tasks, seed, rotations, split_seed, flat):
        assert flat
        rng = np.random.default_rng(["train", "validation", "test"].index(split))
        y = np.repeat(np.arange(10), 20)
        x = rng.random((10, 784)).astype(np.float32)[y] + 0.2 * rng.random((200, 784)).astype(np.float32)
        other = EpisodeSampler.from_arrays(x, y, ways=ways, shots=shots, queries=queries, tasks=tasks, seed=seed)
        self.__dict__.update(other.__dict__)


def test_train_omniglot_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "Omniglot", Characters)
    small = ["--hidden", "16", "--tasks", "4", "--test-episodes", "20", "--test-queries", "3", "--queries", "3"]
    result = run("train", "omniglot", *small, "--steps", 40, "--validate-every", 10, "--out", "o")
    assert result.exit_code == 0, result.output
    assert "query accuracy (batch norm: batch)" in " ".join(result.stdout.split())
    assert re.search(r"accuracy [\d.]+ % \(batch\)  validation [\d.]+ % \(batch\)", result.stdout)
    stored = json.loads((tmp_path / "o" / "result.json").read_text())
    assert "batch norm: batch (transductive)" in stored["protocol"]
    assert stored["metrics"]["accuracy"] > 0.5
    assert [row[0] for row in stored["validations"]] == [10, 20, 30, 40]
    for split in ("test", "validation", "train"):
        values = json.loads(run("eval", "o/checkpoint.safetensors", "--split", split, "--json").stdout)
        assert values["split"] == split
        assert (values["metrics"] == stored["metrics"]) == (split == "test")
    again = run("train", "omniglot", "--resume", "o/checkpoint.safetensors", "--steps", 50, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["meta_steps"] == 50


def test_plain_progress_and_durations(capsys):
    assert commands.plain({"a": (np.float32(1), float("inf"))}) == {"a": [1.0, None]}
    assert [display.duration(s) for s in (0.4, 61, 7322)] == ["0 s", "1:01 min", "2:02:02 h"]
