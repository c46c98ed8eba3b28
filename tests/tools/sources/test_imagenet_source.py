"""ImageNet's archives and tree, in the official byte layouts and with its odd pictures, give the same samples."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_sample_images

from headrace.shards import open_shards
from headrace.shards.formats.tar import BLOCK
from headrace.shards.manifest import Format
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample, SourceData, imagenet

CLASSES = {"n01440764": (3, "tench, Tinca tinca"), "n02105855": (1, "Shetland sheepdog"), "n02123045": (2, "tabby")}
"""The real numbers in meta.mat also follow another order than the WordNet ids."""
ABOVE = {"n00001740": (4, "entity"), "n02084071": (5, "dog")}
TRUTH = [2, 3, 1, 1, 2, 3, 2]
LABELS = [2, 0, 1, 1, 2, 0, 2]
WNIDS = sorted(CLASSES)


def crops() -> Iterator[Image.Image]:
    """Pieces of two photographs, 96 x 64 pixels."""
    random = np.random.Generator(np.random.Philox(3))
    photographs = load_sample_images().images
    while True:
        top, left = int(random.integers(427 - 64)), int(random.integers(640 - 96))
        yield Image.fromarray(photographs[int(random.integers(2))][top : top + 64, left : left + 96])


def file_of(image: Image.Image, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=95)
    return stream.getvalue()


def train_pictures() -> dict[str, bytes]:
    """File name to content; not in the order of the names, as the real tars are not."""
    crop = crops()
    names = [f"{wnid}_{number}.JPEG" for wnid in WNIDS for number in (10026, 9, 381, 10290, 2933)]
    files = {name: file_of(next(crop)) for name in names}
    files["n02105855_2933.JPEG"] = file_of(next(crop), "PNG")
    files["n02123045_381.JPEG"] = file_of(next(crop).convert("CMYK"))
    return files


def val_pictures() -> dict[str, bytes]:
    crop = crops()
    return {f"ILSVRC2012_val_{number:08d}.JPEG": file_of(next(crop)) for number in range(1, 1 + len(TRUTH))}


def tar_of(files: dict[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format, encoding="utf-8") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.uname = len(content), 1340000000, 5089, "olga"
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def train_tar() -> bytes:
    pictures = train_pictures()
    tars = {}
    for wnid in WNIDS[::-1]:
        tars[f"{wnid}.tar"] = tar_of({name: data for name, data in pictures.items() if name.startswith(wnid)})
    return tar_of(tars)


def meta_mat() -> bytes:
    """`synsets` as in the development kit: a column of structs, the classes before what is above them."""
    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    rows = []
    for wnid, (number, words) in sorted({**CLASSES, **ABOVE}.items(), key=lambda item: item[1]):
        children = np.array([4, 1], np.uint8) if wnid in ABOVE else np.zeros((1, 0))
        rows.append((number, wnid, words, "a gloss", 2 if wnid in ABOVE else 0, children, 0, 5))
    synsets = np.empty((len(rows), 1), [(name, object) for name in names])
    for row, values in enumerate(rows):
        synsets[row, 0] = values
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets}, do_compression=True)
    return stream.getvalue()


def devkit_files() -> dict[str, bytes]:
    return {
        "ILSVRC2012_devkit_t12/readme.txt": b"ImageNet",
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": b"".join(b"%d\n" % n for n in TRUTH),
        "ILSVRC2012_devkit_t12/data/meta.mat": meta_mat(),
    }


def write_tree(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_devkit(root: Path, files: dict[str, bytes] | None = None) -> Path:
    path = root / "ILSVRC2012_devkit_t12.tar.gz"
    path.write_bytes(gzip.compress(tar_of(files or devkit_files()), mtime=0))
    return path


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archives")
    (root / "ILSVRC2012_img_train.tar").write_bytes(train_tar())
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_of(val_pictures()))
    write_devkit(root)
    return root


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as torchvision and the usual script make it."""
    root = tmp_path_factory.mktemp("tree")
    write_tree(root / "train", {f"{name[:9]}/{name}": content for name, content in train_pictures().items()})
    labelled = zip(val_pictures().items(), LABELS, strict=True)
    write_tree(root / "val", {f"{WNIDS[label]}/{name}": content for (name, content), label in labelled})
    return root


