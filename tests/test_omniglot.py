"""Omniglot: images, rotations, class lists, cache and download, bad input, and the real data where they are."""

from __future__ import annotations

import doctest
import hashlib
import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
from episodes import same
from omniglot_archive import NAMES, drawing, entries, write_archives, write_folders
from PIL import Image

import fastmeta.data.omniglot
from fastmeta.data import Omniglot, vinyals

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "omniglot"
REAL_ROOTS = [REAL] if REAL.is_dir() else []


def expected_image(character: int, drawer: int) -> np.ndarray:
    small = drawing(character, drawer).convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    return 1 - np.asarray(small, np.float32) / 255


def test_omniglot_images_and_labels(root):
    sampler = Omniglot(root, split="all", ways=5, shots=2, queries=3, tasks=4, rotations=None)
    assert sampler.class_names == NAMES
    images = {expected_image(c, d).round(4).tobytes(): c for c in range(1, 9) for d in range(1, 21)}
    for episode in itertools.islice(sampler, 10):
        assert episode.support_x.shape == (4, 10, 28, 28, 1)
        assert episode.query_x.shape == (4, 15, 28, 28, 1)
        assert episode.support_x.dtype == np.float32
        assert episode.support_y.dtype == np.int32
        for task in range(4):
            of = [[images[image[..., 0].round(4).tobytes()] for image in x[task]] for x in episode[::2]]
            assert len(set(of[0])) == 5
            assert (np.repeat(of[0][::2], 2) == of[0]).all()
            assert (np.repeat(of[0][::2], 3) == of[1]).all()


def test_omniglot_flat_is_the_same_images(root):
    square, flat = (Omniglot(root, split="all", flat=f).batch(2) for f in (False, True))
    assert flat.support_x.shape == (32, 5, 784)
    np.testing.assert_array_equal(flat.support_x, square.support_x.reshape(32, 5, 784))


def corner(image: np.ndarray) -> int:
    """Quarter turns anticlockwise of a stroke that starts at the top left: the number of the inked corner."""
    return int(np.argmax([image[:6, :6].sum(), image[-6:, :6].sum(), image[-6:, -6:].sum(), image[:6, -6:].sum()]))


def test_task_rotations_are_drawn_per_class_and_task(root):
    episode = Omniglot(root, split="all", ways=4, shots=5, queries=5, tasks=100).batch(0)
    turns = np.array([[corner(i[..., 0]) for i in x] for x in np.concatenate([episode[0], episode[2]], 1)])
    turns = turns.reshape(100, 2, 4, 5)
    assert (turns == turns[:, :1, :, :1]).all()  # the same for all images of a class in a task, support and query
    assert (np.bincount(turns[:, 0, :, 0].ravel(), minlength=4) > 60).all()  # 100 expected of each
    assert len({tuple(row) for row in turns[:, 0, :, 0]}) > 50


def test_class_rotations_are_classes_of_their_own(root):
    sampler = Omniglot(root, split="all", ways=32, shots=1, queries=1, tasks=1, rotations="class")
    assert len(sampler.class_names) == 32
    assert sampler.class_names[:5] == [f"{NAMES[0]}/rot{a:03d}" for a in (0, 90, 180, 270)] + [f"{NAMES[1]}/rot000"]
    episode = sampler.batch(0)
    turns = [corner(i[..., 0]) for i in episode.support_x[0]]
    assert np.bincount(turns).tolist() == [8, 8, 8, 8]
    assert turns == [corner(i[..., 0]) for i in episode.query_x[0]]


def test_class_lists(root, tmp_path):
    plain, turned = tmp_path / "plain.txt", tmp_path / "turned.txt"
    plain.write_text(f"# two\n{NAMES[4]}\n\n{NAMES[1]}\n")
    turned.write_text(f"{NAMES[4]}/rot090\n{NAMES[4]}/rot180\n{NAMES[1]}/rot000\n")
    assert Omniglot(root, classes=plain, ways=2, rotations=None).class_names == [NAMES[4], NAMES[1]]
    assert Omniglot(root, classes=(NAMES[4], NAMES[1]), ways=2, rotations=None).class_names == [NAMES[4], NAMES[1]]
    assert len(Omniglot(root, classes=plain, ways=2, rotations="class").class_names) == 8
    sampler = Omniglot(root, classes=turned, ways=3, rotations="class")
    assert sampler.class_names == [f"{NAMES[4]}/rot090", f"{NAMES[4]}/rot180", f"{NAMES[1]}/rot000"]
    assert sorted(corner(i[..., 0]) for i in sampler.batch(0).support_x[0]) == [0, 1, 2]


