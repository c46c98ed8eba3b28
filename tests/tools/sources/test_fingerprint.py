"""The fingerprint of a source changes with every change of what its samples are made of, and with nothing else."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrace.shards import Field, write_shards
from headrace.tools.sources import SOURCES


def png(level: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (level, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def folder(root: Path) -> None:
    for name in ("cat/a", "dog/b"):
        write(root, {f"{name}.png": png(), f"{name}.txt": b"a pet", f"{name}.cls": b"1", f"{name}.json": b"{}"})
    write(root, {"dog/notes.doc": b"of nobody", "cat/alone.txt": b"of nobody"})


def coco(root: Path) -> None:
    images = [{"id": 9, "file_name": "000000000009.jpg", "width": 4, "height": 3}]
    captions = [{"id": 1, "image_id": 9, "caption": "a cat"}]
    write(root, {"train2017/000000000009.jpg": png(), "train2017/000000000010.jpg": png(), "val2017/x.jpg": b""})
    for kind, entries in (("captions", captions), ("instances", [])):
        document = {"images": images, "annotations": entries, "categories": []}
        write(root, {f"annotations/{kind}_train2017.json": json.dumps(document).encode()})
    write(root, {"annotations/captions_val2017.json": b"{}"})


def coco_zipped(root: Path) -> None:
    coco(root)
    with zipfile.ZipFile(root / "train2017.zip", "w") as archive:
        archive.writestr("train2017/000000000009.jpg", png())
    with zipfile.ZipFile(root / "annotations_trainval2017.zip", "w") as archive:
        for path in (root / "annotations").iterdir():
            archive.write(path, f"annotations/{path.name}")


def imagenet(root: Path) -> None:
    for wnid in ("n00000001", "n00000002"):
        write(root, {f"train/{wnid}/{wnid}_1.JPEG": png(), f"train/{wnid}/notes.txt": b"", f"val/{wnid}/v.JPEG": png()})


def imagenet_tar(root: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w", encoding="utf-8") as tar:
        info = tarfile.TarInfo("n00000001_1.JPEG")
        info.size = len(png())
        tar.addfile(info, io.BytesIO(png()))
    root.mkdir()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as tar:
        info = tarfile.TarInfo("n00000001.tar")
        info.size = len(inner.getvalue())
        tar.addfile(info, io.BytesIO(inner.getvalue()))


def kinetics(root: Path) -> None:
    rows = b"singing,abc,1,11,train\ndancing,def,1,11,train\nsinging,ghi,1,11,train\n"
    rows = b"label,youtube_id,time_start,time_end,split\n" + rows
    write(root, {"annotations/train.csv": rows, "videos/abc_000001_000011.mp4": b"x"})
    write(root, {"videos/def_000001_000011.mp4": b"x", "videos/other.mp4": b"y"})


def ucf101(root: Path) -> None:
    write(root, {"lists/classInd.txt": b"1 Archery\n", "lists/trainlist01.txt": b"Archery/v_Archery_g01_c01.avi 1\n"})
    write(root, {"lists/testlist02.txt": b"", "v_Archery_g01_c01.avi": b"x"})


def something(root: Path) -> None:
    entry = {"id": "7", "label": "moving a cup", "template": "Moving [something]"}
    write(root, {"labels/labels.json": b'{"Moving something": "0"}', "labels/train.json": json.dumps([entry]).encode()})
    write(root, {"labels/validation.json": b"[]", "videos/7.webm": b"x"})


def shards(root: Path) -> None:
    samples = [{"__key__": f"{i}", "label": i} for i in range(4)]
    write_shards(root, samples, fields={"label": Field(kind="int")})
    write(root, {"README": b"of nobody"})


def tars(root: Path) -> None:
    root.mkdir()
    for name in ("a", "b"):
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            info = tarfile.TarInfo(f"{name}.cls")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"1"))
    write(root, {"README": b"of nobody"})


def cifar10(root: Path) -> None:
    record = np.zeros(3073, np.uint8).tobytes()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        write(root, {f"{name}.bin": record})


def touched(path: Path) -> None:
    """As if fetched again: the same bytes at another time."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def other_byte(path: Path) -> None:
    """Another label or caption of the same length; the clock may be too coarse to tell."""
    status = path.stat()
    content = path.read_bytes()
    for old, new in ((b"a cat", b"a dog"), (b"singing,abc", b"dancing,abc"), (b"a cup", b"a mug")):
        content = content.replace(old, new, 1)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def longer(path: Path) -> None:
    """A file that is whole now."""
    status = path.stat()
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def missing(path: Path) -> None:
    """Data that are gone, where the list still has them."""
    path.unlink()


