"""Bad input of samplers, data sets and checkpoints: every case is refused with its exception type and message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omniglot_archive import entries, write_archives
from test_bad_input import Case, case, refusal

from fastmeta.data import EpisodeSampler, Omniglot, Prefetch, Sinusoid
from fastmeta.errors import CheckpointError
from fastmeta.train.checkpoint import load_checkpoint, save_checkpoint

LABELS = np.repeat(np.arange(4), 5)
SAMPLES = np.zeros((20, 3), np.float32)


def sampler(x: Any = SAMPLES, y: Any = LABELS, **changed: Any) -> Any:
    return lambda: EpisodeSampler.from_arrays(x, y, **({"ways": 2, "shots": 1, "queries": 1} | changed))


ARRAYS = r"\[EpisodeSampler\.from_arrays\] expected "
DATA_CASES = [
    case("ways-over-classes", sampler(ways=5), message=ARRAYS + r"ways at most 4, the number of classes in y, got 5"),
    case("shots-over-images", sampler(shots=5), message=ARRAYS + r"at least shots \+ queries = 5 \+ 1 = 6 examples in every class, got 5 in class 0"),
    case("no-shots", sampler(shots=0), message=ARRAYS + r"shots at least 1, got 0"),
    case("no-queries", sampler(queries=0), message=ARRAYS + r"queries at least 1, got 0"),
    case("no-ways", sampler(ways=0), message=ARRAYS + r"ways at least 1, got 0"),
    case("no-tasks", sampler(tasks=0), message=ARRAYS + r"tasks at least 1, got 0"),
    case("half-a-shot", sampler(shots=0.5), error=TypeError, message=ARRAYS + r"shots a whole number, got 0\.5"),
    case("seed-negative", sampler(seed=-1), message=ARRAYS + r"seed at least 0, got -1"),
    case("no-examples", sampler(SAMPLES[:0], LABELS[:0]), message=ARRAYS + r"at least one example, got 0"),
    case("examples-and-labels", sampler(SAMPLES[:10]), message=ARRAYS + r"x of shape \[20, \.\.\.\], as many examples as y has, got \[10, 3\]"),
    case("float-labels", sampler(y=LABELS / 2), error=TypeError, message=ARRAYS + r"y of whole numbers or strings, got float64"),
    case("text-examples", sampler(x=np.array(["a"] * 20)), error=TypeError, message=ARRAYS + r"x an array of numbers, got <U1"),
    case("mixed-labels", sampler(y=np.array(["a", 1.5] * 10, object)), error=TypeError, message=ARRAYS + r"y of whole numbers or strings, got objects of float, str"),
    case("absent-labels", sampler(y=np.array(["a", None] * 10, object)), error=TypeError, message=ARRAYS + r"y of whole numbers or strings, got objects of NoneType, str"),
    case("bools-among-labels", sampler(y=np.array([1, True] * 10, object)), error=TypeError, message=ARRAYS + r"y of whole numbers or strings, got objects of bool, int"),
    case("one-class", sampler(classes=3), error=TypeError, message=ARRAYS + r"classes, several labels, got 3"),
    case("list-of-lists", sampler(classes=[[1]]), message=ARRAYS + r"classes that occur in y, got \[1\]"),
    case("unknown-class", sampler(classes=[0, 9]), message=ARRAYS + r"classes that occur in y, got 9"),
    case("metadata-text", sampler(metadata=[["a"]] * 4), error=TypeError, message=ARRAYS + r"metadata an array of numbers, got <U1"),
    case("metadata-of-too-few", sampler(metadata=np.zeros((3, 2))), message=ARRAYS + r"metadata of shape \[4, m\], a row for each class of y, got \[3, 2\]"),
    case("metadata-of-a-split", sampler(metadata=np.zeros((2, 2)), classes=[1, 3]), message=ARRAYS + r"metadata of shape \[4, m\], a row for each class of y, got \[2, 2\]"),
    case("metadata-without-axis", sampler(metadata=np.zeros(4)), message=ARRAYS + r"metadata of shape \[4, m\], a row for each class of y, got \[4\]"),
    case("metadata-empty", sampler(metadata=np.zeros((4, 0))), message=ARRAYS + r"metadata of shape \[4, m\], a row for each class of y, got \[4, 0\]"),
    case("metadata-nan", sampler(metadata=np.diag([1.0, 1.0, np.nan, 1.0])[:, :3]), message=ARRAYS + r"metadata finite in float32, got other numbers for class 2"),
    case("metadata-overflow", sampler(metadata=np.full((4, 1), 1e39)), message=ARRAYS + r"metadata finite in float32, got other numbers for class 0"),
    case("sinusoid-shots", lambda: Sinusoid(shots=0), message=r"\[Sinusoid\] expected shots at least 1, got 0"),
    case("sinusoid-range", lambda: Sinusoid(phase=(1.0, 0.0)), message=r"\[Sinusoid\] expected phase finite with low <= high, got \(1\.0, 0\.0\)"),
    case("sinusoid-option", lambda: Sinusoid(shot=1), error=TypeError, message=r".*unexpected keyword argument 'shot'"),
    case("prefetch-depth", lambda: Prefetch(Sinusoid(), 0), message=r"\[Prefetch\] expected depth at least 1, got 0"),
    case("step-negative", lambda: Sinusoid().batch(-1), message=r"\[Sinusoid\] expected step at least 0, got -1"),
]  # fmt: skip


@pytest.mark.parametrize("bad", DATA_CASES)
def test_data(bad: Case) -> None:
    refusal(bad.call, bad.error, bad.message)


def test_no_case_has_the_name_of_another() -> None:
    names = [param.id for param in DATA_CASES]
    assert len(set(names)) == len(names)


def truncated(folder: Path) -> None:
    path = write_archives(folder) / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(folder: Path) -> None:
    path = write_archives(folder) / "images_background.zip"
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)


def without_one_image(folder: Path) -> None:
    write_archives(folder, {name: data for name, data in entries().items() if not name.endswith("0001_07.png")})


def of_other_names(folder: Path) -> None:
    write_archives(folder, {name.replace("character", "letter"): data for name, data in entries().items()})


def of_other_files(folder: Path) -> None:
    write_archives(folder, {name: b"text" for name in entries()})


def one_archive(folder: Path) -> None:
    (write_archives(folder) / "images_evaluation.zip").unlink()


def whole(folder: Path) -> None:
    write_archives(folder)


@pytest.mark.parametrize(
    "make, options, error, message",
    [
        (truncated, {}, ValueError, r"a whole zip archive in .*images_evaluation\.zip, got .*truncated or damaged"),
        (flipped, {}, ValueError, r"a whole zip archive in .*images_background\.zip, got |a PNG image at .*, got "),
        (without_one_image, {}, ValueError, r"images 01 to 20 of Korean/character01, got 19 images"),
        # what the archive calls its files: the number of a character, then that of the person who drew it
        (of_other_names, {}, ValueError, r"images_background/<Alphabet>/characterNN/XXXX_YY\.png in .*, got '.*letter"),
        (of_other_files, {}, ValueError, r"a PNG image at .*, got "),
        (one_archive, {}, FileNotFoundError, r"images_evaluation\.zip or a folder images_evaluation in root, got neither in "),
        (lambda folder: None, {}, FileNotFoundError, r"images_background\.zip or a folder .* in root, got no folder at "),
        (whole, {}, ValueError, r"1623 characters for split 'train', got 8 in "),
        (whole, {"split": "all", "ways": 9}, ValueError, r"ways at most 8, the number of classes in split 'all', got 9"),
        (whole, {"split": "all", "shots": 20}, ValueError, r"at least shots \+ queries = 20 \+ 1 = 21 examples in every class, got 20"),
        (whole, {"split": "dev"}, ValueError, r"split one of 'train', 'validation', 'test', 'all', got 'dev'"),
        (whole, {"split": "all", "rotations": 90}, ValueError, r"rotations 'task', 'class' or None, got 90"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_omniglot(make: Any, options: dict, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMETA_CACHE", str(tmp_path / "cache"))
    make(tmp_path / "data")
    refusal(lambda: Omniglot(tmp_path / "data", **options), error, rf"\[Omniglot\] expected ({message})")


PARAMS = {"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}


def saved(path: Path) -> None:
    save_checkpoint(path, params=PARAMS, optimizer=(), sampler_step=1, config={"lr": 0.1})


def cut_short(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    "make, template, error, message",
    [
        (lambda path: None, PARAMS, FileNotFoundError, r"a checkpoint file, got no file at "),
        (lambda path: path.write_bytes(b""), PARAMS, CheckpointError, r"a whole safetensors file, got one that cannot be read"),
        (lambda path: path.write_bytes(b"PK" * 500), PARAMS, CheckpointError, r"a whole safetensors file, got one that cannot be read"),
        (cut_short, PARAMS, CheckpointError, r"a whole safetensors file, got one that cannot be read"),
        (saved, {"w": PARAMS["w"]}, CheckpointError, r"a checkpoint of this model .*, got a checkpoint of another model .*'params/b' is not asked for"),
        (saved, {**PARAMS, "scale": PARAMS["b"]}, CheckpointError, r"a checkpoint of this model .*'params/scale' is missing"),
        (saved, {**PARAMS, "b": np.zeros(4, np.float32)}, CheckpointError, r"a checkpoint of this model with 'params/b' float32\[4\], got .* float32\[3\]"),
        (saved, {**PARAMS, "b": np.zeros(3)}, CheckpointError, r"a checkpoint of this model with 'params/b' float64\[3\], got .* float32\[3\]"),
    ],
    ids=["absent", "empty", "another-format", "truncated", "fewer-leaves", "more-leaves", "another-shape", "another-dtype"],
)
def test_checkpoints(make: Any, template: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    make(path)
    refusal(lambda: load_checkpoint(path, params=template), error, r"\[load_checkpoint\] expected " + message)