def test_folders_and_archives_in_any_order_give_the_same_batches(root, tmp_path):
    shuffled = write_archives(tmp_path / "shuffled", order_seed=3)
    folders = write_folders(tmp_path / "folders")
    batches = [Omniglot(r, split="all").batch(1) for r in (root, shuffled, folders)]
    assert same(batches[0], batches[1])
    assert same(batches[0], batches[2])


def test_images_are_decoded_once(root, empty_cache, monkeypatch):
    before = Omniglot(root, split="all").batch(0)
    assert [p.suffix for p in empty_cache.iterdir()] == [".npz"]
    monkeypatch.setattr(fastmeta.data.omniglot, "_decode", lambda sources: pytest.fail("decoded again"))
    assert same(before, Omniglot(root, split="all").batch(0))


def test_another_source_is_decoded_anew_and_a_damaged_cache_too(root, empty_cache, tmp_path):
    first = Omniglot(root, split="all", ways=8, tasks=1, rotations=None).batch(0)
    files = entries()
    swap = [name for name in files if name.endswith("_01.png")][:2]
    files[swap[0]], files[swap[1]] = files[swap[1]], files[swap[0]]  # same names, other contents
    other = write_archives(tmp_path / "other", files)
    Omniglot(other, split="all")
    stored = sorted(empty_cache.iterdir())
    assert len(stored) == 2
    for path in stored:
        path.write_bytes(path.read_bytes()[:-1000])
    assert same(first, Omniglot(root, split="all", ways=8, tasks=1, rotations=None).batch(0))


def test_a_failed_decoding_leaves_nothing_behind(empty_cache, tmp_path):
    files = entries()
    files["images_evaluation/Tengwar/character03/0008_20.png"] = b"not an image"
    with pytest.raises(ValueError, match=r"PNG image at images_evaluation/Tengwar/character03/0008_20.png"):
        Omniglot(write_archives(tmp_path / "bad", files), split="all")
    assert list(empty_cache.iterdir()) == []


def test_download_checks_and_keeps_the_archives(root, empty_cache, monkeypatch):
    release = {
        part: (path.as_uri(), hashlib.md5(path.read_bytes()).hexdigest())
        for part in fastmeta.data.omniglot.RELEASE
        for path in [root / f"{part}.zip"]
    }
    monkeypatch.setattr(fastmeta.data.omniglot, "RELEASE", release)
    assert same(Omniglot(split="all").batch(0), Omniglot(root, split="all").batch(0))
    gone = {part: ("file:///nowhere/x.zip", md5) for part, (_, md5) in release.items()}
    monkeypatch.setattr(fastmeta.data.omniglot, "RELEASE", gone)
    Omniglot(split="all")  # the kept archives serve


def test_download_of_something_else_is_refused(root, empty_cache, monkeypatch):
    wrong = {part: ((root / f"{part}.zip").as_uri(), "0" * 32) for part in fastmeta.data.omniglot.RELEASE}
    monkeypatch.setattr(fastmeta.data.omniglot, "RELEASE", wrong)
    with pytest.raises(ValueError, match=r"expected md5 0{32} of .*, got .*Download .* by hand .* pass it as root"):
        Omniglot(split="all")
    assert list(empty_cache.iterdir()) == []