def listed(data: SourceData) -> dict[str, tuple[int, bytes]]:
    samples = ((data.key(i), data.load(i)) for i in range(data.total))
    return {key: (sample["label"], sample["image"]) for key, sample in samples}


def expected(split: str) -> dict[str, tuple[int, bytes]]:
    if split == "train":
        found = {f"{name[:9]}/{name[:-5]}": (WNIDS.index(name[:9]), data) for name, data in train_pictures().items()}
        return found
    labelled = zip(val_pictures().items(), LABELS, strict=True)
    return {f"{WNIDS[label]}/{name[:-5]}": (label, content) for (name, content), label in labelled}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("layout", ["archives", "archive itself", "tree", "tree and kit", "flat and unpacked kit"])
def test_every_layout_gives_the_same_samples(
    archives: Path, unpacked: Path, tmp_path: Path, split: str, layout: str
) -> None:
    src = archives if "archive" in layout else unpacked
    if layout == "archive itself":
        src = archives / f"ILSVRC2012_img_{split}.tar"
    elif layout == "tree and kit":
        shutil.copytree(unpacked, src := tmp_path / "copy")
        write_devkit(src)
    elif layout == "flat and unpacked kit":
        src = tmp_path
        shutil.copytree(unpacked / "train", src / "train")
        write_tree(src / "val", val_pictures())
        (src / "val" / "valprep.sh").write_text("#!/bin/sh", encoding="utf-8")
        write_tree(src, devkit_files())
    data = SOURCES["imagenet"](src, split)
    assert listed(data) == expected(split)
    words = layout != "tree"
    assert data.fields["label"].classes == tuple(f"{w} {CLASSES[w][1]}" if words else w for w in WNIDS)
    assert [data.key(i) for i in range(data.total)] == sorted(expected(split))


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_are_those_of_torchvision(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    from torchvision.datasets import ImageNet
    from torchvision.datasets import imagenet as theirs

    unchecked = {name: (file, None) for name, (file, _) in theirs.ARCHIVE_META.items()}
    monkeypatch.setattr(theirs, "ARCHIVE_META", unchecked)
    shutil.copytree(archives, tmp_path / "copy")
    unpacked = ImageNet(tmp_path / "copy", split)
    assert unpacked.wnids == WNIDS
    found = {Path(path).stem: (label, Path(path).read_bytes()) for path, label in unpacked.samples}
    ours = listed(SOURCES["imagenet"](archives, split))
    assert {key.partition("/")[2]: value for key, value in ours.items()} == found
    # What it left behind is a tree beside the archives, and then the tree alone.
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        os.remove(tmp_path / "copy" / name)
    assert listed(SOURCES["imagenet"](tmp_path / "copy", split)) == ours


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_archives_and_tree_become_the_same_shards(
    archives: Path, unpacked: Path, tmp_path: Path, format: Format
) -> None:
    before = sorted(archives.iterdir())
    for name, src in (("a", archives), ("b", unpacked)):
        result = convert(
            "imagenet", src, tmp_path / name, format=format, shard_size=1 << 16 if format == "webdataset" else 5 << 20
        )
        assert (result.samples, result.rejects) == (15, 0)
    assert sorted(archives.iterdir()) == before  # nothing was unpacked
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name).glob("shard-*")}
        for name in "ab"
    ]
    assert digests[0] == digests[1]
    with open_shards(tmp_path / "a", check=True) as shards:
        samples = {sample["__key__"]: sample for sample in map(shards.read, range(len(shards)))}
    originals = expected("train")
    assert {key: sample["label"] for key, sample in samples.items()} == {k: v[0] for k, v in originals.items()}
    for key, (_, content) in originals.items():
        stored, original = samples[key]["image"], Image.open(io.BytesIO(content))
        if original.format == "JPEG" and original.mode == "RGB":
            assert stored == content
        else:  # the PNG and the CMYK JPEG: their pixels, as any reader sees them
            assert key in ("n02105855/n02105855_2933", "n02123045/n02123045_381")
            pixels = stored if isinstance(stored, np.ndarray) else np.asarray(Image.open(io.BytesIO(stored)))
            np.testing.assert_array_equal(pixels, np.asarray(original.convert("RGB")))


