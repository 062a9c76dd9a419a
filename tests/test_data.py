"""Samplers: shapes, seeds, protocols, bad input."""

from __future__ import annotations

import doctest
import hashlib
import io
import itertools
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import optree
import pytest
from omniglot_archive import NAMES, drawing, entries, write_archives, write_folders
from PIL import Image

import fastmeta.atomic
import fastmeta.data.omniglot
import fastmeta.data.prefetch
import fastmeta.data.sampler
import fastmeta.data.sinusoid
import fastmeta.errors
from fastmeta.data import Episode, EpisodeSampler, Omniglot, Prefetch, Sampler, Sinusoid
from fastmeta.data.sampler import distinct, stream
from fastmeta.errors import DivergedError, expected

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "omniglot"
REAL_ROOTS = [REAL] if REAL.is_dir() else []


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A small data set: 8 characters of 3 alphabets, 20 images each."""
    return write_archives(tmp_path_factory.mktemp("small"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One cache folder for the session; a test that needs an empty one sets its own."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("FASTMETA_CACHE", str(folder))
    return folder


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMETA_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache" / "omniglot"


def numbered(classes=7, each=9, features=3):
    """x whose first feature is the example's number and second its class; y the class."""
    y = np.arange(classes * each) % classes
    x = np.zeros((len(y), features), np.float32)
    x[:, 0], x[:, 1] = np.arange(len(y)), y
    return x, y


def sampler_of_each_kind(root):
    x, y = numbered()
    return {
        "sinusoid": Sinusoid(tasks=3, shots=2, queries=4, seed=5),
        "omniglot": Omniglot(root, split="all", ways=3, queries=2, tasks=3, seed=5),
        "arrays": EpisodeSampler.from_arrays(x, y, ways=3, shots=2, queries=1, tasks=4, seed=5),
    }


def same(a: Episode, b: Episode) -> bool:
    return all(u.dtype == v.dtype and np.array_equal(u, v) for u, v in zip(a, b, strict=True))


# ---------------------------------------------------------------------------------------------------- every sampler


@pytest.mark.parametrize("kind", ["sinusoid", "omniglot", "arrays"])
def test_a_step_is_the_same_whichever_way_it_is_reached(root, kind):
    first, again = sampler_of_each_kind(root)[kind], sampler_of_each_kind(root)[kind]
    in_order = list(itertools.islice(first, 200))
    for step in (199, 0, 64, 63, 130, 1):
        assert same(again.batch(step), in_order[step])
    assert not same(in_order[0], in_order[1])


@pytest.mark.parametrize("kind", ["sinusoid", "omniglot", "arrays"])
def test_writing_into_a_batch_changes_no_later_batch(root, kind):
    sampler = sampler_of_each_kind(root)[kind]
    kept = [array.copy() for array in sampler.batch(3)]
    for array in sampler.batch(3):
        array[...] = 9
    assert same(sampler.batch(3), Episode(*kept))


@pytest.mark.parametrize("kind", ["sinusoid", "omniglot", "arrays"])
def test_batches_are_contiguous_pytrees_of_four_arrays(root, kind):
    episode = sampler_of_each_kind(root)[kind].batch(0)
    leaves = optree.tree_leaves(episode)
    assert [leaf is part for leaf, part in zip(leaves, episode, strict=True)] == [True] * 4
    assert all(leaf.flags.c_contiguous and leaf.flags.writeable for leaf in leaves)
    assert type(optree.tree_map(lambda a: a[0], episode)) is Episode


def test_seeds_differ(root):
    x, y = numbered()
    assert not same(Sinusoid(seed=0).batch(0), Sinusoid(seed=1).batch(0))
    pair = [EpisodeSampler.from_arrays(x, y, ways=3, shots=1, queries=1, tasks=9, seed=s).batch(0) for s in (0, 1)]
    assert not same(*pair)
    pair = [Omniglot(root, split="all", seed=s).batch(0) for s in (0, 2**64 - 1)]
    assert not same(*pair)


def test_streams_are_pinned():
    """A published run can be drawn again by every later version: these digests never change."""
    x, y = numbered()
    episode = EpisodeSampler.from_arrays(x, y, ways=3, shots=2, queries=2, tasks=4, seed=7).batch(11)
    assert episode.support_x[0, :, 0].tolist() == [40, 5, 21, 7, 57, 1]
    digest = hashlib.sha256(Sinusoid(seed=7).batch(100).support_x.tobytes()).hexdigest()
    assert digest[:16] == "8c5d49e7ec7a5e47"
    assert np.argsort(stream(0, 0).random_raw(1623), kind="stable")[:5].tolist() == [1051, 998, 162, 670, 664]


