"""The Python blocks of README and docs run as they stand, and what they link to is there."""

import re
from pathlib import Path

import pytest

import fastmeta.array
from fastmeta import config

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
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


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