def test_failed_download_says_what_to_do(empty_cache, monkeypatch):
    gone = {part: (f"file:///nowhere/{part}.zip", "0" * 32) for part in fastmeta.data.omniglot.RELEASE}
    monkeypatch.setattr(fastmeta.data.omniglot, "RELEASE", gone)
    with pytest.raises(OSError, match=r"to download images_background.zip, got .*by hand into a folder .* as root"):
        Omniglot(split="all")
    assert list(empty_cache.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_named(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTMETA_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"expected a cache folder that can be made \(FASTMETA_CACHE\)"):
        Omniglot(root, split="all")


def broken_archives(folder: Path, kind: str) -> Path:
    files = entries()
    if kind == "foreign":
        files = {"images_background/photo.png": b"", **files}
    elif kind == "empty":
        files = {name: content for name, content in files.items() if "evaluation" not in name}
    elif kind == "missing image":
        del files["images_background/Korean/character02/0002_07.png"]
    elif kind == "other size":
        small = folder.parent / "small.png"
        Image.new("1", (28, 28)).save(small)
        files["images_background/Korean/character01/0001_01.png"] = small.read_bytes()
    write_archives(folder, files)
    archive = folder / "images_background.zip"
    content = archive.read_bytes()
    if kind == "truncated":
        archive.write_bytes(content[: len(content) // 2])
    elif kind == "damaged":
        middle = len(content) // 3
        archive.write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    elif kind == "a page":
        archive.write_text("<html>404</html>")
    elif kind == "one missing":
        (folder / "images_evaluation.zip").unlink()
    return folder


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("truncated", ValueError, r"a whole zip archive in .*images_background.zip, got .*truncated"),
        ("damaged", ValueError, r"images_background.zip, got "),
        ("a page", ValueError, r"a whole zip archive in .*images_background.zip, got File is not a zip file"),
        ("one missing", FileNotFoundError, r"images_evaluation.zip or a folder images_evaluation in root, got neither"),
        (
            "foreign",
            ValueError,
            r"images_background/<Alphabet>/characterNN/XXXX_YY.png in .*, got 'images_background/p",
        ),
        ("empty", ValueError, r"images_evaluation/<Alphabet>/.*images_evaluation.zip, got no such file"),
        ("missing image", ValueError, r"images 01 to 20 of Korean/character02, got 19 images"),
        ("other size", ValueError, r"105x105 pixels at images_background/Korean/character01/0001_01.png.*got 28x28"),
    ],
)
def test_broken_archives_are_named(tmp_path, empty_cache, kind, error, message):
    with pytest.raises(error, match=r"^\[Omniglot\] expected .*" + message):
        Omniglot(broken_archives(tmp_path / "archives", kind), split="all")
    assert list(empty_cache.iterdir()) == []


def test_omniglot_example_runs(root):
    """The docstring's example, which a doctest run without data passes over."""
    (example,) = doctest.DocTestFinder(recurse=False).find(
        Omniglot, "Omniglot", globs={"Omniglot": Omniglot, "root": root}
    )
    for line in example.examples:
        assert line.options.pop(doctest.SKIP)
    assert doctest.DocTestRunner().run(example) == (0, 2)


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "val"}, ValueError, r"split one of 'train', 'validation', 'test', 'all', got 'val'"),
        ({"split": "train"}, ValueError, r"1623 characters for split 'train', got 8 in "),
        ({"rotations": "yes"}, ValueError, r"rotations 'task', 'class' or None, got 'yes'"),
        ({"rotations": True}, ValueError, r"rotations 'task', 'class' or None, got True"),
        ({"flat": 1}, TypeError, r"flat True or False, got 1"),
        ({"ways": 9}, ValueError, r"ways at most 8, the number of classes in split 'all', got 9"),
        ({"ways": 33, "rotations": "class"}, ValueError, r"ways at most 32, .* got 33"),
        ({"shots": 10, "queries": 11}, ValueError, r"10 \+ 11 = 21 examples in every class, got 20 in class 'Angelic/"),
        ({"ways": 0}, ValueError, r"ways at least 1, got 0"),
        ({"shots": 0}, ValueError, r"shots at least 1, got 0"),
        ({"queries": 0}, ValueError, r"queries at least 1, got 0"),
        ({"tasks": 0}, ValueError, r"tasks at least 1, got 0"),
        ({"seed": -1}, ValueError, r"seed at least 0, got -1"),
        ({"split_seed": 0.5}, TypeError, r"split_seed a whole number, got 0.5"),
        (
            {"root": "/nowhere"},
            FileNotFoundError,
            r"images_background.zip .*, got no folder at .*nowhere\. Get it from",
        ),
    ],
)
def test_bad_omniglot_options_are_refused_at_construction(root, options, error, message):
    with pytest.raises(error, match=r"^\[Omniglot\] expected .*" + message):
        Omniglot(**({"root": root, "split": "all"} | options))


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (None, {}, FileNotFoundError, r"classes a text file, got no file at"),
        ("", {}, ValueError, r"at least one class, got none"),
        ("Korean\n", {}, ValueError, r"names Alphabet/characterNN\[/rot090\] in .*list.txt, got 'Korean'"),
        ("# x\nKorean/character01/rot45\n", {}, ValueError, r"got 'Korean/character01/rot45'"),
        ("Korean/character77\n", {}, ValueError, r"characters of the data in .*, got 'Korean/character77'"),
        ("Korean/character01\nKorean/character01\n", {}, ValueError, r"each class once, got 1 repeated"),
        (
            "Korean/character01/rot090\n",
            {},
            ValueError,
            r"rotations='class' for the rotations named in .*list.txt, got .*'task'",
        ),
        (
            "Korean/character01/rot090\nKorean/character02\n",
            {"rotations": "class"},
            ValueError,
            r"a rotation in every name or in none",
        ),
        (
            "Korean/character01\n",
            {"ways": 2},
            ValueError,
            r"ways at most 1, the number of classes in .*list.txt, got 2",
        ),
        ("Korean/character01\n", {"split": "test"}, ValueError, r"split or classes, got both, split='test'"),
    ],
)
def test_bad_class_lists_are_refused(root, tmp_path, text, options, error, message):
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=r"^\[Omniglot\] expected .*" + message):
        Omniglot(root, classes=path, **options)