# ---------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize(("size", "k"), [(1, 1), (2, 2), (5, 1), (5, 3), (5, 5), (20, 6)])
def test_distinct_draws_are_distinct_and_uniform(size, k):
    seed = 20240
    print(f"seed={seed}")
    rows = 20000
    drawn = distinct(stream(seed, 0), np.full(rows, size, np.uint64), k)
    assert drawn.shape == (rows, k)
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    assert drawn.min() >= 0
    assert drawn.max() < size
    for position in range(k):  # every number in every position equally often: the order is uniform too
        share = np.bincount(drawn[:, position], minlength=size) / rows
        assert np.abs(share - 1 / size).max() < 5 * np.sqrt(1 / size / rows)


def test_distinct_respects_each_rows_size():
    sizes = np.array([2, 3, 50, 2**31], np.uint64)
    seen = np.stack([distinct(stream(1, step), sizes, 2) for step in range(500)])
    assert (seen < sizes.astype(np.int64)[:, None]).all()
    assert seen[:, 3].max() > 2**30


# ---------------------------------------------------------------------------------------------------- sinusoid


def test_sinusoid_episodes_are_sinusoids_in_the_papers_ranges():
    seed = 31
    print(f"seed={seed}")
    amplitudes, phases, xs = [], [], []
    for episode in itertools.islice(Sinusoid(shots=5, queries=15, seed=seed), 40):
        assert [a.shape for a in episode] == [(25, 5, 1), (25, 5, 1), (25, 15, 1), (25, 15, 1)]
        assert {a.dtype for a in episode} == {np.dtype(np.float32)}
        x = np.concatenate([episode.support_x, episode.query_x], axis=1)[..., 0].astype(np.float64)
        y = np.concatenate([episode.support_y, episode.query_y], axis=1)[..., 0]
        for xt, yt in zip(x, y, strict=True):  # A sin(x - p) = A cos(p) sin(x) - A sin(p) cos(x), support and query
            basis = np.stack([np.sin(xt), np.cos(xt)], axis=1)
            (u, v), *_ = np.linalg.lstsq(basis, yt)
            assert np.abs(basis @ [u, v] - yt).max() < 1e-5
            amplitudes.append(np.hypot(u, v))
            phases.append(np.arctan2(-v, u))
        xs.append(x)
    for values, low, high in ((amplitudes, 0.1, 5), (phases, 0, np.pi), (np.concatenate(xs), -5, 5)):
        assert low - 1e-4 <= np.min(values) <= low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) <= np.max(values) <= high + 1e-4
        assert abs(np.mean(values) - (low + high) / 2) < 0.05 * (high - low)


def test_sinusoid_ranges_can_be_chosen():
    episode = Sinusoid(amplitude=(2, 2), phase=(0, 0), x_range=(1, 2), seed=3).batch(0)
    np.testing.assert_allclose(episode.support_y, 2 * np.sin(episode.support_x), rtol=1e-6)
    assert episode.query_x.min() >= 1
    assert episode.query_x.max() <= 2


@pytest.mark.parametrize("tasks", [1, 3000])
def test_sinusoid_of_few_and_of_many_tasks(tasks):
    sampler = Sinusoid(tasks=tasks, shots=1, queries=1)
    assert sampler.batch(0).support_x.shape == (tasks, 1, 1)
    assert not same(sampler.batch(0), sampler.batch(1))


# ---------------------------------------------------------------------------------------------------- arrays


def test_episodes_from_arrays_follow_the_protocol():
    x, y = numbered(classes=7, each=9)
    sampler = EpisodeSampler.from_arrays(x, y, ways=4, shots=2, queries=3, tasks=6, seed=1)
    classes_seen, examples_seen = set(), set()
    for episode in itertools.islice(sampler, 50):
        assert episode.support_x.shape == (6, 8, 3)
        assert episode.query_x.shape == (6, 12, 3)
        assert episode.support_y.dtype == episode.query_y.dtype == np.int32
        assert (episode.support_y == np.repeat(np.arange(4), 2)).all()
        assert (episode.query_y == np.repeat(np.arange(4), 3)).all()
        for task in range(6):
            support, query = episode.support_x[task], episode.query_x[task]
            of_label = support[::2, 1]
            assert len(set(of_label)) == 4  # distinct classes, and the same class under each label
            assert (support[:, 1] == np.repeat(of_label, 2)).all()
            assert (query[:, 1] == np.repeat(of_label, 3)).all()
            examples = [*support[:, 0], *query[:, 0]]
            assert len(set(examples)) == 20  # no example twice
            classes_seen.update(of_label)
            examples_seen.update(examples)
    assert len(classes_seen) == 7
    assert len(examples_seen) == 63


