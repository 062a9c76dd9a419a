"""Opcode 12 of the core, in plans built by hand, against its definition in NumPy; and what plans of proto_loss hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from plan_tools import FLOATS, PROTO, Builder, code, f32, sample, tested, view

import fastmeta as fm
from fastmeta import _core
from fastmeta.ops.proto import PARTS
from fastmeta.ops.proto import PROTO as ROW
from fastmeta.plan import make_plan

# rows of x and y, features: tiles and strips of every size, up to 6 rows of y (derivatives in one pass) and more; then long rows
SIZES = [(1, 1, 1), (5, 3, 4), (75, 5, 64), (33, 17, 40), (64, 2, 3), (100, 40, 130), (31, 13, 100), (40, 6, 90), (9, 7, 33)]
SIZES += [(7, 1, 300), (75, 5, 200), (70, 13, 1601), (33, 2, 2600), (40, 22, 272), (35, 6, 145), (66, 7, 129)]


def episode(sizes, dtype=f32, seed=0):
    """Rows of x and y, labels, shares of which some are 0, absent rows of y."""
    (n, m, d), rng = sizes, np.random.default_rng(seed)
    x, y = sample((n, d), dtype, seed), sample((m, d), dtype, seed + 1)
    share = (rng.random(n) * (rng.random(n) < 0.8)).astype(dtype)
    absent = (np.arange(m) % 4 == 1) & (m > 1)
    label = rng.choice(np.flatnonzero(~absent), n).astype(np.int32)
    return x, y, label, share, absent


def proto(arrays, factor=1.0, parts=PARTS):
    x, y = arrays[:2]
    dtype = x.dtype.type
    kinds = [dtype, dtype, np.int32, dtype, np.bool_]
    shapes = {"x": x.shape, "y": y.shape}
    b = Builder([(kind, a.shape) for kind, a in zip(kinds, arrays, strict=True)], [(dtype, shapes.get(part, ())) for part in parts])
    words = [code(dtype), len(x), len(y), x.shape[1], *np.float64([factor]).view(np.int64).tolist()]
    for k, (kind, a) in enumerate(zip(kinds, arrays, strict=True)):
        words += view(b.input(k), a.shape, kind).words
    for part in PARTS:
        words += [1, *view(b.output(parts.index(part)), shapes.get(part, ()), dtype).words] if part in parts else [0]
    b.emit(PROTO, words, tag=7)
    return dict(zip(parts, b.run(*arrays), strict=True))


def wanted(arrays, factor=1.0):
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    return {part: ROW.evaluate(*wide, factor, part) for part in PARTS}


def agree(got, want, rtol):
    for part, value in got.items():
        np.testing.assert_allclose(value, want[part], 0, rtol * max(np.abs(want[part]).max(), 1e-30), err_msg=part)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("factor", [1.0, 0.1])
@pytest.mark.parametrize("sizes", SIZES)
def test_proto(isa, sizes, factor, dtype):
    arrays = episode(sizes, dtype)
    rounding = max(1, sizes[2] / 130)  # distances grow with the features, and so does what rounding leaves of a probability
    agree(proto(arrays, factor), wanted(arrays, factor), rounding * (2e-5 if dtype == f32 else 1e-13))


@pytest.mark.parametrize("d", [70, 300])
def test_results_do_not_depend_on_which_are_asked_for(isa, d):
    arrays = episode((50, 7, d))
    whole = proto(arrays)
    for parts in itertools.chain(*(itertools.combinations(PARTS, k) for k in (1, 2, 3))):
        for part, value in proto(arrays, parts=parts).items():
            np.testing.assert_array_equal(value, whole[part])


def test_the_derivative_is_one(isa):
    """Against central differences of the loss, in float64."""
    arrays = episode((9, 4, 5), np.float64)
    got = proto(arrays, 0.7)
    for k, part in enumerate(("x", "y")):
        direction, step = sample(arrays[k].shape, np.float64, 5), 1e-6
        sides = [proto([*arrays[:k], arrays[k] + s * step * direction, *arrays[k + 1 :]], 0.7, ("loss",))["loss"] for s in (1, -1)]
        assert float((sides[0] - sides[1]) / (2 * step)) == pytest.approx(np.sum(got[part] * direction), rel=1e-8)


@pytest.mark.parametrize("d", [33, 200])
def test_far_rows(isa, d):
    """An offset of all rows costs no digits that they have; a class without rows does not move the centre."""
    x, y, label, share, absent = episode((60, 9, d))
    x, y = x + f32(1000), np.where(absent[:, None], f32(0), y + f32(1000))
    agree(proto((x, y, label, share, absent)), wanted((x, y, label, share, absent)), 1e-4)


@pytest.mark.parametrize("d", [33, 200])
@pytest.mark.parametrize("outlier", range(4))
def test_an_outlier_among_the_classes(isa, d, outlier):
    """Differences from it would leave no digits of the others' distances: it is not what all are compared with."""
    x, y, label, share, _ = episode((60, 4, d))
    y[outlier] += f32(1e4)
    absent = np.zeros(4, np.bool_)
    label[label == outlier] = (outlier + 1) % 4
    agree(proto((x, y, label, share, absent)), wanted((x, y, label, share, absent)), 1e-4)