# ---------------------------------------------------------------------------------------------------- the real data


@pytest.mark.parametrize("real", REAL_ROOTS, ids=str)
def test_real_omniglot(real):
    whole = Omniglot(real, split="all", rotations=None)
    assert len(whole.class_names) == 1623
    assert whole._pool.shape == (32460, 28, 28, 1)
    splits = {s: Omniglot(real, split=s, rotations=None).class_names for s in ("train", "validation", "test")}
    assert {s: len(names) for s, names in splits.items()} == {"train": 1100, "validation": 100, "test": 423}
    assert sorted(itertools.chain(*splits.values())) == whole.class_names
    assert Omniglot(real, split="test", rotations=None, split_seed=1).class_names != splits["test"]
    assert 0.05 < whole._pool.mean() / 255 < 0.12  # ink is sparse, so images are not inverted
    background = whole._pool[:, 0, 0, 0]
    assert (background == 0).mean() > 0.99
    # One image, decoded on its own.
    first = whole.class_names.index("Alphabet_of_the_Magi/character01")
    with zipfile.ZipFile(real / "images_background.zip") as archive:
        content = archive.read("images_background/Alphabet_of_the_Magi/character01/0709_20.png")
    image = Image.open(io.BytesIO(content))
    assert (image.mode, image.size) == ("1", (105, 105))
    small = np.asarray(image.convert("L").resize((28, 28), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(whole._pool[first * 20 + 19, :, :, 0], 255 - small)


@pytest.mark.parametrize("names", [[], [3], ["Korean"]], ids=str)
def test_bad_names_of_classes_are_refused(root, names):
    with pytest.raises(ValueError, match=r"^\[Omniglot\] expected .*(in classes, got (3|'Korean')|got none in classes)"):
        Omniglot(root, classes=names)


@pytest.mark.parametrize("real", REAL_ROOTS, ids=str)
def test_real_vinyals_splits(real):
    """They are the lists that lie beside the data, turned, and together all characters."""
    for split, file, classes in [("train", "train", 1028 * 4), ("validation", "val", 172 * 4), ("test", "test", 423 * 4)]:
        path = real / "splits" / "vinyals" / f"{file}.txt"
        options = {"ways": 60, "shots": 1, "queries": 5, "tasks": 1, "rotations": "class"}
        sampler = Omniglot(real, classes=vinyals(split), **options)
        assert sampler.class_names == path.read_text().split() and len(sampler.class_names) == classes
        assert same(sampler.batch(0), Omniglot(real, classes=path, **options).batch(0))
    characters = [c for split in ("train", "validation", "test") for c in vinyals(split)]
    assert sorted(characters) == Omniglot(real, split="all", rotations=None).class_names


def test_there_are_three_vinyals_splits():
    with pytest.raises(ValueError, match=r"^\[vinyals\] expected split one of 'train', 'validation', 'test', got 'val'"):
        vinyals("val")
