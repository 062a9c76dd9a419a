"""The device text: NVRTC compiles what is shipped; arrays of GPU libraries go in and out of the text on the host.

.ci/cuda runs this with ``--backend cuda-host``, for which it builds and installs what this needs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import fake_cupy
import numpy as np
import pytest
from fake_cupy import Device, Memory
from test_park import descent, example

import fastmeta as fm
from fastmeta.backends import cuda_host, device
from fastmeta.backends import cupy as cupy_backend
from fastmeta.backends.arrays import library as library_of
from fastmeta.backends.codegen import nvrtc
from fastmeta.backends.codegen.products import fused
from fastmeta.backends.codegen.source import fits, source
from fastmeta.backends.codegen.words import (
    ARENA,
    GEMM,
    PASS,
    SHARED,
    Factors,
    Instruction,
    Operand,
    Phase,
    Product,
    Store,
    Words,
)
from fastmeta.plan import encoded, parked, prepare
from fastmeta.program import Program
from fastmeta.transforms.unroll import EQUATIONS

ARCHITECTURES = [75, 90]


def network(w, x, k):
    """Something of everything: a loop, an index, a sort, sums of many, float64 beside float32, a convolution of many terms."""
    maps = fm.nn.conv2d(x, w["kernel"])
    rows = fm.take(maps.reshape((-1, maps.shape[-1])), k, axis=0) @ w["head"]
    state, _ = fm.scan(lambda c, _: (fm.tanh(c @ w["square"]), None), rows, None, length=EQUATIONS)
    return (fm.sort(state, axis=0) * fm.softmax(state)).sum() + (maps.astype("float64") ** 2).mean().astype("float32")


@pytest.fixture(scope="module")
def ready() -> Program:
    rng = np.random.default_rng(0)
    sample = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    w = {"kernel": sample(3, 3, 4, 24), "head": sample(24, 20), "square": sample(20, 20)}
    step = fm.map_tasks(fm.value_and_grad(network), in_axes=(None, 0, 0), reduce="mean")
    return prepare(step.program(w, sample(3, 2, 40, 40, 4), np.zeros((3, 18), np.int32)), kernels=False)


@pytest.fixture(scope="module")
def everything(ready) -> Words:
    return Words(encoded(ready, kernels=False).words)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("way", ["resident", "batched"])
def test_nvrtc_compiles_the_text_of_a_plan(everything, way, architecture, empty_cache):
    resident = way == "resident"
    made = source(everything, resident, everything.arena_bytes if resident else 0, 1)
    codes = [nvrtc.text_compiled(text, architecture) for text in made.texts]
    names = [f"fastmeta_{b}_{s}" for b, stages in enumerate(made.stages) for s in range(len(stages))] + ["fastmeta_tasks"] * (way == "resident")
    assert len(names) > (2 if way == "resident" else 30)
    for name in names:
        assert any(f".text.{name}\0".encode() in code for code in codes), name
    kept = nvrtc.text_compiled(made.texts[0], architecture)
    assert kept == codes[0] and (empty_cache.parent / "cuda").is_dir()


def test_what_is_parked_lies_outside_of_a_team_s_own_memory(empty_cache):
    """Only copies touch it."""
    *_, plan = parked(example(descent)[0])
    assert 0 < plan.near < plan.arena
    text = source(Words(plan.words), True, plan.near, 2).texts[-1]
    calls = [line for line in text.splitlines() if "frame.far" in line]
    assert len(calls) > 3
    for line in calls:
        number, arguments = re.search(r"body(\d+)\((.*?)\);", line).groups()
        (far,) = re.findall(r"frame\.far \+ (\d+)", arguments)
        assert plan.near <= int(far) < plan.arena
        body = text[text.index(f"struct T{number}_0") : text.index(f"body{number}(const Team")]
        assert "= x0[e];" in body and "near_product" not in body and "sum" not in body
    assert b"fastmeta_tasks" in nvrtc.text_compiled(text, 90)


def test_teams_share_a_processor():
    """The first plan with which as many teams as shall be fit; the plan itself where parking brings no more."""
    ready, _ = example(descent)
    plan = encoded(ready, kernels=False)
    room = lambda size, teams: types.SimpleNamespace(facts=lambda: (90, size, teams * (size + device.OWN_BYTES)))
    assert device.for_teams(room(plan.near - 1, 6), ready, plan) is plan, "runs batched"
    assert device.for_teams(room(plan.near, device.TEAMS), ready, plan) is plan
    smallest = min(p.near for p in parked(ready))
    assert smallest < 0.6 * plan.near
    assert device.for_teams(room(plan.near, 2), ready, plan).near < plan.near


def test_plans_are_read_as_they_run_where_there_is_no_nvrtc(monkeypatch):
    from fastmeta.backends import cuda

    monkeypatch.setattr(cuda, "_core", types.SimpleNamespace(facts=lambda: (90, 0, 0)), raising=False)
    assert cuda.compile_text() is nvrtc.text_compiled
    assert nvrtc.supports(75) and not nvrtc.supports(70)  # too old for CUDA 13
    monkeypatch.setattr(nvrtc, "library", lambda: None)
    with pytest.warns(UserWarning, match="no NVRTC for this GPU and driver was found, so plans are read as they run, many times slower"):
        assert cuda.compile_text() is None


def test_what_nvrtc_refuses_is_told(empty_cache):
    with pytest.raises(RuntimeError, match=r"expected NVRTC to compile the plan's text, got (.|\n)*undefined"):
        nvrtc.text_compiled('#include "fixed.cuh"\nint f() { return nobody; }\n', 90)


def test_nvrtc_compiles_the_text_that_is_shipped(empty_cache):
    for architecture in ARCHITECTURES:
        for name in ("", "#define FM_BY_ADDRESS\n"):
            code = nvrtc.text_compiled(f'{name}#include "runtime.cuh"\n', architecture)
            assert all(f".text.fastmeta_{entry}\0".encode() in code for entry in ("open", "iterate", "sums"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_of_many_terms_and_of_any_size(monkeypatch, dtype):
    """Tiles of each shape, with rows, columns and terms that fill none of them; segments of k."""
    monkeypatch.setitem(cuda_host.OPTIONS, "way", "batched")
    rng = np.random.default_rng(3)
    for m, k, n in ((9, 4100, 64), (27, 2050, 33), (70, 35, 40), (800, 17, 20), (33, 64, 17), (5, 2048, 3), (128, 2048, 130), (0, 64, 32)):
        a, b = rng.standard_normal((2, k, m)).astype(dtype), rng.standard_normal((2, k, n)).astype(dtype)
        got = fm.map_tasks(lambda a, b: fm.relu(a.T @ b) + 1, in_axes=(0, 0))(a, b)
        want = np.maximum(np.einsum("tkm,tkn->tmn", a, b, dtype=np.float64), 0) + 1
        np.testing.assert_allclose(got, want, rtol=0, atol=(1e-4 if dtype == np.float32 else 1e-11) * np.sqrt(k), err_msg=f"{m} {k} {n}")


@pytest.mark.parametrize("way", ["resident", "batched"])
def test_lanes_of_a_team_do_not_race(way):
    """ThreadSanitizer sees no stage that reads what another lane may not have written yet."""
    library = subprocess.run(["c++", "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True).stdout.strip()
    script = Path(__file__).parent / "races.py"
    environment = {**os.environ, "LD_PRELOAD": str(Path(library).resolve()), "PYTHONPATH": os.pathsep.join([str(Path(fm.__file__).parents[1]), str(script.parent)])}
    said = subprocess.run([sys.executable, "-P", str(script), way, "6"], env=environment, capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.startswith("cases") and "ThreadSanitizer" not in said.stderr, said.stdout + said.stderr[:3000]


def test_empty_products(engine):
    """Nothing, or what is added to nothing."""
    for m, k, n in ((0, 2048, 32), (32, 0, 32), (3, 8, 0)):
        a, b = np.ones((2, m, k), np.float32), np.ones((2, k, n), np.float32)
        np.testing.assert_array_equal(fm.map_tasks(lambda a, b: fm.relu(a @ b) + 1, in_axes=(0, 0))(a, b), np.maximum(a @ b, 0) + 1)
        np.testing.assert_array_equal(fm.jit(lambda a, b: (a @ b).sum(1))(a, b), (a @ b).sum(1))


def operand(offset: int, *strides: int, base: int = 0) -> Operand:
    return Operand(0, base, offset, 0, strides)


def test_plans_that_32_bits_cannot_count_have_no_text(everything):
    phase = Phase(False, (2**15, 2**15), (), (), (Store(0, 0, operand(0, 0, 1)),))
    assert not fits(Instruction(0, PASS, (phase,))) and fits(Instruction(0, PASS, (phase._replace(dims=(2**14, 2**15)),)))
    assert not fits(Instruction(0, PASS, (phase._replace(dims=(2, 2), loads=(operand(0, 2**29, 1),)),)))
    views = [operand(0, 2**15, 1), operand(0, 8, 1), operand(0, 8, 1)]
    product = Product(-1, 0, (2**15, 8), 1.0, (Factors(2**15, views[0], views[1]),), views[2], None, ())
    assert not fits(Instruction(0, GEMM, product)) and fits(Instruction(0, GEMM, replace(product, dims=(2**13, 8))))
    large = replace(everything, words=everything.words)
    large.blocks = [[Instruction(0, PASS, (phase,))]]
    assert source(large, False, 0, 0) is None


def test_memory_that_is_apart(everything):
    """By the bytes that are touched, where these are of one base; memory of two kinds always is."""
    bases = {kind: k for k, (kind, *_) in enumerate(everything.bases)}
    arena, shared = bases[ARENA], bases[SHARED]
    row, dims = operand(0, 8, 1, base=arena), (2, 4)  # bytes 0..48
    assert not everything.apart(row, dims, operand(44, 8, 1, base=arena), dims)
    assert everything.apart(row, dims, operand(48, 8, 1, base=arena), dims)
    assert everything.apart(row, dims, operand(0, 8, 1, base=shared), dims)
    backwards = operand(44, -8, -1, base=arena)  # bytes 0..48
    assert not everything.apart(row, dims, backwards, dims) and everything.apart(backwards, dims, operand(48, 8, 1, base=arena), dims)


def test_a_phase_is_done_with_its_product_only_where_no_other_lane_is_in_the_way(everything):
    arena = next(k for k, (kind, *_) in enumerate(everything.bases) if kind == ARENA)
    at = lambda offset, *strides: operand(offset, *strides, base=arena)
    dims, c = (4, 8), at(0, 8, 1)
    a, b = at(1024, 8, 1), at(2048, 8, 1)

    def done(load: Operand, target: Operand, mode: int = 0, rowwise: bool = True) -> int:
        phase = Phase(rowwise, dims, (c, load), (), (Store(0, mode, target),))
        return fused(everything, Product(-1, 0, dims, 1.0, (Factors(8, a, b),), c, None, (phase,)))

    elsewhere = at(4096, 8, 1)
    assert done(elsewhere, c) == 1 and done(elsewhere, at(8192, 8, 1)) == 1 and done(elsewhere, elsewhere) == 1
    assert done(at(4, 8, 1), c) == 0, "reads its neighbour's result"
    assert done(at(0, 8, 0), c) == 0, "reads another element of its row"
    assert done(elsewhere, at(1024, 8, 1)) == 0, "writes over a factor"
    assert done(elsewhere, at(4128, 8, 1)) == 0, "writes what another lane reads"
    assert done(elsewhere, at(8192, 0, 1), mode=1) == 0 and done(elsewhere, c, rowwise=False) == 0


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """A cupy whose arrays are in the host's memory."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())


