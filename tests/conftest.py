"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import BACKENDS, ENGINES, ISAS, OF_THE_CORE, PURE
from omniglot_archive import write_archives

import fastmeta as fm
from fastmeta import backends
from fastmeta.backends import device
from fastmeta.transforms import unroll

if PURE:
    collect_ignore = list(OF_THE_CORE)
else:
    from fastmeta import _core

assert (backends.available()["native"] != "ok") is PURE, backends.available()

# Child processes import the fastmeta that is tested, the installed one, and not the source tree they are started in.
os.environ["PYTHONPATH"] = str(Path(fm.__file__).parents[1])
os.environ["PYTHONSAFEPATH"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", help="run everything on this backend instead: cuda, cupy, or cuda-host for the device text on the host")
    parser.addoption("--way", default="auto", choices=["auto", "resident", "batched"], help="how the backends of device text run plans")
    parser.addoption("--text", default="fixed", choices=["fixed", "words"], help="whether plans of these backends have text of their own, or their words are read as they run")
    parser.addoption("--lanes", type=int, default=1, help="threads of a team of cuda-host")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests of the device text on the host need a build of it, which this option tells."""
    return True if collection_path.name == "test_device_text.py" and config.getoption("--backend") != "cuda-host" else None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "native: of the native core only, left out under --backend and without the core")
    name = config.getoption("--backend")
    if name is None:
        return
    import plan_tools  # needs the native core, which the pure-Python build has not

    backends.set_backend(name)
    made = backends.module(name)
    made.OPTIONS.update(way=config.getoption("--way"), lanes=config.getoption("--lanes"))
    if config.getoption("--text") == "words":
        made.compile_text = lambda: None
    elif name == "cuda-host":
        made.TEXT = True
    compile_text = made.compile_text()
    plan_tools.tested.plan = staticmethod(lambda words, consts, **_: device.DevicePlan(made.core(), words, consts, compile_text, **made.OPTIONS))
    plan_tools.tested.bad_index = made.core().BadIndex


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    other = config.getoption("--backend") is not None
    if not (other or PURE):
        return
    native = [item for item in items if item.get_closest_marker("native") or (other and "isa" in getattr(item, "fixturenames", ()) and item.callspec.params["isa"] != ISAS[0])]
    if config.getoption("--backend") == "cupy":  # plans are checked by a compiled core, and it has none
        native += [item for item in items if item.path.name == "test_core_refused.py" or item.originalname == "test_refused"]
    config.hook.pytest_deselected(items=native)
    items[:] = [item for item in items if item not in set(native)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each backend in turn; one that is missing is a failure, not a skip."""
    chosen = metafunc.config.getoption("--backend")
    for name, all_of_them in (("backend", BACKENDS), ("engine", ENGINES)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [chosen] if chosen else all_of_them, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Chooses the backend for the length of a test."""
    with fm.set_backend(request.param):
        yield request.param


@pytest.fixture
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


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache folder for the session and never the user's; a test that needs an empty one sets its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMETA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Omniglot's images will be kept, in a cache folder of the test's own."""
    monkeypatch.setenv("FASTMETA_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache" / "omniglot"


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in Omniglot's format: 8 characters of 3 alphabets, 20 images each."""
    return write_archives(tmp_path_factory.mktemp("small"))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn."""
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)