def test_classes_limit_the_draw_whatever_their_order():
    x, y = numbered()
    names = np.array(list("abcdefg"))[y]
    make = [
        EpisodeSampler.from_arrays(x, names, ways=2, shots=1, queries=1, tasks=50, classes=c) for c in ("bdf", "fdb")
    ]
    assert make[0].class_names == ["b", "d", "f"]
    assert set(make[0].batch(0).support_x[..., 1].ravel()) == {1, 3, 5}
    assert same(make[0].batch(4), make[1].batch(4))


def test_classes_of_uneven_size():
    y = np.repeat([10, 20, 30], [2, 5, 1000])
    x = y.astype(np.float32)[:, None]
    sampler = EpisodeSampler.from_arrays(x, y, ways=3, shots=1, queries=1, tasks=8)
    assert set(sampler.batch(0).support_x.ravel()) == {10, 20, 30}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("given", ["uint8", "int64", "bool"])
def test_x_has_the_dtype_asked_for(given, dtype):
    x, y = np.ones((6, 4, 2), given), [0, 1] * 3
    episode = EpisodeSampler.from_arrays(x, y, ways=2, shots=1, queries=1, dtype=dtype).batch(0)
    assert episode.support_x.dtype == episode.query_x.dtype == dtype
    assert episode.support_x.shape == (1, 2, 4, 2)


def test_targets_replace_labels_for_regression():
    x, group = numbered(classes=5, each=10)
    sampler = EpisodeSampler.from_arrays(x, group, ways=1, shots=3, queries=4, tasks=2, targets=x[:, :1] * 2.0)
    episode = sampler.batch(0)
    np.testing.assert_array_equal(episode.support_y, episode.support_x[..., :1] * 2)
    np.testing.assert_array_equal(episode.query_y, episode.query_x[..., :1] * 2)
    assert episode.support_y.dtype == np.float32


def test_arrays_are_kept_by_reference():
    x, y = numbered()
    sampler = EpisodeSampler.from_arrays(x, y, ways=2, shots=1, queries=1)
    x[:, 2] = 5
    assert (sampler.batch(0).support_x[..., 2] == 5).all()


# ---------------------------------------------------------------------------------------------------- omniglot


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


@pytest.mark.parametrize(
    "module",
    [
        fastmeta.atomic,
        fastmeta.errors,
        fastmeta.data.episode,
        fastmeta.data.prefetch,
        fastmeta.data.sampler,
        fastmeta.data.sinusoid,
    ],
    ids=lambda module: module.__name__,
)
def test_examples_run(module):
    failed, run = doctest.testmod(module)
    assert (failed, run > 0) == (0, True)


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


@pytest.mark.parametrize("real", REAL_ROOTS, ids=str)
@pytest.mark.parametrize(("name", "classes"), [("train", 1028 * 4), ("val", 172 * 4), ("test", 423 * 4)])
def test_real_class_lists(real, name, classes):
    path = real / "splits" / "vinyals" / f"{name}.txt"
    sampler = Omniglot(real, classes=path, ways=60, shots=1, queries=5, tasks=1, rotations="class")
    assert sampler.class_names == path.read_text().split()
    assert len(sampler.class_names) == classes
    episode = sampler.batch(0)
    assert episode.query_x.shape == (1, 300, 28, 28, 1)
    assert episode.query_x.min() >= 0
    assert episode.query_x.max() == 1


# ---------------------------------------------------------------------------------------------------- prefetch


class Recording(Sampler):
    """Episodes that hold their step; notes who built what."""

    def __init__(self, fail_at=None, delay=0.0):
        self.built, self.threads, self.fail_at, self.delay = [], set(), fail_at, delay

    def batch(self, step):
        time.sleep(self.delay)
        self.built.append(step)
        self.threads.add(threading.current_thread().name)
        if step == self.fail_at:
            raise KeyError(f"step {step}")
        return Episode(*[np.full((1, 1), step)] * 4)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_prefetch_gives_the_same_batches(depth):
    plain = Sinusoid(seed=3)
    with Prefetch(Sinusoid(seed=3), depth) as ahead:
        for step, episode in enumerate(itertools.islice(ahead, 70)):
            assert same(episode, plain.batch(step))
        for step in (500, 501, 3, 69, 70):
            assert same(ahead.batch(step), plain.batch(step))