def loss(w, x):
    return ((x @ w) ** 2).sum()


@pytest.fixture(params=["resident", "batched"])
def by_cupy(request, monkeypatch):
    """The cupy backend on that library, in both ways."""
    monkeypatch.setattr(cupy_backend, "missing", lambda: None)
    monkeypatch.setitem(cupy_backend.OPTIONS, "way", request.param)
    cupy_backend.common.cache_clear()
    with fm.set_backend("cupy"):
        yield request.param
    cupy_backend.common.cache_clear()


def test_cupy_runs_what_the_native_core_does(by_cupy):
    rng = np.random.default_rng(5)
    sample = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    w = {"kernel": sample(3, 3, 4, 24) / 6, "head": sample(24, 20) / 5, "square": sample(20, 20) / 5}
    x, k = sample(3, 2, 8, 9, 4), rng.integers(0, 40, (3, 18), dtype=np.int32)
    step = lambda: fm.map_tasks(fm.value_and_grad(network), in_axes=(None, 0, 0), reduce="mean")
    with fm.set_backend("native"):
        value, grads = step()(w, x, k)
    mine = step()
    for _ in range(2):  # the second is by the list that the first has made
        got, ours = mine(w, x, k)
        np.testing.assert_allclose(got, value, rtol=1e-4)
        for name, want in grads.items():
            np.testing.assert_allclose(ours[name], want, rtol=1e-3, atol=1e-4 * np.abs(want).max(), err_msg=name)
    got, _ = mine({name: Memory(a) for name, a in w.items()}, Memory(x), Memory(k))
    np.testing.assert_allclose(got.array, value, rtol=1e-4)
    k[2, 3] = 1000
    with pytest.raises(IndexError, match="task 2"):
        mine(w, x, k)


