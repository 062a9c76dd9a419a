"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fastmeta as fm
from fastmeta import backends


@pytest.fixture(params=["native", "numpy"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn; one that is missing is a failure, not a skip."""
    with fm.set_backend(request.param):
        yield request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = backends.state.threads
    yield
    backends.state.threads = before
