"""What users hand in and get back: arrays of any layout, dtype and library, numbers, names; nothing is written to or shared."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import optree
import pytest
from test_behaviour import F32, arguments, bits, episode, meta_step

import fastmeta as fm
from fastmeta.backends.numba.executor import address
from fastmeta.trace import as_array


def layouts(x: np.ndarray) -> dict[str, Any]:
    """Arrays of the same values in other memory."""
    big = np.zeros([2 * n + 3 for n in x.shape], x.dtype)
    inner = tuple(slice(1, 2 * n + 1, 2) for n in x.shape)
    big[inner] = x
    backwards = np.ascontiguousarray(x[tuple(slice(None, None, -1) for _ in x.shape)])
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    return {
        "strided": big[inner],
        "Fortran": np.asfortranarray(x),
        "backwards": backwards[tuple(slice(None, None, -1) for _ in x.shape)],
        "broadcast": np.broadcast_to(x[None], (2, *x.shape))[1],
        "unaligned": unaligned,
        "big-endian": x.astype(x.dtype.newbyteorder(">")),
        "read-only": frozen,
        "subclass": x.view(type("Sub", (np.ndarray,), {})),
        "memory-map-like": np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
def test_any_layout_is_right(dtype: str, backend: str) -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((4, 3, 5)) * 3).astype(dtype)
    y = rng.standard_normal((4, 3, 5)).astype("float64" if dtype == "float64" else "float32")
    f = fm.map_tasks(lambda x, y: fm.sum(x * y + y, axis=0))
    want = f(x, y)
    np.testing.assert_allclose(want, (x * y + y).sum(1), rtol=1e-5, atol=1e-5)
    for name, other in layouts(x).items():
        np.testing.assert_array_equal(other, x)
        for _ in range(2):  # the second call takes the fast way where it may
            assert f(other, y).tobytes() == want.tobytes(), name


def test_numba_finds_the_memory_of_an_array() -> None:
    for name, x in (*layouts(np.ones((2, 3))).items(), ("empty", np.zeros((0, 3))), ("no axis", np.array(1.0))):
        assert address(x) == x.__array_interface__["data"][0], name


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_any_integer_dtype(dtype: str, backend: str) -> None:
    logits = np.random.default_rng(2).standard_normal((3, 4, 5)).astype(F32)
    labels = np.arange(12).reshape(3, 4) % 5
    f = fm.map_tasks(fm.nn.cross_entropy)
    assert f(logits, labels.astype(dtype)).tobytes() == f(logits, labels.astype("int32")).tobytes()


def test_other_libraries_arrays_and_plain_numbers(backend: str) -> None:
    import torch

    x = np.arange(6, dtype=F32).reshape(2, 3)
    f = fm.jit(lambda x, s: x * s + 1.0)
    want = f(x, F32(2))

    class WithArray:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return x

    tensor = torch.tensor(x)
    for other in (tensor, tensor.T.contiguous().T, tensor.expand(2, 3), OnlyDlpack(x), WithArray(), memoryview(x).obj):
        got = f(other, 2.0)
        assert type(got) is np.ndarray and got.tobytes() == want.tobytes()
    for two in (2, 2.0, np.float32(2), np.int64(2), np.array(2, F32), torch.tensor(2.0), True + 1):
        assert f(x, two).tobytes() == want.tobytes()
    assert fm.nn.mse(x, torch.tensor(x)) == 0
    assert fm.jit(fm.nn.cross_entropy)(torch.tensor(x), torch.tensor([0, 1])).shape == ()
    nested = fm.jit(lambda xs: xs[0] + xs[1][0])([1.5, (2.5,)])  # lists are trees of numbers
    assert nested == 4.0


class OnlyDlpack:
    """An array of a library that NumPy has never heard of."""

    def __init__(self, x: np.ndarray):
        self.x = x

    def __dlpack__(self, **options: Any) -> Any:
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.x.__dlpack_device__()


def test_other_libraries_arrays_are_not_copied() -> None:
    import torch

    x, tensor = np.ones((4, 3), F32), torch.ones(4, 3)
    for other, pointer in ((tensor, tensor.data_ptr()), (tensor[1:], tensor[1:].data_ptr()), (OnlyDlpack(x), x.ctypes.data), (x[::2], x.ctypes.data)):
        assert as_array(other).ctypes.data == pointer


def test_any_strides(backend: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(F32)
    f, over = fm.jit(lambda x: fm.tanh(x) @ fm.permute_dims(x, (1, 0))), fm.map_tasks(lambda x: fm.sum(x * x))
    views = (x[::-1], x[:, ::-1], x[::-1, ::2], x.T, x[:, ::3], np.broadcast_to(x[0], (4, 6)))
    for view in views:
        for given in (view, OnlyDlpack(view)):
            assert f(given).tobytes() == f(view.copy()).tobytes()
            assert over(given).tobytes() == over(view.copy()).tobytes()


def test_arrays_of_no_axis_and_no_element(backend: str) -> None:
    f = fm.jit(lambda x: x * 2.0)
    got = f(np.array(3, F32))
    assert type(got) is np.ndarray and got.shape == () and got == 6
    assert f(np.zeros((0, 3), F32)).shape == (0, 3)
    assert fm.jit(lambda x: fm.sum(x, axis=0))(np.zeros((0, 3), F32)).tolist() == [0, 0, 0]
    assert fm.map_tasks(lambda x: fm.sum(x))(np.zeros((2, 0), F32)).tolist() == [0, 0]
    assert type(fm.map_tasks(lambda x: x, reduce="sum")(np.ones(3, F32))) is np.ndarray


def test_a_function_without_arrays_in_its_result(backend: str) -> None:
    x = np.ones(3, F32)
    assert fm.jit(lambda x: None)(x) is None
    assert fm.jit(lambda x: {"name": "relu", "none": None})(x) == {"name": "relu", "none": None}
    assert fm.jit(lambda x: (x, "relu"))(x)[1] == "relu"


def test_options_in_arguments_are_part_of_the_function(backend: str) -> None:
    f = fm.jit(lambda x, how: fm.exp(x) if how == "exp" else x)
    x = np.ones(2, F32)
    for _ in range(2):
        assert f(x, "exp")[0] > 2 and f(x, "same")[0] == 1 and f(x, None)[0] == 1


def test_arguments_by_name(backend: str) -> None:
    def f(x: Any, scale: Any = 2.0, shift: Any = 1.0) -> Any:
        return fm.sum(x * scale + shift)

    x, two = np.arange(3, dtype=F32), np.float32(2)
    assert fm.jit(f)(x, shift=0.0) == 6 and fm.jit(f)(shift=two, x=x) == 12
    np.testing.assert_array_equal(fm.grad(f)(x=x, scale=3.0), [3, 3, 3])
    assert fm.grad(f, argnums=1)(x, scale=two) == 3
    np.testing.assert_array_equal(fm.map_tasks(f)(x, shift=x, scale=x), [0, 2, 6])
    np.testing.assert_array_equal(fm.jit(lambda x: fm.grad(f)(x, shift=0.0))(x), [2, 2, 2])  # inside a trace
    assert str(inspect.signature(fm.jit(fm.grad(f)))) == str(inspect.signature(f))


def test_arguments_by_name_only(backend: str) -> None:
    def f(x: Any, y: Any = 1.0, *, scale: Any = 2.0, how: str = "sum", **more: Any) -> Any:
        v = x * y * scale + more.get("shift", 0.0)
        return fm.sum(v) if how == "sum" else fm.max(v)

    x, two = np.arange(3, dtype=F32), np.float32(2)
    assert fm.jit(f)(x) == fm.jit(f)(x=x) == 6 and fm.jit(f)(x, scale=3.0) == 9 and fm.jit(f)(x, how="max", y=two) == 8 and fm.jit(f)(x, shift=x) == 9
    for transform in (fm.grad, fm.jacfwd, fm.jacrev):
        np.testing.assert_array_equal(transform(f)(x, scale=3.0), [3, 3, 3])
        np.testing.assert_array_equal(transform(f, argnums=-1)(two, x, scale=x), [0, 2, 4])  # of the arguments with a place
        np.testing.assert_array_equal(fm.jit(lambda x, transform=transform: transform(f)(x, scale=x, how="max"))(x), [0, 0, 2])  # inside a trace
    value, (slope, other) = fm.value_and_grad(f, argnums=(0, 1))(x, two, scale=two, how="max")
    assert value == 8 and other == 4 and slope.tolist() == [0, 0, 4]
    assert fm.hessian(lambda x, *, power: fm.sum(x**power))(x, power=2.0).tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
    run = fm.map_tasks(f, reduce="mean")
    for n in (2, 5):
        tasks = np.ones((n, 3), F32)
        assert run(tasks, scale=3.0, how="max") == run(tasks, scale=two * 1.5, how="max") == 3 and run(tasks) == 6


def test_inputs_are_never_written_to(backend: str) -> None:
    params, x, y = arguments()
    copies = optree.tree_map(np.copy, (params, x, y))
    f = meta_step()
    for _ in range(3):
        f(params, x, y)
    fm.jit(lambda x: fm.exp(fm.exp(x) * 0.1) + 1.0)(x)
    assert bits(copies) == bits((params, x, y))


def test_results_own_their_memory(backend: str) -> None:
    for size in (3, 1 << 19):  # below and above the size from which memory is pooled
        x = np.linspace(0, 1, size, dtype=F32)
        f = fm.jit(lambda x: (x, x, x * 2.0, fm.reshape(x, (1, -1)), fm.sum(x), fm.zeros_like(x)))
        first = f(x)
        want, kept = bits(first), [r.copy() for r in first]
        for r in first:
            assert r.flags.writeable and not np.shares_memory(r, x)
        assert not any(np.shares_memory(a, b) for i, a in enumerate(first) for b in first[:i])
        second = f(x)
        for r in first:
            r[...] = -7
        assert bits(second) == want and bits(f(x)) == want
        assert x.tobytes() == kept[0].tobytes()
        del first
        third = f(x)
        assert bits(third) == want and bits(second) == want


def test_constants_in_results_own_their_memory(backend: str) -> None:
    table = np.arange(4, dtype=F32)
    f = fm.jit(lambda x: (table, x + table))
    first, _ = f(F32(1))
    first[...] = 9
    assert f(F32(1))[0].tolist() == [0, 1, 2, 3] and table.tolist() == [0, 1, 2, 3]


def test_large_captured_arrays_go_by_reference_small_ones_at_trace_time(backend: str) -> None:
    large, small = np.ones(1000, F32), np.ones(3, F32)
    f = fm.jit(lambda x: (fm.sum(large) * x, fm.sum(small) * x))
    assert [float(v) for v in f(F32(1))] == [1000, 3]
    large[:], small[:] = 2, 2
    assert [float(v) for v in f(F32(1))] == [2000, 3]
    g = fm.map_tasks(fm.value_and_grad(lambda p, x: fm.sum(large[:3] * p * x)), in_axes=(None, 0), reduce="mean")
    value, grad = g(F32(1), np.ones((4, 3), F32))
    assert float(value[0] if isinstance(value, tuple) else value) == 6 and float(grad) == 6


def test_captured_arrays_of_any_layout(backend: str) -> None:
    x = np.random.default_rng(3).standard_normal((40, 30)).astype(F32)
    for name, other in layouts(x).items():
        f = fm.map_tasks(lambda t, other=other: fm.sum(other * t, axis=0), reduce="mean")
        for _ in range(2):
            np.testing.assert_allclose(f(np.ones(2, F32)), x.sum(0), rtol=1e-4, atol=1e-5, err_msg=name)
    strided = np.zeros((40, 60), F32)[:, ::2]
    g = fm.jit(lambda t: fm.sum(strided) * t)
    assert g(F32(1)) == 0
    strided[...] = 1
    assert g(F32(1)) == 1200


def test_results_may_be_arguments_of_the_next_call(backend: str) -> None:
    f = fm.map_tasks(fm.value_and_grad(lambda *args: episode(*args)), in_axes=(None, 0, 0), reduce="mean")
    params, x, y = arguments()
    first = None
    for _ in range(30):
        value, grads = f(params, x, y)
        params = fm.tree_map(lambda p, g: p - 0.05 * g, params, grads)
        first = value if first is None else first
    assert value < first
