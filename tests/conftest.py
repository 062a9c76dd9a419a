"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import BACKENDS, ENGINES, OF_THE_CORE, PURE

import fastmeta as fm
from fastmeta import backends
from fastmeta.transforms import unroll

if PURE:
    collect_ignore = list(OF_THE_CORE)
else:
    from fastmeta import _core

assert (backends.available()["native"] != "ok") is PURE, backends.available()

# Child processes import the fastmeta that is tested, the installed one, and not the source tree they are started in.
os.environ["PYTHONPATH"] = str(Path(fm.__file__).parents[1])
os.environ["PYTHONSAFEPATH"] = "1"


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn; one that is missing is a failure, not a skip."""
    with fm.set_backend(request.param):
        yield request.param


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that runs plans in turn."""
    with fm.set_backend(request.param):
        yield request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = backends.state.threads
    yield
    backends.state.threads = before


@pytest.fixture(params=["straight", "loops"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small loops in straight code, and no loop unrolled: what is traced in the test only."""
    if request.param == "loops":
        monkeypatch.setattr(unroll, "EQUATIONS", 0)
    return request.param


def targets() -> list[str]:
    """The instruction sets of this build that this processor has."""
    if PURE:
        return []
    before, found = _core.isa(), []
    for name in ("baseline", "avx2", "avx512"):
        try:
            _core.set_isa(name)
            found.append(name)
        except ValueError as error:
            assert "[set_isa]" in str(error)
    _core.set_isa(before)
    return found


@pytest.fixture(params=targets())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn."""
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)
