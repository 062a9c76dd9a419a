"""Checkpoints: exact bits, other models refused, never half a file."""

from __future__ import annotations

import doctest
import os
import zlib
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy

import fastmeta.train.checkpoint
from fastmeta.data import Sinusoid
from fastmeta.errors import CheckpointError
from fastmeta.train.checkpoint import load_checkpoint, save_checkpoint


class Adam(NamedTuple):
    count: np.int64
    mean: dict
    rate: float


def trees():
    params = {
        "layer0": {"w": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "b": np.zeros(0, np.float64)},
        "layer1": [np.array([True, False]), (np.int32([[1]]), np.array(2**62 + 1))],
    }
    special = np.array([np.nan, -0.0, np.inf, 5e-324, 0x7FF0000000000001], dtype=np.float64)
    special[4] = np.array([0x7FF0000000000001], np.uint64).view(np.float64)[0]  # a signalling NaN
    optimizer = Adam(np.int64(2**40 + 1), {"w": special}, 0.1)
    return params, optimizer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def save(path, **changed):
    params, optimizer = trees()
    arguments = {"params": params, "optimizer": optimizer, "sampler_step": 123, "config": {"lr": 0.1, "ways": [5]}}
    save_checkpoint(path, **(arguments | changed))
    return arguments | changed


