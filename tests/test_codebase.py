"""What the sources must keep to: who imports whom, docstrings, generated files, lengths, examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omniglot_archive import write_archives

import fastmeta as fm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fastmeta"
FILES = sorted(PACKAGE.rglob("*.py"))
EXTRAS = {"matplotlib", "tensorboardX", "torch"}  # what a plain installation need not have

# Imports point left only: a group may import itself and the groups before it.
LAYERS = [
    ["errors", "names", "config", "atomic"],
    ["program"],
    ["ops"],
    ["trace", "tree"],
    ["transforms"],
    ["oracle"],
    ["plan"],
    ["backends"],
    ["array"],
    ["compile", "inner"],
    ["gradients", "loops"],
    ["memory"],
    ["nn", "kernels"],
    ["models", "optim"],
    ["algorithms"],
    ["data", "interop"],
    ["train"],
    ["cli", "__main__"],
]
ANYWHERE = {"testing", "__init__"}  # may import anything
HEAVY = ["torch", "jax", "numba", "typer", "rich", "PIL", "safetensors", "matplotlib", "cupy", "tensorboardX", "pybind11", "concurrent.futures", "multiprocessing"]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """fastmeta.ops.shape -> ops; fastmeta -> __init__."""
    return (module.split(".") + ["__init__"])[1]


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {name_of(file) for file in FILES}
    inside = {name for name in found if name.split(".")[0] == "fastmeta"}
    return {name if name in modules else name.rpartition(".")[0] or name for name in inside}


def test_every_module_has_a_layer() -> None:
    layered = {part for layer in LAYERS for part in layer}
    assert {part_of(name_of(file)) for file in FILES} <= layered | ANYWHERE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_left(path: Path) -> None:
    rank = {part: k for k, layer in enumerate(LAYERS) for part in layer}
    own = part_of(name_of(path))
    if own in ANYWHERE:
        return
    for module in imported(path):
        part = part_of(module)
        if part in ("__init__", "_core", "_cuda", "_cuda_host"):  # the version; the compiled cores
            continue
        assert part == own or rank.get(part, len(LAYERS)) < rank[own] or part in LAYERS[rank[own]], f"{name_of(path)} imports {module}"


def test_only_the_native_backend_knows_the_core() -> None:
    users = {name_of(file) for file in FILES if "_core" in {node.name for tree in [ast.parse(file.read_text())] for stmt in ast.walk(tree) if isinstance(stmt, ast.Import | ast.ImportFrom) for node in stmt.names}}
    assert users <= {"fastmeta.backends.native", "fastmeta.cli.machine", "fastmeta.cli.info"}, users


def in_new_process(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


USE = "import fastmeta as fm, numpy as np; fm.map_tasks(fm.grad(lambda p, x: p * x), in_axes=(None, 0), reduce='mean')(np.float32(1), np.ones(3, np.float32))"


@pytest.mark.parametrize("script", ["import fastmeta", pytest.param(USE, marks=pytest.mark.native)], ids=["import", "use"])
def test_the_import_pulls_in_nothing_heavy(script: str) -> None:
    before = set(in_new_process("import numpy, optree, sys; print(*sys.modules)"))
    after = set(in_new_process(f"{script}\nimport sys; print(*sys.modules)"))
    assert not {name for name in after - before if name in HEAVY or name.split(".")[0] in HEAVY}


def test_nothing_of_the_package_is_imported_that_is_not_used_by_the_engine() -> None:
    loaded = {part_of(name) for name in in_new_process("import fastmeta, sys; print(*sys.modules)") if name.startswith("fastmeta")}
    assert not loaded & {"data", "train", "cli", "algorithms", "models", "testing"}


# ---------------------------------------------------------------------------------------------------- public names


def public() -> list[Any]:
    """Public functions, classes and methods with their names."""
    found: dict[str, Any] = {}
    modules = [fm, fm.nn, fm.kernels, fm.data, fm.models, fm.optim, fm.testing, fm.backends, fm.train, importlib.import_module("fastmeta.errors"), importlib.import_module("fastmeta.interop.torch"), importlib.import_module("fastmeta.config"), importlib.import_module("fastmeta.train.checkpoint")]
    for module in modules:
        listed = getattr(module, "__all__", None) or [name for name in dir(module) if not name.startswith("_")]
        for name in listed:
            value = getattr(module, name)
            if inspect.ismodule(value) or not callable(value) or not str(getattr(value, "__module__", "")).startswith("fastmeta"):
                continue
            found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                for member, method in vars(value).items():
                    if not member.startswith("_") and (inspect.isfunction(method) or isinstance(method, property | classmethod | staticmethod)):
                        found[f"{module.__name__}.{name}.{member}"] = getattr(value, member) if isinstance(method, classmethod) else method
    assert len(found) > 90
    return [pytest.param(value, id=name) for name, value in found.items()]


@pytest.mark.parametrize("value", public())
def test_every_public_name_has_a_docstring(value: Any) -> None:
    text = inspect.getdoc(value)
    assert text and text.strip(), "no docstring"
    assert text.strip()[0].isprintable() and len(text.strip()) >= 2
    modules = [fm, fm.nn, fm.kernels, fm.data, fm.train, fm.optim, fm.models]
    if any(value is getattr(module, name) for module in modules for name in module.__all__):
        assert ">>> " in text, "no example"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_has_a_docstring(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), path


def test_lazy_names_are_there() -> None:
    assert {"MAML", "data", "models", "optim", "testing", "train"} <= set(dir(fm))
    for name in dir(fm):
        getattr(fm, name)
    with pytest.raises(AttributeError, match="module 'fastmeta' has no attribute 'sort_of'"):
        fm.sort_of  # noqa: B018  (the access is what raises)


def test_type_checkers_know_the_public_names() -> None:
    """Those that are imported and those that are loaded at first use; what is imported for type checkers only is the latter."""
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    (checked,) = [stmt for stmt in body if isinstance(stmt, ast.If) and ast.unparse(stmt.test) == "_typing.TYPE_CHECKING"]
    lazy, loaded = ({alias.name for stmt in part if isinstance(stmt, ast.ImportFrom) for alias in stmt.names} for part in (checked.body, body))
    assert lazy == set(fm._LAZY)
    assert sorted(fm.__all__) == sorted(lazy | loaded - {"import_module"})
    for name in fm.__all__:
        getattr(fm, name)


# -------------------------------------------------------------------------------------------------------- sources

TEXT = {".py", ".pyi", ".cpp", ".hpp", ".cuh", ".cu", ".h", ".toml", ".txt", ".md", ".yml", ".sh", ""}
LEFT_OUT = {".git", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "build", "dist"}


def sources() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.splitlines()]
    else:  # a tree without its history
        files = [path for path in ROOT.rglob("*") if not LEFT_OUT & set(path.relative_to(ROOT).parts)]
    return [path for path in files if path.is_file() and path.suffix in TEXT and path != Path(__file__).resolve()]


def test_generated_sources_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "-m", "fastmeta.ops.codegen", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_no_source_file_is_too_long() -> None:
    long = {str(path.relative_to(ROOT)): n for path in sources() if path.relative_to(ROOT).parts[0] in ("fastmeta", "csrc") for n in [len(path.read_text().splitlines())] if n > 650}
    assert not long


def test_nothing_is_left_for_later() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|pytest\.(mark\.)?(skip|xfail|importorskip)|unittest\.skip")
    found = [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for path in sources() if path.suffix != ".md" for number, line in enumerate(path.read_text().splitlines(), 1) if pattern.search(line)]
    assert not found


def test_no_pickle_and_no_evaluation_of_text() -> None:
    pattern = re.compile(r"^\s*(import|from) (pickle|dill|joblib)|(?<![.\w])(eval|exec)\(|allow_pickle=True")
    found = [f"{path.relative_to(ROOT)}:{number}" for path in FILES for number, line in enumerate(path.read_text().splitlines(), 1) if pattern.search(line)]
    assert not found


# -------------------------------------------------------------------------------------------------------- examples


OF_THE_CORE = ("fastmeta.memory",)  # whose examples need it


@pytest.mark.parametrize("path", [pytest.param(path, marks=[pytest.mark.native] if name_of(path) in OF_THE_CORE else []) for path in FILES], ids=name_of)
def test_examples_in_docstrings(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = name_of(path)
    if name == "fastmeta.__main__":  # runs the command line when imported
        return
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name and error.name.split(".")[0] in EXTRAS, error
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTMETA_CACHE", str(tmp_path / "cache"))
    extra: dict[str, Any] = {"np": np, "fm": fm}
    if name.startswith("fastmeta.data"):
        extra["root"] = write_archives(tmp_path / "data")
    failed, _ = doctest.testmod(module, extraglobs=extra, optionflags=doctest.ELLIPSIS)
    assert failed == 0
