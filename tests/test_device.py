"""What stands around the device text: who is there and why not, versions, arrays that no backend here takes."""

from __future__ import annotations

import sys
import types

import fake_cupy
import numpy as np
import pytest

import fastmeta as fm
from fastmeta import backends
from fastmeta.backends import cupy as cupy_backend
from fastmeta.backends import device, launches
from fastmeta.backends.codegen import index, phases

ABSENT = [name for name in ("cuda", "cupy") if backends.available()[name] != "ok"]


def test_constants_that_are_written_twice():
    text = "".join(path.read_text() for path in cupy_backend.source().glob("*.cuh"))
    assert f"kMostGroups = {launches.MOST_GROUPS}, kMostSumBytes = int64_t{{{launches.MOST_SUM_BYTES >> 20}}} << 20" in text
    assert f"kTeamLanes = {phases.LANES};" in text and f"kPartials = {phases.PARTIALS};" in text and cupy_backend.PARTIALS == 8 * phases.PARTIALS
    assert "kTileDepth = 16, kTileWidth = 65" in text and cupy_backend.STATUS.itemsize == 48
    assert f"kFewColumns = {index.FEW_COLUMNS}, kSmallScan = int64_t{{1}} << {index.SMALL_SCAN.bit_length() - 1};" in text
    assert f"kSumColumns = {launches.SUM_COLUMNS}," in text


@pytest.mark.parametrize("name", ABSENT)
def test_a_backend_that_is_absent_says_why(name):
    reason = backends.available()[name]
    with pytest.raises(RuntimeError, match=f"expected backend {name} to be there, got: ") as caught:
        fm.set_backend(name)
    assert reason in str(caught.value) and len(reason) > 20


def test_a_compiled_module_of_another_version_is_refused():
    old = types.SimpleNamespace(version="0.0.1", __name__="fastmeta._cuda")
    assert device.mismatch(old) == f"fastmeta._cuda was built for fastmeta 0.0.1, and this is {fm.__version__}: install again"
    assert device.mismatch(types.SimpleNamespace(version=fm.__version__)) is None


def test_an_array_of_a_device_needs_a_backend_of_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())
    with fm.set_backend("numpy"), pytest.raises(TypeError, match=r"expected host arrays for backend numpy, got a cupy array on <CUDA Device 0>"):
        fm.jit(lambda x: x + 1.0)(fake_cupy.Memory(np.ones(3, np.float32)))
