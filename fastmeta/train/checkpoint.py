"""One file that a run can be resumed from, bit for bit."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree
from numpy.typing import NDArray

from fastmeta.atomic import replacing
from fastmeta.errors import CheckpointError, expected

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

CHECKPOINT = "checkpoint.safetensors"  # of a run, in its folder
FORMAT = "fastmeta-checkpoint"
FORMAT_VERSION = 2
OLD_VERSION = "1"  # still read: its checksum is of the tensors alone
DTYPES = ("float32", "float64", "int32", "int64", "bool")


class Checkpoint(NamedTuple):
    """What `load_checkpoint` returns; a tree without a template is None.

    >>> Checkpoint({}, None, 7, {"lr": 0.1}, {}, "0.1").sampler_step
    7
    """

    params: Any
    optimizer: Any
    sampler_step: int
    config: dict[str, Any]
    extra: dict[str, Any]
    fastmeta_version: str


def save_checkpoint(
    path: str | os.PathLike[str],
    *,
    params: Any,
    optimizer: Any,
    sampler_step: int,
    config: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write parameters, optimiser state, sampler position and configuration to one safetensors file, atomically.

    `params`, `optimizer` (with its step count and schedule) and each value of `extra` (running statistics, say) are
    pytrees of arrays or Python numbers of dtype float32, float64, int32, int64 or bool; a leaf becomes a tensor
    named by its path, "params/layer0/w". `sampler_step` is the next step to sample; `config` must survive JSON.

    Errors: TypeError for a leaf or a configuration that cannot be stored, naming it; OSError if the file cannot be
    written, FileNotFoundError if its folder is missing. In either case a file that was there before is still whole.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.safetensors"
    >>> params, state = {"w": np.ones((2, 3), np.float32)}, {"count": np.int64(5)}
    >>> save_checkpoint(path, params=params, optimizer=state, sampler_step=5, config={"seed": 0})
    >>> load_checkpoint(path, params=params, optimizer=state).optimizer["count"]
    np.int64(5)
    """
    import safetensors.numpy

    import fastmeta

    if isinstance(sampler_step, bool) or not isinstance(sampler_step, (int, np.integer)):
        raise expected("save_checkpoint", "sampler_step a whole number", repr(sampler_step), TypeError)
    if sampler_step < 0:
        raise expected("save_checkpoint", "sampler_step at least 0", sampler_step)
    if not (folder := Path(path).parent).is_dir():
        raise expected("save_checkpoint", "a path in a folder that exists", f"{os.fspath(path)}: there is no folder {folder}", FileNotFoundError)
    tensors: dict[str, NDArray[Any]] = {}
    for name, tree in (("params", params), ("optimizer", optimizer), ("extra", dict(extra or {}))):
        for key, leaf in _leaves(name, tree).items():
            tensors[key] = _stored(key, leaf)
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "fastmeta_version": str(getattr(fastmeta, "__version__", "unknown")),
        "sampler_step": str(int(sampler_step)),
        "config": json_text("save_checkpoint", "config", config),
    }
    content = safetensors.numpy.save(tensors, metadata | {"crc32": str(_checksum(tensors, metadata))})
    with replacing(path) as file:
        file.write(content)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    params: Any,
    optimizer: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read a checkpoint, a file or ``checkpoint.safetensors`` in a folder, into trees like the given templates, of which only structure, shapes and dtypes are used.

    `optimizer` and `extra` may be left out (to evaluate, only `params` is needed); entries of `extra` may be fewer
    than were saved. Leaves come back as NumPy arrays, Python numbers as Python numbers, with exactly the saved bits.

    Errors: FileNotFoundError; CheckpointError for a file that is no checkpoint, is truncated or damaged, or belongs
    to another model (other names, shapes or dtypes: the first difference is named).

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.safetensors"
    >>> save_checkpoint(path, params={"w": np.ones(3)}, optimizer=(), sampler_step=9, config={"ways": 5})
    >>> loaded = load_checkpoint(path, params={"w": np.zeros(3)})
    >>> loaded.sampler_step, loaded.config, loaded.params["w"]
    (9, {'ways': 5}, array([1., 1., 1.]))
    """
    tensors, metadata = read(Path(path))
    try:
        sampler_step, config = int(metadata["sampler_step"]), json.loads(metadata["config"])
    except (KeyError, ValueError) as error:
        raise _unusable(path, "metadata sampler_step and config", f"a file without them ({error})") from error
    wanted = dict(extra or {})
    return Checkpoint(
        params=_filled(path, tensors, "params", params),
        optimizer=None if optimizer is None else _filled(path, tensors, "optimizer", optimizer),
        sampler_step=sampler_step,
        config=config,
        extra={name: _filled(path, tensors, f"extra/{_escaped(name)}", tree) for name, tree in wanted.items()},
        fastmeta_version=metadata.get("fastmeta_version", "unknown"),
    )


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """All tensors and the checked metadata of a file."""
    import safetensors

    path = path / CHECKPOINT if path.is_dir() else path
    if not path.is_file():
        raise expected("load_checkpoint", "a checkpoint file", f"no file at {path}", FileNotFoundError)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _unusable(path, "a whole safetensors file", f"one that cannot be read ({error})") from error
    if metadata.get("format") != FORMAT:
        raise _unusable(path, "a fastmeta checkpoint", "another safetensors file")
    if metadata.get("format_version") not in (OLD_VERSION, str(FORMAT_VERSION)):
        raise _unusable(path, f"format version {FORMAT_VERSION}", f"version {metadata.get('format_version')}")
    covered = {} if metadata["format_version"] == OLD_VERSION else metadata
    if metadata.get("crc32") != str(_checksum(tensors, covered)):
        raise _unusable(path, "an undamaged checkpoint", "contents that do not agree with their checksum")
    return tensors, metadata


def _filled(path: str | os.PathLike[str], tensors: dict[str, NDArray[Any]], name: str, template: Any) -> Any:
    """The tree of `template` with the stored leaves; refuses any difference."""
    leaves = _leaves(name, template)
    stored = {key for key in tensors if key == name or key.startswith(f"{name}/")}
    absent, surplus = sorted(leaves.keys() - stored), sorted(stored - leaves.keys())
    if absent or surplus:
        differences = [f"{key!r} is missing" for key in absent[:1]] + [
            f"{key!r} is not asked for" for key in surplus[:1]
        ]
        raise _unusable(
            path,
            f"a checkpoint of this model with {len(leaves)} arrays under {name!r}",
            f"a checkpoint of another model with {len(stored)}: {', '.join(differences)}",
        )
    values = []
    for key, leaf in leaves.items():
        like, value = _stored(key, leaf), tensors[key]
        if (like.dtype, like.shape) != (value.dtype, value.shape):
            raise _unusable(
                path,
                f"a checkpoint of this model with {key!r} {like.dtype}{list(like.shape)}",
                f"a checkpoint of another model with {value.dtype}{list(value.shape)}",
            )
        if isinstance(leaf, np.generic):
            values.append(value[()])
        else:
            values.append(value.item() if isinstance(leaf, (bool, int, float)) else value)
    return optree.tree_unflatten(optree.tree_structure(template), values)


def _leaves(name: str, tree: Any) -> dict[str, Any]:
    """Leaves by path, "params/layer0/w"; the characters ~ and / inside a key become ~0 and ~1 as in JSON pointers."""
    accessors, leaves, _ = optree.tree_flatten_with_accessor(tree)
    named: dict[str, Any] = {}
    for accessor, leaf in zip(accessors, leaves, strict=True):
        # A named tuple's entry is a position, its field the name; a dataclass's entry is its name already.
        parts = [str(entry.field if isinstance(entry, optree.NamedTupleEntry) else entry.entry) for entry in accessor]
        key = "/".join([name, *map(_escaped, parts)])
        if key in named:
            raise expected("checkpoint", "keys that differ as text", f"{key!r} twice")
        named[key] = leaf
    return named


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


def _stored(key: str, leaf: Any) -> NDArray[Any]:
    """The leaf as a C-contiguous little-endian array of a dtype that the format keeps exactly."""
    try:
        array = np.asarray(leaf, order="C")
    except (TypeError, ValueError, OverflowError) as error:
        raise expected("checkpoint", f"an array at {key!r}", f"{type(leaf).__name__} ({error})", TypeError) from None
    if array.dtype.name not in DTYPES:
        raise expected("checkpoint", f"{key!r} of dtype {', '.join(DTYPES)}", array.dtype.name, TypeError)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def json_text(where: str, name: str, config: Mapping[str, Any]) -> str:
    """The argument ``name`` of ``where`` as text, if JSON gives it back as it is."""
    try:
        text = json.dumps(dict(config), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise expected(where, f"{name} of JSON values", error, TypeError) from None
    if json.dumps(json.loads(text), sort_keys=True) != text or not all(isinstance(key, str) for key in config):
        raise expected(where, f"{name} with text keys", "keys that JSON would change", TypeError)
    return text


def _checksum(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> int:
    """Of all names and values, in an order that does not depend on the file's; of the metadata all but the checksum itself."""
    value = 0
    for key in sorted(metadata.keys() - {"crc32"}):
        value = zlib.crc32(json.dumps([key, metadata[key]]).encode(), value)
    for key in sorted(tensors):
        value = zlib.crc32(tensors[key].tobytes(), zlib.crc32(key.encode(), value))
    return value


def _unusable(path: str | os.PathLike[str], what: str, got: str) -> CheckpointError:
    return expected("load_checkpoint", what, f"{got}, in {os.fspath(path)}", CheckpointError)