def test_prefetch_builds_ahead_in_its_own_thread_and_resumes_anywhere():
    sampler = Recording()
    with Prefetch(sampler, depth=3, start=40) as ahead:
        assert int(next(iter(ahead)).support_x[0, 0]) == 40
        deadline = time.monotonic() + 10
        while len(sampler.built) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert sampler.built == [40, 41, 42, 43]
    assert len(sampler.threads) == 1
    assert threading.current_thread().name not in sampler.threads


def test_prefetch_raises_an_exception_at_its_own_step():
    with Prefetch(Recording(fail_at=2)) as ahead:
        assert int(ahead.batch(0).query_y[0, 0]) == 0
        assert int(ahead.batch(1).query_y[0, 0]) == 1
        with pytest.raises(KeyError, match="step 2"):
            ahead.batch(2)
        assert int(ahead.batch(3).query_y[0, 0]) == 3


def test_prefetch_ends_its_thread():
    before = threading.active_count()
    ahead = Prefetch(Recording(delay=0.01), depth=8)
    ahead.batch(0)
    assert threading.active_count() == before + 1
    ahead.close()
    ahead.close()
    assert threading.active_count() == before
    assert len(ahead.sampler.built) <= 3  # what was queued is dropped, not built
    with pytest.raises(ValueError, match=r"\[Prefetch\] expected an open Prefetch"):
        ahead.batch(1)


# ---------------------------------------------------------------------------------------------------- bad input