def test_cupy_loops_outside_of_tasks(by_cupy):
    """Whose blocks no team runs, also where teams run tasks."""
    rng = np.random.default_rng(7)
    w, x = rng.standard_normal((5, 5)) / 3, rng.standard_normal((3, 5))
    start, _ = fm.jit(lambda w, x: fm.scan(lambda c, _: (fm.tanh(c @ w), None), x, None, length=EQUATIONS))(w, x)
    want = x
    for _ in range(EQUATIONS):
        want = np.tanh(want @ w)
    np.testing.assert_allclose(start, want, rtol=1e-10, atol=1e-14)


def test_cupy_with_more_tasks_than_it_has_memory_for(by_cupy, monkeypatch):
    monkeypatch.setattr(sys.modules["cupy"].cuda.runtime, "memGetInfo", lambda: (1 << 20, 1 << 30))
    x = np.random.default_rng(6).standard_normal((70, 5, 4))
    each, total = fm.map_tasks(lambda x: (fm.tanh(x).sum(0), x.T @ x), in_axes=(0,), reduce=(None, "sum"))(x)
    np.testing.assert_allclose(each, np.tanh(x).sum(1), rtol=1e-12)
    np.testing.assert_allclose(total, np.einsum("tij,tik->jk", x, x), rtol=1e-12)