def assert_same_bits(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_bits(a[key], b[key])
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for u, v in zip(a, b, strict=True):
            assert_same_bits(u, v)
    else:
        u, v = np.asarray(a), np.asarray(b)
        assert (u.dtype, u.shape, u.tobytes()) == (v.dtype, v.shape, v.tobytes())


def test_every_bit_comes_back(path):
    saved = save(path, extra={"statistics": {"mean": np.ones(3)}, "best": 0.25})
    loaded = load_checkpoint(
        path,
        params=saved["params"],
        optimizer=saved["optimizer"],
        extra={"statistics": {"mean": np.zeros(3)}, "best": 0.0},
    )
    assert_same_bits(loaded.params, saved["params"])
    assert_same_bits(loaded.optimizer, saved["optimizer"])
    assert_same_bits(loaded.extra, saved["extra"])
    assert loaded.sampler_step == 123
    assert loaded.config == saved["config"]


def test_random_trees_come_back(path):
    for seed in range(20):
        print(f"seed={seed}")
        rng = np.random.default_rng(seed)

        def tree(depth, rng=rng):
            if depth == 0 or rng.random() < 0.3:
                shape = tuple(rng.integers(0, 4, rng.integers(0, 4)))
                kind = rng.choice(["float32", "float64", "int32", "int64", "bool"])
                return np.asarray(rng.normal(size=shape) * 100).astype(kind)
            items = [tree(depth - 1) for _ in range(rng.integers(1, 4))]
            return {f"k/{i}~é": item for i, item in enumerate(items)}

        params = tree(3)
        save(path, params=params)
        assert_same_bits(load_checkpoint(path, params=params).params, params)


def test_layout_and_byte_order_do_not_matter(path):
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    save(path, params={"t": a.T, "s": a[::2, 1:3], "big": a.astype(">f4")})
    loaded = load_checkpoint(path, params={"t": np.zeros((4, 3), "f4"), "s": np.zeros((2, 2), "f4"), "big": a}).params
    np.testing.assert_array_equal(loaded["t"], a.T)
    np.testing.assert_array_equal(loaded["s"], a[::2, 1:3])
    np.testing.assert_array_equal(loaded["big"], a)
    assert all(leaf.flags.writeable for leaf in loaded.values())


def test_the_file_is_plain_safetensors_with_readable_names(path):
    save(path, extra={"state": [np.ones(1)]})
    tensors = safetensors.numpy.load_file(path)
    assert sorted(tensors) == [
        "extra/state/0",
        "optimizer/count",
        "optimizer/mean/w",
        "optimizer/rate",
        "params/layer0/b",
        "params/layer0/w",
        "params/layer1/0",
        "params/layer1/1/0",
        "params/layer1/1/1",
    ]
    metadata = metadata_of(path)
    assert metadata["format"] == "fastmeta-checkpoint"
    assert metadata["format_version"] == "2"
    assert metadata.keys() == {"format", "format_version", "fastmeta_version", "sampler_step", "config", "crc32"}


def test_parts_may_be_left_out(path):
    params, _ = trees()
    save(path, extra={"a": np.ones(2), "b": np.ones(3)})
    loaded = load_checkpoint(path, params=params, extra={"b": np.zeros(3)})
    assert loaded.optimizer is None
    assert list(loaded.extra) == ["b"]
    save(path, optimizer=())
    assert load_checkpoint(path, params=params, optimizer=()).optimizer == ()


def test_a_run_resumed_equals_one_not_interrupted(path):
    def run(params, count, start, stop):
        for step in range(start, stop):
            episode = Sinusoid(seed=1).batch(step)
            slope = np.float32((episode.support_x * (episode.support_x * params["w"] - episode.support_y)).mean())
            count = count + np.int64(1)
            params = {"w": params["w"] - np.float32(0.01) * slope / np.float32(count)}
        return params, count

    zero = {"w": np.float32(0)}
    whole = run(zero, np.int64(0), 0, 20)
    params, count = run(zero, np.int64(0), 0, 9)
    save_checkpoint(path, params=params, optimizer=count, sampler_step=9, config={})
    half = load_checkpoint(path, params=zero, optimizer=np.int64(0))
    assert_same_bits(run(half.params, half.optimizer, half.sampler_step, 20), whole)


def test_a_folder_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(FileNotFoundError) as info:
            save(folder / "run.safetensors")
        assert str(info.value) == f"[save_checkpoint] expected a path in a folder that exists, got {folder}/run.safetensors: there is no folder {folder}"
    monkeypatch.chdir(tmp_path)
    save("run.safetensors")


def test_a_failed_write_keeps_the_old_file(path, monkeypatch):
    save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        save(path, sampler_step=124)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


BASE = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"w": BASE["w"]}, r"with 1 arrays under 'params', got .* another model with 2: 'params/b' is not asked for"),
        (BASE | {"c": BASE["b"]}, r"another model with 2: 'params/c' is missing"),
        ({"w": BASE["w"], "bias": BASE["b"]}, r"'params/bias' is missing, 'params/b' is not asked for"),
        ([BASE["b"], BASE["w"]], r"'params/0' is missing, 'params/b' is not asked for"),
        ({"m": BASE}, r"'params/m/b' is missing"),
        (BASE["w"], r"'params' is missing"),
        (BASE | {"w": np.zeros((3, 2), np.float32)}, r"'params/w' float32\[3, 2\], got .* with float32\[2, 3\]"),
        (BASE | {"w": np.zeros((2, 3))}, r"'params/w' float64\[2, 3\], got .* with float32\[2, 3\]"),
        (BASE | {"b": 0.0}, r"'params/b' float64\[\], got .* with float32\[3\]"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(path, template, message):
    save(path, params=BASE)
    load_checkpoint(path, params=BASE)
    with pytest.raises(CheckpointError, match=r"^\[load_checkpoint\] expected a checkpoint of this model .*" + message):
        load_checkpoint(path, params=template)


def test_another_optimizer_and_absent_extra_are_refused(path):
    save(path, params=BASE, optimizer={"m": np.zeros(3)})
    with pytest.raises(CheckpointError, match=r"'optimizer/v' is missing"):
        load_checkpoint(path, params=BASE, optimizer={"m": np.zeros(3), "v": np.zeros(3)})
    with pytest.raises(CheckpointError, match=r"'extra/state' is missing"):
        load_checkpoint(path, params=BASE, extra={"state": np.zeros(3)})


def test_every_truncation_and_flipped_byte_is_refused(path):
    save(path, params=BASE, optimizer=())
    content = path.read_bytes()
    for length in [*range(0, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"\[load_checkpoint\] expected .*run.safetensors"):
            load_checkpoint(path, params=BASE)
    tensors = len(content) - BASE["w"].nbytes - BASE["b"].nbytes
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(CheckpointError, match="do not agree with their checksum" if position >= tensors else "expected"):
            load_checkpoint(path, params=BASE)


def metadata_of(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata()


@pytest.mark.parametrize("changed", [{"sampler_step": "124"}, {"config": "{}"}, {"fastmeta_version": "9"}, {"format_version": "1"}, {"note": ""}])
def test_edited_metadata_are_refused(path, changed):
    save(path, params=BASE)
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, metadata_of(path) | changed)
    with pytest.raises(CheckpointError, match="an undamaged checkpoint, got contents that do not agree with their checksum"):
        load_checkpoint(path, params=BASE)


def test_files_of_version_1_are_still_read(path):
    tensors = {f"params/{name}": array for name, array in BASE.items()}
    crc = zlib.crc32(b"params/w" + BASE["w"].tobytes(), zlib.crc32(b"params/b" + BASE["b"].tobytes()))
    metadata = {"format": "fastmeta-checkpoint", "format_version": "1", "sampler_step": "7", "config": "{}"}
    safetensors.numpy.save_file(tensors, path, metadata | {"crc32": str(crc)})
    assert load_checkpoint(path, params=BASE).sampler_step == 7


def test_other_files_are_refused(path):
    with pytest.raises(FileNotFoundError, match=r"\[load_checkpoint\] expected a checkpoint file, got no file at"):
        load_checkpoint(path, params=BASE)
    path.write_text("hello, this is not a checkpoint")
    with pytest.raises(CheckpointError, match="a whole safetensors file, got one that cannot be read"):
        load_checkpoint(path, params=BASE)
    safetensors.numpy.save_file({"params/w": BASE["w"]}, path)
    with pytest.raises(CheckpointError, match="a fastmeta checkpoint, got another safetensors file"):
        load_checkpoint(path, params=BASE)
    safetensors.numpy.save_file({}, path, {"format": "fastmeta-checkpoint", "format_version": "3"})
    with pytest.raises(CheckpointError, match="format version 2, got version 3"):
        load_checkpoint(path, params=BASE)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"params": {"w": "text"}}, TypeError, r"'params/w' of dtype float32, .*, got str"),
        ({"params": {"w": np.zeros(2, np.float16)}}, TypeError, r"'params/w' of dtype .*, got float16"),
        ({"params": {"w": 2**70}}, TypeError, r"'params/w' of dtype .*, got object"),
        ({"params": {"w": object()}}, TypeError, r"'params/w' of dtype .*, got object"),
        ({"params": {1: np.zeros(1), "1": np.zeros(1)}}, ValueError, r"keys that differ as text, got 'params/1' twice"),
        ({"config": {"f": print}}, TypeError, r"config of JSON values"),
        ({"config": {"lr": float("nan")}}, TypeError, r"config of JSON values"),
        ({"config": {1: 2}}, TypeError, r"config with text keys"),
        ({"config": [1]}, TypeError, r"config of JSON values"),
        ({"sampler_step": -1}, ValueError, r"sampler_step at least 0, got -1"),
        ({"sampler_step": 1.0}, TypeError, r"sampler_step a whole number, got 1.0"),
        ({"sampler_step": True}, TypeError, r"sampler_step a whole number, got True"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(path, changed, error, message):
    with pytest.raises(error, match=message):
        save(path, **changed)
    assert os.listdir(path.parent) == []


def test_examples_run():
    failed, run = doctest.testmod(fastmeta.train.checkpoint)
    assert (failed, run > 0) == (0, True)
