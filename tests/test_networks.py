"""Random networks in random episodes: the engine's meta-gradients are the oracle's.  A failing case prints its seed."""

import pytest
from random_networks import check_case

import fastmeta as fm
from fastmeta.transforms import unroll
from fastmeta.transforms.unroll import EQUATIONS

BATCH = 10


@pytest.mark.parametrize("first", range(0, 60, BATCH))
def test_meta_gradients_are_the_oracles(first: int, engine: str, monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    compared = 0
    for seed in range(first, first + BATCH):
        monkeypatch.setattr(unroll, "EQUATIONS", EQUATIONS if seed % 2 else 0)
        fm.set_num_threads(1 + seed % 3)
        compared += check_case(seed)
    assert compared >= BATCH // 2