def test_device_arrays_in_and_out():
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((4, 3)), rng.standard_normal((5, 7, 4))
    step = fm.map_tasks(fm.value_and_grad(loss), in_axes=(None, 0), reduce="mean")
    want = step(w, x)
    for given in (x, np.asfortranarray(x), x[::-1][::-1]):
        got = step(Memory(w), Memory(given))
        assert isinstance(got[0], Memory) and isinstance(got[1], Memory)
        np.testing.assert_allclose(got[0].array, want[0], rtol=1e-12)
        np.testing.assert_allclose(got[1].array, want[1], rtol=1e-12)


def test_dense_arrays_are_not_copied():
    x = Memory(np.ones((3, 4), np.float32))
    kind = library_of([x])
    assert kind.address(kind.put(x)) == x.array.ctypes.data
    odd = Memory(np.ones(13, np.float32)[1:])  # a view that begins where no 16 bytes do
    assert kind.address(odd) % 16 and kind.address(kind.put(odd)) % 16 == 0


def test_numbers_are_sent_once(monkeypatch):
    """Sending waits for the device, so the number of tasks and unchanged rates are not sent again."""
    sent, asarray = [], sys.modules["cupy"].asarray

    def counted(x, order="C"):
        if isinstance(x, np.ndarray):
            sent.append(x)
        return asarray(x, order)

    monkeypatch.setattr(sys.modules["cupy"], "asarray", counted)
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((4, 3)), rng.standard_normal((6, 9, 4))  # a program that no other test has
    step = fm.map_tasks(fm.value_and_grad(loss), in_axes=(None, 0), reduce="mean")
    for _ in range(3):
        np.testing.assert_allclose(step(Memory(w), Memory(x))[0].array, np.mean([loss(w, each) for each in x]), rtol=1e-12)
    assert len(sent) == 1
    scaled = fm.jit(lambda w, rate: w * rate)
    for rate in (2.0, 3.0, 2.0, 3.0):
        np.testing.assert_allclose(scaled(Memory(w), rate).array, w * rate)
    assert len(sent) == 3