def test_certain_answers(isa):
    """Probabilities that are no normal numbers: nothing is lost and nothing is infinite."""
    x, y, label, share, absent = episode((64, 6, 64))
    for scale in (3, 30):
        arrays = x * f32(scale), y * f32(scale), label, share, absent
        agree(proto(arrays), wanted(arrays), 2e-5)


@pytest.mark.parametrize("d", [20, 300])
def test_what_counts_for_nothing(isa, d):
    x, y, label, share, absent = episode((40, 6, d))
    share[7] = share[33] = 0
    want = proto((x, y, label, share, absent))
    x[7], x[33, 3] = np.inf, np.nan
    got = proto((x, y, label, share, absent))
    for part in ("loss", "right", "y"):
        np.testing.assert_array_equal(got[part], want[part])
    np.testing.assert_array_equal(np.delete(got["x"], [7, 33], 0), np.delete(want["x"], [7, 33], 0))


@pytest.mark.parametrize("d", [20, 300])
def test_nan(isa, d):
    x, y, label, share, absent = episode((40, 6, d))
    share[:] = 1 / 40
    clean = proto((x, y, label, share, absent))
    x[33, 7] = np.nan
    got = proto((x, y, label, share, absent))
    assert np.isnan(got["loss"]) and np.isnan(got["x"][33]).all() and np.isnan(got["y"][~absent]).all()
    np.testing.assert_array_equal(np.delete(got["x"], 33, 0), np.delete(clean["x"], 33, 0))


@pytest.mark.parametrize("d", [8, 200])
def test_equally_near_rows(isa, d):
    """The first of them is the answer."""
    y = np.repeat(sample((1, d)), 5, 0)
    arrays = y[:4] + f32(1), y, np.arange(4, dtype=np.int32), np.ones(4, f32), np.zeros(5, np.bool_)
    assert proto(arrays)["right"] == 1
    np.testing.assert_allclose(proto(arrays)["loss"], 4 * np.log(5), 1e-6)


@pytest.mark.parametrize("bad", [-1, 6])
def test_bad_label(bad):
    arrays = episode((40, 6, 20))
    arrays[2][30] = bad
    with pytest.raises(tested.bad_index) as caught:
        proto(arrays)
    assert caught.value.args == (7, -1, bad, 6)


def refusable(change):
    """A good plan's words but for ``change``."""
    b = Builder([(f32, (6, 4)), (f32, (3, 4)), (np.int32, (6,)), (f32, (6,)), (np.bool_, (3,))], [(f32, ())])
    operands = [word for k, (kind, shape) in enumerate(b.inputs) for word in view(b.input(k), shape, kind).words]
    given = {"dtype": 0, "n": 6, "m": 3, "features": 4, "loss": [1, *view(b.output(0), ()).words], "right": [0]} | change
    b.emit(PROTO, [given["dtype"], given["n"], given["m"], given["features"], 0, *operands, *given["loss"], *given["right"], 0, 0])
    return b


