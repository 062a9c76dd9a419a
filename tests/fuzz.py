"""Random programs and networks for as long as there is patience: python tests/fuzz.py --minutes 10 [--first SEED].

`test_programs.py` and `test_networks.py` run a few of these; programs have larger values here, which other kernels take.
What fails is printed with its seed.  Values beyond 1e5 are not compared: their rounding may be larger than any tolerance.
A few in a thousand are no mistakes: a tie that rounding decides, the sine of a large number.  Inputs changed by one rounding,
or another backend, tell.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest
import random_networks
import test_programs

import fastmeta as fm
from fastmeta.transforms import unroll
from fastmeta.transforms.unroll import EQUATIONS

SIZES, LIMIT = (1, 2, 7, 16, 33), 20_000
exact = test_programs.equal


def lenient(got: Any, want: Any, note: str, tolerance: float = 1e-9) -> None:
    """A hundred times the tolerance: a long sum of large values is rounded more often than the tests' short ones."""
    largest = [np.max(np.abs(w), initial=0) for w in optree.tree_leaves(want)]
    if np.isfinite(largest).all() and max(largest, default=0) < 1e5:
        exact(got, want, note, 100 * tolerance)


def programs(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SIZES": SIZES, "LIMIT": LIMIT, "BATCH": 1, "equal": lenient}.items():
            patch.setattr(test_programs, name, value)
        test_programs.test_engines_are_the_oracle(seed, "native")
        test_programs.test_every_form_computes_the_same(seed)
        test_programs.test_second_order(seed, "native", patch)
        test_programs.test_tasks(seed, patch, None)


def networks(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unroll, "EQUATIONS", EQUATIONS if seed % 2 else 0)
        fm.set_num_threads(1 + seed % 3)
        random_networks.check_case(seed, tolerance=1e-7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--first", type=int, default=1000)
    options = parser.parse_args()
    end, seed, failed = time.monotonic() + 60 * options.minutes, options.first, 0
    kinds: tuple[Callable[[int], None], ...] = (programs, networks)
    while time.monotonic() < end:
        for kind in kinds:
            try:
                kind(seed)
            except Exception as error:  # the next seeds are of interest too
                failed += 1
                print(f"{kind.__name__} {seed}: {type(error).__name__}: {str(error)[:500]}", flush=True)
        seed += 1
    print(f"seeds {options.first} to {seed - 1}: {failed} failed")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