def test_integers_of_a_device_are_narrowed():
    f = fm.jit(lambda x, k: fm.take(x, k, axis=0))
    x, k = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([2, 0], np.int32)
    np.testing.assert_array_equal(f(Memory(x), Memory(k)).array, x[k])
    with pytest.raises(TypeError, match="as int32 on a GPU, got int64"):
        f(Memory(x), Memory(k.astype(np.int64)))


def test_mixed_devices_are_refused():
    f = fm.jit(lambda x, y: x + y)
    x = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"all arrays on one device, got a cupy array on <CUDA Device 0> and a numpy array of shape \[3\]"):
        f(Memory(x), x)
    with pytest.raises(ValueError, match="one library on one GPU, got cupy on <CUDA Device 0>, <CUDA Device 1>"):
        f(Memory(x), Memory(x, Device(1)))
    np.testing.assert_array_equal(f(Memory(x), 2.0).array, x + 2)
    with pytest.raises(ValueError, match="arrays on GPU 0, which this function was planned for, got arrays on <CUDA Device 1>"):
        f(Memory(x, Device(1)), 2.0)


def test_products_of_more_tasks_than_there_are_groups(monkeypatch):
    """Where groups differ in length by a task, the last of them are not for a library that takes all slots at once."""
    monkeypatch.setitem(cuda_host.OPTIONS, "way", "batched")
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal((4, 3)), rng.standard_normal((1030, 5, 4))
    products = fm.map_tasks(lambda w, x: (x @ w, (x @ w).T @ x), in_axes=(None, 0), reduce=(None, "sum"))
    each, total = products(w, x)
    np.testing.assert_allclose(each, x @ w, rtol=1e-12)
    np.testing.assert_allclose(total, np.einsum("tij,tik->jk", x @ w, x), rtol=1e-12)


@pytest.mark.parametrize("way", ["resident", "batched"])
def test_loops_and_products_behind_a_bad_index(monkeypatch, way):
    """They run on, for the tasks that have not ended, and touch nothing of those that have."""
    monkeypatch.setitem(cuda_host.OPTIONS, "way", way)
    rng = np.random.default_rng(2)
    table, x = rng.standard_normal((4, 3)), rng.standard_normal((6, 3, 3))

    def f(table, k, x):
        start = fm.take(table, k, axis=0)
        return fm.scan(lambda c, _: (fm.tanh(c @ x), c[0]), start, None, length=EQUATIONS)  # too long to become straight code

    g = fm.map_tasks(f, in_axes=(None, 0, 0))
    good = np.tile(np.arange(2, dtype=np.int32), (6, 1))
    want = g(table, good, x)
    bad = good.copy()
    bad[3, 1] = 9
    with pytest.raises(IndexError, match="task 3"):
        g(table, bad, x)
    for a, b in zip(g(table, good, x), want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_arrays_than_one_launch_tells_of():
    x = np.arange(3.0)
    outputs = fm.jit(lambda x: [x + k for k in range(150)])(x)
    np.testing.assert_array_equal(outputs, x + np.arange(150.0)[:, None])


def test_jax_is_waited_for(monkeypatch):
    """Its streams do not wait for ours: what goes in is ready, and what comes out is there when the call returns."""
    waited = []

    class JaxMemory(Memory):
        __module__ = "jaxlib.fake"

        def block_until_ready(self):
            waited.append(self)
            return self

    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(Array=JaxMemory, device_put=lambda x, device: JaxMemory(np.array(x), device)))
    x = JaxMemory(np.ones(3))
    assert library_of([x]).waits and not library_of([Memory(np.ones(3))]).waits
    np.testing.assert_array_equal(fm.jit(lambda x: 2 * x)(x).array, [2, 2, 2])
    assert any(a is x for a in waited)
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(Array=JaxMemory, device_put=lambda x, device: JaxMemory(np.array(x, np.float32), device)))
    with pytest.raises(TypeError, match="a JAX that makes float64 arrays, got float32 ones"):
        fm.jit(lambda x: 3 * x)(x)