X, Y = np.zeros((6, 2), np.float32), np.array([0, 0, 0, 1, 1, 2])
ARRAYS = {"x": X, "y": Y, "ways": 2, "shots": 1, "queries": 1, "classes": [0, 1]}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"ways": 3}, ValueError, r"ways at most 2, the number of classes in classes, got 3"),
        ({"ways": 4, "classes": None}, ValueError, r"ways at most 3, the number of classes in y, got 4"),
        ({"shots": 2}, ValueError, r"shots \+ queries = 2 \+ 1 = 3 examples in every class, got 2 in class 1"),
        (
            {"shots": 3, "queries": 4, "classes": None},
            ValueError,
            r"= 7 examples .* got 3 in class 0 \(and 2 more classes with too few\)",
        ),
        ({"shots": 0}, ValueError, r"shots at least 1, got 0"),
        ({"queries": 0}, ValueError, r"queries at least 1, got 0"),
        ({"ways": -1}, ValueError, r"ways at least 1, got -1"),
        ({"ways": 2.0}, TypeError, r"ways a whole number, got 2.0 \(float\)"),
        ({"ways": True}, TypeError, r"ways a whole number, got True \(bool\)"),
        ({"tasks": 0}, ValueError, r"tasks at least 1, got 0"),
        ({"seed": -1}, ValueError, r"seed at least 0, got -1"),
        ({"seed": 2**64}, ValueError, r"seed below 18446744073709551616"),
        ({"seed": "a"}, TypeError, r"seed a whole number, got 'a'"),
        ({"classes": [0, 7]}, ValueError, r"classes that occur in y, got 7"),
        ({"classes": [0, 0, 1]}, ValueError, r"each of classes once, got 1 repeated"),
        ({"y": Y[:5]}, ValueError, r"x of shape \[5, \.\.\.\], as many examples as y has, got \[6, 2\]"),
        ({"y": Y[:, None]}, ValueError, r"y of shape \[examples\], got \[6, 1\]"),
        ({"y": Y + 0.5}, TypeError, r"y of whole numbers or strings, got float64"),
        ({"x": np.array(["a"] * 6)}, TypeError, r"x an array of numbers, got <U1"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, r"at least one example, got 0"),
        ({"dtype": "float16"}, ValueError, r"dtype 'float32', 'float64' or 'int32', got 'float16'"),
        ({"dtype": "int32"}, TypeError, r"whole numbers in x for dtype 'int32', got float32"),
        ({"dtype": "int32", "x": np.full((6, 1), 2**31)}, ValueError, r"x within int32, got values from 2147483648"),
        ({"targets": np.zeros(5)}, ValueError, r"targets of shape \[6, \.\.\.\], got \[5\]"),
        ({"targets": ["a"] * 6}, TypeError, r"targets an array of numbers, got <U1"),
    ],
)
def test_bad_arrays_are_refused_at_construction(changed, error, message):
    EpisodeSampler.from_arrays(**ARRAYS)
    with pytest.raises(error, match=r"^\[EpisodeSampler.from_arrays\] expected .*" + message):
        EpisodeSampler.from_arrays(**(ARRAYS | changed))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shots": 0}, ValueError, r"shots at least 1, got 0"),
        ({"queries": -2}, ValueError, r"queries at least 1, got -2"),
        ({"tasks": 1.5}, TypeError, r"tasks a whole number, got 1.5"),
        ({"seed": None}, TypeError, r"seed a whole number, got None"),
        ({"amplitude": 5}, TypeError, r"amplitude a pair of numbers \(low, high\), got 5"),
        ({"phase": (1, 0)}, ValueError, r"phase finite with low <= high, got \(1, 0\)"),
        ({"x_range": (0, float("inf"))}, ValueError, r"x_range finite with low <= high"),
    ],
)
def test_bad_sinusoids_are_refused_at_construction(options, error, message):
    with pytest.raises(error, match=r"^\[Sinusoid\] expected " + message):
        Sinusoid(**options)


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
        ("Korean\n", {}, ValueError, r"got 'Korean' in line 1"),
        ("# x\nKorean/character01/rot45\n", {}, ValueError, r"got 'Korean/character01/rot45' in line 2"),
        ("Korean/character77\n", {}, ValueError, r"characters of the data in .*, got 'Korean/character77'"),
        ("Korean/character01\nKorean/character01\n", {}, ValueError, r"each class once, got 1 repeated"),
        (
            "Korean/character01/rot090\n",
            {},
            ValueError,
            r"rotations='class' for a list that names rotations, got .*'task'",
        ),
        (
            "Korean/character01/rot090\nKorean/character02\n",
            {"rotations": "class"},
            ValueError,
            r"a rotation in every line or in none",
        ),
        (
            "Korean/character01\n",
            {"ways": 2},
            ValueError,
            r"ways at most 1, the number of classes in .*list.txt, got 2",
        ),
        ("Korean/character01\n", {"split": "test"}, ValueError, r"split or classes, got both: split='test'"),
    ],
)
def test_bad_class_lists_are_refused(root, tmp_path, text, options, error, message):
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=r"^\[Omniglot\] expected .*" + message):
        Omniglot(root, classes=path, **options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Prefetch([1, 2]), TypeError, r"\[Prefetch\] expected a sampler with batch\(step\), got list"),
        (lambda: Prefetch(Sinusoid(), 0), ValueError, r"\[Prefetch\] expected depth at least 1, got 0"),
        (lambda: Prefetch(Sinusoid(), start=-1), ValueError, r"\[Prefetch\] expected start at least 0, got -1"),
        (lambda: Sinusoid().batch(-1), ValueError, r"\[Sinusoid\] expected step at least 0, got -1"),
        (lambda: Sinusoid().batch(0.0), TypeError, r"\[Sinusoid\] expected step a whole number, got 0.0"),
        (
            lambda: EpisodeSampler.from_arrays(**ARRAYS).batch("1"),
            TypeError,
            r"\[EpisodeSampler.from_arrays\] expected step a whole number, got '1'",
        ),
    ],
)
def test_bad_prefetch_and_steps(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_importing_data_pulls_in_no_decoder_or_network():
    names = "('PIL', 'safetensors', 'urllib.request', 'torch', 'jax')"
    code = f"import sys, fastmeta.data, fastmeta.train.checkpoint; print([m for m in {names} if m in sys.modules])"
    folder = Path(fastmeta.errors.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_errors_say_where_what_and_got():
    error = expected("here", "a", "b", TypeError, "Try c")
    assert type(error) is TypeError
    assert str(error) == "[here] expected a, got b. Try c"
    diverged = pickle.loads(pickle.dumps(DivergedError("MAML", 3, 2, float("nan"))))
    assert (diverged.task, diverged.inner_step, diverged.step) == (3, 2, None)
    assert str(diverged) == "[MAML] expected finite losses, got nan in task 3 at inner step 2"
    assert isinstance(diverged, RuntimeError)
