"""The products of every instruction set against a triple loop: tests/cpp/gemm_test.cpp, compiled and run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_vmath import FLAGS, TARGETS, supported

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("target", supported())
def test_products(target: str, tmp_path: Path) -> None:
    program = tmp_path / "gemm_test"
    flags = [f for f in FLAGS if f not in ("-shared", "-fPIC")]
    subprocess.run(["g++", *flags, "-I", str(ROOT / "csrc" / "native"), *TARGETS[target], str(ROOT / "tests/cpp/gemm_test.cpp"), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300)
    print(done.stdout)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("ok")