def test_threads_share_an_archive(archives: Path) -> None:
    data, originals = SOURCES["imagenet"](archives, "train"), expected("train")
    order = np.random.Generator(np.random.Philox(1)).integers(data.total, size=2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        for i, sample in zip(order, pool.map(data.load, order), strict=True):
            assert (sample["label"], sample["image"]) == originals[data.key(i)]


def test_a_missing_validation_picture_is_a_bad_sample(archives: Path, tmp_path: Path) -> None:
    files = val_pictures()
    del files["ILSVRC2012_val_00000003.JPEG"]
    write_devkit(tmp_path)
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(tar_of(files))
    data = SOURCES["imagenet"](tmp_path, "val")
    number = {data.key(i).partition("_val_")[2]: i for i in range(data.total)}
    assert (data.total, data.load(number["00000004"])["label"]) == (7, LABELS[3])
    with pytest.raises(BadSample, match="lacks this picture"):
        data.load(number["00000003"])
    for name, place in (("00000003", ""), ("00000001", f", offset {BLOCK}")):
        key = data.key(number[name])
        assert data.origin(number[name]).endswith(f"ILSVRC2012_img_val.tar{place}, {key}")
    os.remove(tmp_path / "ILSVRC2012_img_val.tar")
    write_tree(tmp_path / "val", files)
    result = convert("imagenet", tmp_path, tmp_path / "out", split="val", max_rejects=0.5)
    assert (result.samples, result.rejects) == (6, 1)
    assert "ILSVRC2012_val_00000003.JPEG" in (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8")


def test_an_absurd_picture_is_a_bad_sample(archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = SOURCES["imagenet"](archives, "train")
    monkeypatch.setattr(imagenet, "MAX_PICTURE", 100)
    with pytest.raises(BadSample, match="more than the limit of 100"):
        data.load(0)


def test_a_picture_that_cannot_be_decoded_is_set_aside(tmp_path: Path) -> None:
    pictures = train_pictures()
    pictures["n01440764_9.JPEG"] = pictures["n01440764_9.JPEG"][:1000]
    pictures["n01440764_381.JPEG"] = b""
    tars = {f"{w}.tar": tar_of({n: data for n, data in pictures.items() if n.startswith(w)}) for w in WNIDS}
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_of(tars))
    result = convert("imagenet", tmp_path, tmp_path / "out", max_rejects=0.2)
    assert (result.samples, result.rejects) == (13, 2)
    rejects = (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8")
    assert "n01440764/n01440764_9" in rejects
    assert "n01440764/n01440764_381" in rejects


def refused(src: Path, split: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        SOURCES["imagenet"](src, split)
    assert "\n" not in str(caught.value)


def test_a_cut_training_archive_is_one_line(tmp_path: Path) -> None:
    whole = train_tar()
    archive = tmp_path / "ILSVRC2012_img_train.tar"
    second = whole.index(b"n02105855.tar\0")
    for size, match in (
        (len(whole) // 2, r"img_train\.tar, offset \d+: n\d{8}\.tar lacks \d+ bytes, so the tar is cut off"),
        (second, rf"offset {second}: the tar has no end"),
        (second + 100, rf"offset {second}: the tar has no end"),
        (0, "offset 0: the tar has no end"),
    ):
        archive.write_bytes(whole[:size])
        refused(tmp_path, "train", match)
    damaged = bytearray(whole)
    damaged[second + 5] ^= 1
    archive.write_bytes(damaged)
    refused(tmp_path, "train", rf"offset {second}: damaged tar header \(wrong checksum\)")
    inner = tar_of({name: data for name, data in train_pictures().items() if name.startswith("n01440764")})
    archive.write_bytes(tar_of({"n01440764.tar": inner[: len(inner) // 2]}))
    refused(tmp_path, "train", r"img_train\.tar, n01440764\.tar, offset \d+: .* cut off")
    archive.write_bytes(tar_of({"n01440764.tar": tar_of({"notes.txt": b"x"})}))
    refused(tmp_path, "train", r"n01440764\.tar, offset 512: holds no pictures")
    archive.write_bytes(tar_of(val_pictures()))
    refused(tmp_path, "train", "holds ILSVRC2012_val_00000001.JPEG, expected tars such as n01440764.tar")


def test_no_flipped_bit_of_a_header_goes_unnoticed(archives: Path, tmp_path: Path) -> None:
    whole = (archives / "ILSVRC2012_img_train.tar").read_bytes()
    archive = tmp_path / "ILSVRC2012_img_train.tar"
    random = np.random.Generator(np.random.Philox(5))
    header = whole.index(b"n02105855_9.JPEG\0")
    seen = []
    for place in [*random.integers(0, 345, 40).tolist(), 124, 135, 148, 156]:
        damaged = bytearray(whole)
        damaged[header + place] ^= 1 << int(random.integers(8))
        archive.write_bytes(damaged)
        try:
            found = listed(SOURCES["imagenet"](tmp_path, "train"))
        except UserError as error:
            seen.append(str(error))
        else:  # the blank behind the checksum
            assert found == expected("train")
    assert len(seen) > 40
    assert all(f"n02105855.tar, offset {header}: damaged tar header" in line for line in seen)


@pytest.mark.parametrize("size", [b"-0000001000\0", b"77777777777\0", b"\x80" + b"\xff" * 11])
def test_a_header_with_a_hostile_size(tmp_path: Path, size: bytes) -> None:
    whole = bytearray(tar_of({"n01440764.tar": b"x"}))
    whole[124:136] = size
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:BLOCK])
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(whole)
    refused(tmp_path, "train", r"ILSVRC2012_img_train\.tar, offset \d+: .*(damaged|cut off)")


def test_long_names_of_gnu_and_pax(tmp_path: Path) -> None:
    content = file_of(next(crops()))
    folder = "x" * 120
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        inner = tar_of({f"{folder}/n01440764_1.JPEG": content}, format)
        (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_of({f"{folder}/n01440764.tar": inner}, format))
        assert listed(SOURCES["imagenet"](tmp_path, "train")) == {"n01440764/n01440764_1": (0, content)}


def damaged_kits() -> Iterator[tuple[str, str, bytes | None, str]]:
    truth = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    meta = "ILSVRC2012_devkit_t12/data/meta.mat"
    stream = io.BytesIO()
    savemat(stream, {"other": np.zeros(3)})
    whole = meta_mat()
    yield "truth gone", truth, None, "holds no data/ILSVRC2012_validation_ground_truth.txt"
    yield "truth not a number", truth, b"1\n2\nthree\n", r"ground_truth\.txt, line 3: b'three' is not the number"
    yield "truth of an inner node", truth, b"1\n4\n", r"ground_truth\.txt, line 2: b'4' is not the number"
    yield "truth empty", truth, b"", r"ground_truth\.txt: the file is empty"
    yield "truth short", truth, b"1\n2\n", "ILSVRC2012_val_00000003.JPEG is none of the 2 pictures"
    yield "meta gone", meta, None, r"holds no data/meta\.mat"
    yield "meta of another kind", meta, stream.getvalue(), r"meta\.mat: not the table of ImageNet's classes \(KeyError"
    yield "meta cut", meta, whole[: len(whole) // 2], r"meta\.mat: not the table"
    yield "meta no file", meta, b"x" * 500, r"meta\.mat: not the table"
    yield "meta empty", meta, b"", r"meta\.mat: not the table"


@pytest.mark.parametrize(("name", "content", "match"), [pytest.param(*rest, id=id) for id, *rest in damaged_kits()])
def test_a_damaged_development_kit_is_one_line(
    archives: Path, tmp_path: Path, name: str, content: bytes | None, match: str
) -> None:
    files = devkit_files()
    files.pop(name)
    write_devkit(tmp_path, files if content is None else {**files, name: content})
    os.symlink(archives / "ILSVRC2012_img_val.tar", tmp_path / "ILSVRC2012_img_val.tar")
    refused(tmp_path, "val", match)


def test_a_cut_or_missing_development_kit(archives: Path, unpacked: Path, tmp_path: Path) -> None:
    os.symlink(archives / "ILSVRC2012_img_val.tar", tmp_path / "ILSVRC2012_img_val.tar")
    refused(tmp_path, "val", r"put ILSVRC2012_devkit_t12\.tar\.gz into")
    kit = write_devkit(tmp_path)
    kit.write_bytes(kit.read_bytes()[:300])
    refused(tmp_path, "val", r"ILSVRC2012_devkit_t12\.tar\.gz: the archive is damaged or cut off")
    os.remove(kit)
    (tmp_path / "ILSVRC2012_devkit_t12").mkdir()
    refused(tmp_path, "val", r"meta\.mat: No such file")


def test_a_development_kit_that_unpacks_without_end(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long name in the archive, and a table of classes: both of zeros, packed a thousandfold."""
    os.symlink(archives / "ILSVRC2012_img_val.tar", tmp_path / "ILSVRC2012_img_val.tar")
    with monkeypatch.context() as patch:
        patch.setattr("headrace.tools.sources.archives.MAX_UNPACKED", 1 << 20)
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", encoding="utf-8") as tar:
            info = tarfile.TarInfo("././@LongLink")
            info.type, info.size = tarfile.GNUTYPE_LONGNAME, 4 << 20
            tar.addfile(info, io.BytesIO(bytes(info.size)))
        (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(stream.getvalue()))
        refused(tmp_path, "val", r"devkit_t12\.tar\.gz: .*unpacks to more than 1,048,576 bytes")
    table = io.BytesIO()
    savemat(table, {"synsets": np.zeros(20 << 20, np.uint8)}, do_compression=True)
    assert len(table.getvalue()) < 1 << 17
    write_devkit(tmp_path, devkit_files() | {"ILSVRC2012_devkit_t12/data/meta.mat": table.getvalue()})
    refused(tmp_path, "val", r"meta\.mat: not the table of ImageNet's classes .*unpacks to more than 16,777,216 bytes")


def test_classes_that_do_not_fit(archives: Path, unpacked: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(unpacked, copy)
    shutil.rmtree(copy / "train" / "n02105855")
    assert SOURCES["imagenet"](copy, "train").fields["label"].classes == ("n01440764", "n02123045")
    refused(copy, "val", "3 classes do not fit the 2 of .*train: n02105855 is unknown there")
    write_devkit(copy)
    refused(copy, "train", "2 classes do not fit the 3 of .*devkit_t12.tar.gz: n02105855 is missing")
    shutil.rmtree(copy / "val" / "n02105855")  # validation data may lack a class: the labels stay
    assert {label for label, _ in listed(SOURCES["imagenet"](copy, "val")).values()} == {0, 2}
    write_tree(copy / "train", {"n02105855.tar": b""})
    refused(copy, "train", "n02105855.tar is not unpacked yet")
    (copy / "val" / "cats").mkdir()
    refused(copy, "val", "the folder 'cats' is no WordNet id")


def test_data_that_are_not_there(archives: Path, tmp_path: Path) -> None:
    refused(tmp_path, "train", r"holds neither ILSVRC2012_img_train\.tar nor a folder train")
    refused(tmp_path / "nowhere", "val", r"holds neither ILSVRC2012_img_val\.tar")
    refused(archives, "test", "has the splits train and val, not 'test'")
    (tmp_path / "train").mkdir()
    refused(tmp_path, "train", "holds no classes such as n01440764")
    (tmp_path / "train" / "n01440764").mkdir()
    refused(tmp_path, "train", "n01440764: holds no pictures")
    (tmp_path / "val").mkdir()
    refused(tmp_path, "val", r"put ILSVRC2012_devkit_t12\.tar\.gz into")
    write_devkit(tmp_path)
    refused(tmp_path, "val", "holds neither folders of classes nor pictures such as ILSVRC2012_val_00000001.JPEG")


def test_an_archive_that_shrinks_while_it_is_read(archives: Path, tmp_path: Path) -> None:
    shutil.copy(archives / "ILSVRC2012_img_train.tar", tmp_path)
    data: Any = SOURCES["imagenet"](tmp_path, "train")
    os.truncate(tmp_path / "ILSVRC2012_img_train.tar", 2000)
    with pytest.raises(BadSample, match=r"img_train\.tar, offset \d+: the file ends \d+ bytes too early"):
        data.load(0)
