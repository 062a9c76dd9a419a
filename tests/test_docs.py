"""The Python blocks of README and docs run as they stand, what they link to is there, and the messages they quote are real."""

import importlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastmeta as fm
import fastmeta.array
from fastmeta import backends, config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNNABLE = [
    pytest.param(block, id=f"{page.name}-{k}")
    for page in PAGES
    for k, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
    if "import" in block
]


@pytest.mark.parametrize("block", RUNNABLE)
def test_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {"__name__": "block"})


def test_there_are_blocks() -> None:
    assert len(RUNNABLE) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _, part in re.findall(r"\]\(([^)#]*)(#([^)]+))?\)", page.read_text()):
        if not target.startswith("http"):
            there = page.parent / target if target else page
            assert there.exists(), target
            assert not part or part in anchors(there), f"{target}#{part}"


def anchors(page: Path) -> set[str]:
    """Those of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_links_every_page() -> None:
    linked = set(re.findall(r"\]\(([^)#]+\.md)", (ROOT / "docs" / "README.md").read_text()))
    assert linked == {"../README.md", *(page.name for page in (ROOT / "docs").glob("*.md"))} - {"README.md"}


MODULES = ["", ".algorithms", ".nn", ".models", ".data", ".train", ".optim", ".kernels", ".backends", ".testing", ".errors", ".interop.torch"]
INSIDE = {"Loaded", "load", "module", "expected", "whole", "bad_index"}  # public to the rest of the package


def public(module: ModuleType) -> set[str]:
    """What a module exports: `__all__`, or the functions and classes that it defines."""
    own = {name for name, value in vars(module).items() if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == module.__name__}
    return set(getattr(module, "__all__", None) or own - INSIDE)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_in_the_index(name: str) -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    listed = {word for code in re.findall(r"`([^`]+)`", index) for word in re.findall(r"\w+", code)}
    names = public(importlib.import_module(f"fastmeta{name}"))
    assert names and not names - listed


def test_every_array_function_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "language.md").read_text()))
    there = {name for name in dir(fastmeta.array) if callable(getattr(fastmeta.array, name)) and name not in ("CALL", "getitem")}
    assert not there - listed


def test_the_row_that_is_shown_is_that_of_the_sources() -> None:
    """It is no block that runs: it would enter the registry twice."""
    (row,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding-a-primitive.md").read_text(), re.S)
    assert row in (ROOT / "fastmeta" / "ops" / "elementwise.py").read_text()


def test_every_environment_variable_is_listed() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "fastmeta").rglob("*.py"))
    read = set(re.findall(r'(?:environ\.get|_switch)\("(FASTMETA_\w+)"', sources))
    table = re.findall(r"^\| `(FASTMETA_\w+)`", (ROOT / "docs" / "backends.md").read_text(), re.M)
    assert sorted(read) == sorted(table) == sorted(re.findall(r"FASTMETA_\w+", config.__doc__ or ""))


def provoked(patch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    """What raises or warns as docs/troubleshooting.md quotes it."""
    mlp, cross, f32, kept = fm.models.MLP, fm.nn.cross_entropy, np.ones(3, np.float32), []
    x, y = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32), np.arange(400) % 40
    tasks, waves = fm.data.EpisodeSampler.from_arrays(x, y, ways=5, shots=1, queries=5, tasks=8), fm.data.Sinusoid(tasks=8)
    normed = mlp((16, 8, 5), batch_norm=True)

    def traced(f: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        return lambda: fm.jit(f)(f32, *args)

    def escaped() -> None:
        fm.jit(lambda x: kept.append(x) or x)(f32)
        fm.jit(lambda x: x + kept[0])(f32)

    def trained(learner: Any, sampler: Any = tasks, **options: Any) -> Callable[[], Any]:
        resume, optimizer = options.pop("resume", None), options.pop("optimizer", fm.optim.adam(1e-3))
        return lambda: fm.train.Trainer(learner, sampler, optimizer, **options).run(3, resume)

    proto = fm.ProtoNet(mlp((16, 8)), ways=5)

    def renamed() -> None:
        trained(proto)()
        proto.ways = 6

    def resumed(**options: Any) -> Callable[[], Any]:
        trained(proto, out="run")()
        return trained(proto, resume="run", **options)

    def loaded(width: int, change: Callable[[bytes], bytes] = bytes) -> Callable[[], Any]:
        def load() -> None:
            fm.train.save_checkpoint("file", params=mlp((16, 64, 32)).init(0), optimizer=(), sampler_step=0, config={})
            Path("file").write_bytes(change(Path("file").read_bytes()))
            fm.train.load_checkpoint("file", params=mlp((16, 64, width)).init(0))

        return load

    def without(*names: str) -> Callable[[], Any]:
        def choose() -> None:
            for name in names:
                patch.setattr(backends.module(name), "missing", lambda: "it is not installed")
            backends.set_backend(names[0]) if len(names) == 1 else backends._default()

        return choose

    return {
        "if": traced(lambda x: x if x.sum() > 0 else -x),
        "float": traced(lambda x: float(x.sum())),
        "format": traced(lambda x: f"{x.sum():.3f}"),
        "range": traced(lambda x, n: [x for _ in range(n)], 3),
        "numpy": traced(lambda x: np.exp(x)),
        "write": traced(lambda x: x.__setitem__(0, 1.0)),
        "at": traced(lambda x: x.at[0]),
        "mask": traced(lambda x: x[x > 0]),
        "escaped": escaped,
        "two dtypes": traced(lambda x, y: x + y, np.ones(3)),
        "half": traced(lambda x, y: y, f32.astype(np.float16)),
        "integers": lambda: fm.grad(lambda p: p["w"].sum())({"n": 3, "w": f32}),
        "float labels": lambda: cross(np.eye(3), f32),
        "one-hot": lambda: cross(np.eye(2), np.eye(2, dtype=np.int32)),
        "label": lambda: fm.map_tasks(cross)(np.zeros((1, 2, 3)), np.array([[0, 3]])),
        "padding": lambda: fm.map_tasks(cross)(np.zeros((1, 2, 3)), np.array([[0, -1]])),
        "diverged": trained(fm.MAML(mlp((1, 40, 40, 1)), loss=fm.nn.mse, inner_lr=0.5, inner_steps=5), waves),
        "no ways": trained(fm.ProtoNet(mlp((16, 8)))),
        "other ways": trained(fm.ProtoNet(mlp((16, 8)), ways=6)),
        "attribute": renamed,
        "residuals": trained(fm.IMAML(mlp((1, 40, 40, 1)), loss=fm.nn.mse, inner_lr=0.01, inner_steps=16, damping=0.5), waves),
        "order": trained(fm.SNAIL(mlp((16, 8)), ways=5, shots=1, filters=8)),
        "state": lambda: fm.MAML(normed, batch_norm="running").evaluate(normed.init(0), tasks.batch(0)),
        "other model": loaded(64),
        "truncated": loaded(32, lambda file: file[:-100]),
        "damaged": loaded(32, lambda file: file[:-1] + bytes([file[-1] ^ 1])),
        "optimizer": resumed(optimizer=fm.optim.sgd(1e-3)),
        "validation": resumed(validation=tasks),
        "no cuda": without("cuda"),
        "no backend": without("native", "numba"),
    }


def test_the_messages_of_troubleshooting_are_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    messages = []
    for name, f in provoked(monkeypatch).items():
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            try:
                f()
            except Exception as error:
                messages.append(f"{type(error).__name__}: {error}")
            else:
                assert noted, name
        messages += [f"{note.category.__name__}: {note.message}" for note in noted]
    cells = re.findall(r"^\|([^|]*)\|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    quoted = [quote for cell in cells for quote in re.findall(r"`([^`]* [^`]*)`", cell)]
    assert len(quoted) > 25
    for quote in quoted:
        assert any(re.search(".*".join(map(re.escape, quote.split("..."))), message, re.S) for message in messages), quote
