"""The products of every instruction set against a triple loop: tests/cpp/gemm_test.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_vmath import TARGETS, compiled, table


@pytest.mark.parametrize("target", TARGETS)
def test_products(target: str, tmp_path: Path) -> None:
    assert compiled("gemm_test", tmp_path).compare_products(table(target)) == 0