@pytest.mark.parametrize("change", [{"dtype": 2}, {"n": 0}, {"m": 0}, {"features": 0}, {"n": 9}, {"features": 5}, {"loss": [0]}, {"right": [2]}], ids=str)
def test_refused(change):
    assert refusable({}).plan() is not None
    b = refusable(change)
    with pytest.raises(ValueError, match=r"^\[plan\]"):
        _core.Plan(b.words(), b"")


def episodes(tasks=3, ways=5, shots=2, queries=40, features=16, dtype=f32):
    rng = np.random.default_rng(3)
    labels = np.stack([rng.permutation(np.repeat(np.arange(ways), shots)) for _ in range(tasks)]).astype(np.int32)
    query_labels = rng.integers(0, ways, (tasks, queries), dtype=np.int32)
    return sample((tasks, ways * shots, features), dtype), labels, sample((tasks, queries, features), dtype, 1), query_labels


@pytest.mark.parametrize("temperature", [1, 2.5])
def test_one_instruction_for_the_loss_and_its_derivatives(temperature):
    data = episodes()

    def loss(s, labels, q, query_labels):
        return fm.kernels.proto_loss(s, labels, q, query_labels, n_way=5, temperature=temperature)

    f = fm.map_tasks(fm.value_and_grad(loss, argnums=(0, 2), has_aux=True))
    assert make_plan(f.program(*data)).instructions <= 9  # the loop; counts, sums, means; PROTO; and back to the supports
    wide = [a.astype(np.float64) if a.dtype == f32 else a for a in data]
    as_array = fm.map_tasks(fm.value_and_grad(lambda *a: fm.kernels.proto_loss(*a[:4], n_way=5, temperature=a[4]), argnums=(0, 2), has_aux=True), in_axes=(0, 0, 0, 0, None))
    (value, accuracy), grads = f(*data)
    (want, want_accuracy), want_grads = as_array(*wide, np.float64(temperature))  # a temperature that is traced: by its expansion
    np.testing.assert_allclose(value, want, 1e-5)
    np.testing.assert_allclose(accuracy, want_accuracy, 1e-6)
    for got, expected in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(got, expected, 0, 1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("metric", ["proto_loss", "rbf", "l1"])
def test_large_results_have_the_same_bits(metric):
    """What is written past the caches, in all more than 8 MB of derivatives."""
    support, labels, query, query_labels = episodes(tasks=70, queries=75, features=464)  # lines, and strips but for the last

    def loss(s, labels, q, query_labels):
        if metric == "proto_loss":
            return fm.kernels.proto_loss(s, labels, q, query_labels, n_way=5)[0]
        return fm.sum(fm.kernels.pairwise_distance(q, s[:5], metric=metric, scale=30.0 if metric == "rbf" else None) ** 2)

    f = fm.map_tasks(fm.value_and_grad(loss, argnums=(0, 2)))
    data = support, labels, query, query_labels
    _, (_, whole) = f(*data)
    assert whole.nbytes > 8 << 20
    for task in (0, 69):
        np.testing.assert_array_equal(f(*(a[task : task + 1] for a in data))[1][1][0], whole[task])


@pytest.mark.parametrize("order", [1, 2])
def test_higher_derivatives_are_those_of_the_expansion(order):
    s, labels, q, query_labels = (a[0] for a in episodes(dtype=np.float64))
    fm.testing.check_grads(lambda s, q: fm.kernels.proto_loss(s, labels, q, query_labels, n_way=5)[0], (s, q), order=order)


def test_the_share_can_be_learned():
    """A derivative that has no kernel comes from the expansion."""
    s, labels, q, query_labels = (a[0] for a in episodes(dtype=np.float64))
    weights = np.linspace(0.5, 1.5, len(q))
    fm.testing.check_grads(lambda q, w: fm.kernels.proto_loss(s, labels, q, query_labels, n_way=5, query_weights=w)[0], (q, weights), order=1)