def another_set(path: Path) -> None:
    """Shards that were written anew beside the old reader's nose."""
    shutil.rmtree(path.parent)
    write_shards(path.parent, [{"__key__": "0", "label": 7}], fields={"label": Field(kind="int")})


def new_label(path: Path) -> None:
    """A record with another label."""
    path.write_bytes(b"\1" + path.read_bytes()[1:])


Make = Callable[[Path], None]


@pytest.mark.parametrize(
    ("source", "make", "name", "change"),
    [
        ("folder", folder, "cat/a.png", touched),
        ("folder", folder, "cat/a.png", longer),
        ("folder", folder, "cat/a.txt", touched),
        ("folder", folder, "dog/b.cls", touched),
        ("folder", folder, "dog/b.json", longer),
        ("coco", coco, "train2017/000000000009.jpg", touched),
        ("coco", coco, "train2017/000000000009.jpg", missing),
        ("coco", coco, "annotations/captions_train2017.json", other_byte),
        ("coco", coco, "annotations/instances_train2017.json", lambda path: path.write_bytes(path.read_bytes() + b" ")),
        ("coco", coco_zipped, "train2017.zip", touched),
        ("imagenet", imagenet, "train/n00000001/n00000001_1.JPEG", touched),
        ("imagenet", imagenet_tar, "ILSVRC2012_img_train.tar", touched),
        ("video", kinetics, "annotations/train.csv", other_byte),
        ("video", kinetics, "videos/abc_000001_000011.mp4", longer),
        ("video", ucf101, "lists/trainlist01.txt", lambda path: path.write_bytes(path.read_bytes() + b"\n")),
        ("video", ucf101, "v_Archery_g01_c01.avi", touched),
        ("video", something, "labels/train.json", other_byte),
        ("video", something, "videos/7.webm", touched),
        ("shards", shards, "manifest.json", another_set),
        ("shards", tars, "b.tar", touched),
        ("cifar10", cifar10, "data_batch_3.bin", new_label),
    ],
)
def test_a_change_of_the_raw_data_changes_it(source: str, make: Make, name: str, change: Make, tmp_path: Path) -> None:
    make(tmp_path / "src")
    before = SOURCES[source](tmp_path / "src", "train").fingerprint
    change(tmp_path / "src" / name)
    assert SOURCES[source](tmp_path / "src", "train").fingerprint != before


@pytest.mark.parametrize(
    ("source", "make", "unused"),
    [
        ("folder", folder, ["dog/notes.doc", "cat/alone.txt"]),
        ("coco", coco, ["train2017/000000000010.jpg", "val2017/x.jpg", "annotations/captions_val2017.json"]),
        ("coco", coco_zipped, ["train2017/000000000009.jpg", "annotations/captions_train2017.json"]),
        ("imagenet", imagenet, ["train/n00000001/notes.txt", "val/n00000001/v.JPEG"]),
        ("imagenet", imagenet_tar, []),
        ("video", kinetics, ["videos/other.mp4"]),
        ("video", ucf101, ["lists/testlist02.txt"]),
        ("video", something, ["labels/validation.json"]),
        ("shards", shards, ["README"]),
        ("shards", tars, ["README"]),
        ("cifar10", cifar10, ["test_batch.bin", "data_batch_1.bin"]),
    ],
)
def test_nothing_else_changes_it(source: str, make: Make, unused: list[str], tmp_path: Path) -> None:
    make(tmp_path / "src")
    before = SOURCES[source](tmp_path / "src", "train").fingerprint
    for name in unused:
        touched(tmp_path / "src" / name)
    os.rename(tmp_path / "src", tmp_path / "mounted elsewhere")
    assert SOURCES[source](tmp_path / "mounted elsewhere", "train").fingerprint == before


def test_a_class_more_changes_it(tmp_path: Path) -> None:
    """Labels count the classes, also one whose folder holds nothing else that is new."""
    folder(tmp_path / "src")
    before = SOURCES["folder"](tmp_path / "src", "train").fingerprint
    os.rename(tmp_path / "src" / "cat", tmp_path / "src" / "tomcat")
    assert SOURCES["folder"](tmp_path / "src", "train").fingerprint != before


def test_every_source_has_one() -> None:
    data = [SOURCES["mnist"](Path("bundled"), split) for split in ("train", "test")]
    assert len({each.fingerprint for each in data}) == 2
