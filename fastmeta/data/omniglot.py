"""Omniglot: 1,623 handwritten characters, 20 images each, as few-shot episodes.

Archives or folders are decoded once, to one cache file; splits depend on class names and a seed, never on the order
in which a file system lists them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmeta.atomic import replacing
from fastmeta.data.episode import Episode
from fastmeta.data.sampler import ClassDraw, Sampler, seed_word, shuffled, stream
from fastmeta.errors import expected, whole

__all__ = ["Omniglot"]

# The original release: name of the part -> (address, md5 of the archive).
RELEASE = {
    "images_background": (
        "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background.zip",
        "68d2efa1b9178cc56df9314c21c6e718",
    ),
    "images_evaluation": (
        "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_evaluation.zip",
        "6b91aef0f799c5bb55b94e3f2daec811",
    ),
}
SPLITS = {"train": slice(0, 1100), "validation": slice(1100, 1200), "test": slice(1200, 1623), "all": slice(0, None)}
DRAWERS, SIDE, SOURCE_SIDE = 20, 28, 105
DECODING = "1: 28x28 LANCZOS uint8"  # part of the cache key; change it when the decoding changes
ENTRY = re.compile(r"(?P<part>[^/]+)/(?P<name>[^/]+/character\d+)/\d+_(?P<drawer>\d+)\.png")
LISTED = re.compile(r"(?P<name>[^/]+/character\d+)(/rot(?P<angle>000|090|180|270))?")


class Omniglot(Sampler):
    """N-way K-shot episodes of Omniglot characters.

    Episodes: x [tasks, ways * n, 28, 28, 1] float32 (or [tasks, ways * n, 784] with `flat`), 0 paper and 1 ink;
    labels 0..ways-1 [tasks, ways * n] int32, class by class, n = shots (support) or queries (query).

    `root` is a folder with images_background and images_evaluation, as .zip or unpacked; without it the original
    release is downloaded. Decoded images and downloads are kept in the folder FASTMETA_CACHE, else ~/.cache/fastmeta.
    `split`: the pooled characters, sorted by name and shuffled by `split_seed`, give "train" (1,100), "validation"
    (100) and "test" (423), or "all"; `classes` takes their place: names Alphabet/characterNN or, for rotations="class",
    also Alphabet/characterNN/rot090, in a sequence (`vinyals("train")`) or in the lines of the text file at a path.
    `rotations` by multiples of 90 degrees: "task" draws one per class and task (MAML), "class" makes each a class of
    its own (ProtoNet), None leaves images upright.

    Errors: TypeError or ValueError naming the argument; ValueError naming the file for a truncated or wrong archive;
    OSError with the manual step when a file is missing or the download fails.
    Source: Lake, Salakhutdinov, Tenenbaum 2015; protocol of Finn et al. 2017 (MAML) and Snell et al. 2017 (ProtoNet).

    >>> sampler = Omniglot(root, split="all", ways=5, shots=1, tasks=2)  # doctest: +SKIP
    >>> sampler.batch(0).support_x.shape  # doctest: +SKIP
    (2, 5, 28, 28, 1)
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        split: str = "train",
        ways: int = 5,
        shots: int = 1,
        queries: int = 1,
        tasks: int = 32,
        seed: int = 0,
        rotations: str | None = "task",
        split_seed: int = 0,
        classes: str | os.PathLike[str] | Sequence[str] | None = None,
        flat: bool = False,
    ):
        if split not in SPLITS:
            raise expected("Omniglot", f"split one of {', '.join(map(repr, SPLITS))}", repr(split))
        if rotations not in ("task", "class", None):
            raise expected("Omniglot", "rotations 'task', 'class' or None", repr(rotations))
        if not isinstance(flat, bool):
            raise expected("Omniglot", "flat True or False", repr(flat), TypeError)
        if classes is not None and split != "train":
            raise expected("Omniglot", "split or classes", f"both, split={split!r}")
        for name, value in (("ways", ways), ("shots", shots), ("queries", queries), ("tasks", tasks)):
            whole("Omniglot", name, value)  # also checked by the draw, but a first decoding takes seconds
        seed_word("Omniglot", seed)
        seed_word("Omniglot", split_seed, "split_seed")
        listed, source = None, f"split {split!r}"
        if classes is not None:
            source = str(Path(classes)) if isinstance(classes, str | os.PathLike) else "classes"
            listed = _listed(classes, source, rotations)

        images, names = _load(root)
        known = {name: i for i, name in enumerate(names)}
        if listed is None:
            if split != "all" and len(names) != 1623:
                raise expected("Omniglot", f"1623 characters for split {split!r}", f"{len(names)} in {root}")
            order = shuffled(stream(split_seed, 0), len(names))[SPLITS[split]]
            listed = [(names[i], None) for i in sorted(order)]
        for name, _ in listed:
            if name not in known:
                raise expected("Omniglot", f"characters of the data in {source}", repr(name))
        if rotations == "class":
            pairs = [(name, k) for name, turn in listed for k in (range(4) if turn is None else (turn,))]
        else:
            pairs = [(name, 0) for name, _ in listed]
        self.class_names = [f"{name}/rot{90 * k:03d}" if rotations == "class" else name for name, k in pairs]
        self._draw = ClassDraw(
            "Omniglot",
            np.full(len(pairs), DRAWERS),
            self.class_names,
            source,
            ways=ways,
            shots=shots,
            queries=queries,
            tasks=tasks,
            seed=seed,
        )
        self.rotations = rotations
        self.image_shape = (SIDE * SIDE,) if flat else (SIDE, SIDE, 1)
        # Ink is 255 here. With "task" the pool holds all images four times, turn by turn: turning a batch instead
        # would cost more than the rest of the sampling.
        picked = 255 - images[[known[name] for name, _ in pairs]]
        if rotations == "class":
            turns = np.array([k for _, k in pairs])
            for k in (1, 2, 3):
                picked[turns == k] = np.rot90(picked[turns == k], k, axes=(2, 3))
        elif rotations == "task":
            picked = np.stack([np.rot90(picked, k, axes=(2, 3)) for k in range(4)])
        self._pool: NDArray[np.uint8] = np.ascontiguousarray(picked).reshape(-1, *self.image_shape)

    def batch(self, step: int) -> Episode:
        """Return the episodes of one step: x [tasks, ways * n, *image_shape] float32, labels [tasks, ways * n]."""
        rows, examples, bits = self._draw.draw(step)
        if self.rotations == "task":
            turns = (bits.random_raw(rows.size) >> np.uint64(62)).astype(np.int64).reshape(rows.shape)
            rows = rows + turns * len(self.class_names)
        support, query = self._draw.split(rows[:, :, None] * DRAWERS + examples)
        support_y, query_y = self._draw.labels()
        return Episode(self._images(support), support_y, self._images(query), query_y)

    def _images(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.divide(np.take(self._pool, rows, axis=0), np.float32(255), dtype=np.float32)


def _listed(
    classes: str | os.PathLike[str] | Sequence[str], source: str, rotations: str | None
) -> list[tuple[str, int | None]]:
    """(character, quarter turns or None) for each name, in a file for each line but blank lines and # comments."""
    if isinstance(classes, str | os.PathLike):
        path = Path(classes)
        if not path.is_file():
            raise expected("Omniglot", "classes a text file", f"no file at {path}", FileNotFoundError)
        classes = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        classes = [line for line in classes if line and not line.startswith("#")]
    listed: list[tuple[str, int | None]] = []
    for name in classes:
        match = LISTED.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise expected("Omniglot", f"names Alphabet/characterNN[/rot090] in {source}", repr(name))
        angle = match["angle"]
        if angle is not None and rotations != "class":
            raise expected(
                "Omniglot", f"rotations='class' for the rotations named in {source}", f"rotations={rotations!r}"
            )
        listed.append((match["name"], None if angle is None else int(angle) // 90))
    if not listed:
        raise expected("Omniglot", "at least one class", f"none in {source}")
    if len({turn is None for _, turn in listed}) > 1:
        raise expected("Omniglot", "a rotation in every name or in none", f"a mixture in {source}")
    if len(set(listed)) != len(listed):
        raise expected("Omniglot", "each class once", f"{len(listed) - len(set(listed))} repeated in {source}")
    return listed


def _load(root: str | os.PathLike[str] | None) -> tuple[NDArray[np.uint8], list[str]]:
    """Images [classes, 20, 28, 28], 255 paper and 0 ink, and the sorted names; from the cache if it has them."""
    cache = Path(os.environ.get("FASTMETA_CACHE") or Path.home() / ".cache" / "fastmeta") / "omniglot"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise expected("Omniglot", "a cache folder that can be made (FASTMETA_CACHE)", error, OSError) from error
    folder = _download(cache) if root is None else Path(root)
    sources = [_source(folder, part) for part in RELEASE]
    key = hashlib.sha256(DECODING.encode())
    for source in sources:
        _fingerprint(source, key)
    stored = cache / f"decoded-{key.hexdigest()[:32]}.npz"
    if stored.exists():
        import zipfile

        try:
            with np.load(stored, allow_pickle=False) as file:
                return file["images"], file["names"].tolist()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # damaged from outside: its contents can be made again
    images, names = _decode(sources)
    try:
        with replacing(stored) as out:
            np.savez(out, images=images, names=np.array(names))
    except OSError as error:
        raise expected("Omniglot", "a cache folder with room (FASTMETA_CACHE)", error, OSError) from error
    return images, names


def _source(folder: Path, part: str) -> Path:
    for source in (folder / f"{part}.zip", folder / part):
        if source.is_file() if source.suffix else source.is_dir():
            return source
    raise expected(
        "Omniglot",
        f"{part}.zip or a folder {part} in root",
        f"neither in {folder}" if folder.is_dir() else f"no folder at {folder}",
        FileNotFoundError,
        f"Get it from {RELEASE[part][0]}",
    )


def _download(cache: Path) -> Path:
    """Fetch the archives of the original release that the cache lacks; each is checked before it takes its name."""
    import http.client
    import urllib.request

    for part, (address, md5) in RELEASE.items():
        target = cache / f"{part}.zip"
        if target.exists():
            continue
        manual = f"Download {address} by hand into a folder and pass it as root"
        checksum = hashlib.md5(usedforsecurity=False)
        try:
            with replacing(target) as out, urllib.request.urlopen(address, timeout=60) as response:
                while chunk := response.read(1 << 20):
                    checksum.update(chunk)
                    out.write(chunk)
                if checksum.hexdigest() != md5:
                    raise expected("Omniglot", f"md5 {md5} of {address}", checksum.hexdigest(), ValueError, manual)
        except (OSError, http.client.HTTPException) as error:
            raise expected("Omniglot", f"to download {part}.zip", error, OSError, manual) from error
    return cache


def _fingerprint(source: Path, key: Any) -> None:
    """Feed what tells one source from another: an archive's bytes, or a folder's names, sizes and times."""
    if source.is_file():
        with open(source, "rb") as file:
            key.update(hashlib.file_digest(file, "sha256").digest())
        return
    for path in sorted(source.glob("*/*/*.png")):
        stat = path.stat()
        key.update(f"{path.relative_to(source).as_posix()} {stat.st_size} {stat.st_mtime_ns}\n".encode())


def _entries(source: Path) -> Iterator[tuple[str, bytes]]:
    """(path from images_... on, contents) of every PNG file in an archive or a folder, macOS's shadow files aside."""
    if source.is_dir():
        for path in sorted(source.glob("*/*/[!.]*.png")):
            yield f"{source.name}/{path.relative_to(source).as_posix()}", path.read_bytes()
        return
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                if name.endswith(".png") and not name.startswith("__MACOSX"):
                    yield name, archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise expected("Omniglot", f"a whole zip archive in {source}", f"{error} (truncated or damaged?)") from error


def _decode(sources: list[Path]) -> tuple[NDArray[np.uint8], list[str]]:
    """Decode every image; refuses files that are not Omniglot's and characters without their 20 images."""
    found: dict[str, dict[int, NDArray[np.uint8]]] = {}
    for source in sources:
        part, before = source.name.removesuffix(".zip"), len(found)
        for path, content in _entries(source):
            match = ENTRY.fullmatch(path)
            if match is None or match["part"] != part:
                raise expected("Omniglot", f"{part}/<Alphabet>/characterNN/XXXX_YY.png in {source}", repr(path))
            images = found.setdefault(match["name"], {})
            if int(match["drawer"]) in images:
                raise expected("Omniglot", f"one image of each drawer of {match['name']}", f"two at {path} in {source}")
            images[int(match["drawer"])] = _pixels(source, path, content)
        if len(found) == before:
            raise expected("Omniglot", f"{part}/<Alphabet>/characterNN/XXXX_YY.png in {source}", "no such file")
    names = sorted(found)
    for name in names:
        if sorted(found[name]) != list(range(1, DRAWERS + 1)):
            raise expected("Omniglot", f"images 01 to {DRAWERS} of {name}", f"{len(found[name])} images")
    return np.stack([np.stack([found[name][d] for d in range(1, DRAWERS + 1)]) for name in names]), names


def _pixels(source: Path, path: str, content: bytes) -> NDArray[np.uint8]:
    """One image [28, 28], grey levels."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            size = image.size
            # To grey first: Pillow does not filter 1-bit images but takes the nearest pixel.
            small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS) if size[0] == size[1] else None
    except (OSError, SyntaxError, ValueError) as error:
        raise expected("Omniglot", f"a PNG image at {path} in {source}", error) from error
    if small is None or size[0] != SOURCE_SIDE:
        raise expected("Omniglot", f"{SOURCE_SIDE}x{SOURCE_SIDE} pixels at {path} in {source}", f"{size[0]}x{size[1]}")
    return np.asarray(small)
