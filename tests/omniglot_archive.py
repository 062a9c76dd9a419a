"""Makes a small data set in the format of Omniglot's archives."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PARTS = {
    "images_background": {"Korean": 3, "Angelic": 2},
    "images_evaluation": {"Tengwar": 3},
}
NAMES = sorted(f"{a}/character{c:02d}" for part in PARTS.values() for a, n in part.items() for c in range(1, n + 1))


def drawing(character: int, drawer: int) -> Image.Image:
    """A 105x105 1-bit image, paper white: one thick stroke that starts at the top left, unique to its arguments."""
    image = Image.new("1", (105, 105), 1)
    ImageDraw.Draw(image).line([(10, 10), (20 + 9 * character, 15 + 3 * drawer)], fill=0, width=5)
    return image


def entries(drawers: int = 20) -> dict[str, bytes]:
    """Path inside the archives -> contents of a PNG file."""
    files, character = {}, 0
    for part, alphabets in PARTS.items():
        for alphabet, characters in alphabets.items():
            for c in range(1, characters + 1):
                character += 1
                for drawer in range(1, drawers + 1):
                    content = io.BytesIO()
                    drawing(character, drawer).save(content, "PNG")
                    name = f"{part}/{alphabet}/character{c:02d}/{character:04d}_{drawer:02d}.png"
                    files[name] = content.getvalue()
    return files


def write_archives(folder: Path, files: dict[str, bytes] | None = None, *, order_seed: int | None = None) -> Path:
    """Write images_background.zip and images_evaluation.zip, entries in the given or a shuffled order."""
    files = entries() if files is None else files
    names = list(files)
    if order_seed is not None:
        names = [names[i] for i in np.random.default_rng(order_seed).permutation(len(names))]
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        with zipfile.ZipFile(folder / f"{part}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                if name.startswith(part):
                    archive.writestr(name, files[name])
    return folder


def write_folders(folder: Path) -> Path:
    """Write the same images as unpacked folders."""
    for name, content in entries().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
