"""What people's folders and archives hold beside plain pictures: taken by its content, or counted and listed, each by
its true reason; through the command line."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.shards import ShardError, open_shards
from headrace.tools.cli import main
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES
from headrace.tools.sources.content import HEAD, media_kind
from tests import clips


def encoded(format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    gradient = np.add.outer(np.arange(40), np.arange(30))[:, :, None] * np.array([3, 2, 1])
    Image.fromarray(gradient.astype(np.uint8)).save(stream, format, **options)
    return stream.getvalue()


JPEG = encoded("JPEG")


def written(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def shard(source: str, src: Path, out: Path, *options: str) -> int:
    return main(["shard", source, str(src), str(out), "--max-rejects", "0.9", *options])


def keys(out: Path) -> set[str]:
    with open_shards(out, check=True) as shards:
        return {shards.key(i) for i in range(len(shards))}


def reasons(out: Path) -> dict[str, str]:
    """By the end of the source's name."""
    lines = map(json.loads, (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["source"].rpartition("/")[2]: line["reason"] for line in lines}


ENDINGS = {
    "a.JPG": JPEG,
    "b.jfif": JPEG,
    "c.jpe": JPEG,
    "d.gif": encoded("GIF"),
    "e.jp2": encoded("JPEG2000"),
    "f.tga.bmp2": encoded("BMP"),
    "g.avif": encoded("AVIF"),
    "h": JPEG,
    "i.ico": encoded("ICO"),
    "j.pnm": encoded("PPM"),
    "k.backup": encoded("TIFF"),
    "l.photo": encoded("WEBP"),
}
NONE = {"m.heic": b"x", "n": b"Please read me", "o.svg": b"<svg/>", "p.cr2": encoded("TIFF"), "q.caption": b"a cat"}


@pytest.mark.parametrize("encode", ["keep", "jpeg"])
def test_content_says_what_a_file_is(tmp_path: Path, encode: str, capsys: pytest.CaptureFixture[str]) -> None:
    src = written(tmp_path / "src", {f"cat/{name}": data for name, data in (ENDINGS | NONE).items()})
    written(src, {"beside.jpg": JPEG, ".DS_Store": b"x", "cat/Thumbs.db": b"x", "cat/._a.JPG": b"\0\5\x16\7"})
    written(src, {"__MACOSX/cat/._a.JPG": b"\0\5\x16\7", "dog/desktop.ini": b"x", "dog/x.png": encoded("PNG")})
    assert shard("folder", src, tmp_path / "set", "--encode", encode) == 0
    assert keys(tmp_path / "set") == {f"cat/{name.partition('.')[0]}" for name in ENDINGS if name[0] != "f"} | {
        "cat/f_tga",
        "dog/x",
    }
    with open_shards(tmp_path / "set") as shards:
        assert shards.fields["label"].classes == ("cat", "dog")
    assert reasons(tmp_path / "set") == {
        "m.heic": "belongs to no sample: .heic",
        "n": "belongs to no sample: without an ending",
        "o.svg": "belongs to no sample: .svg",
        "p.cr2": "belongs to no sample: .cr2",
        "q.caption": "belongs to no sample: .caption",
        "beside.jpg": "belongs to no sample: .jpg beside the folders of classes",
    }
    said = capsys.readouterr().out
    assert "belong to no sample: .caption 1, .cr2 1, .heic 1, .jpg beside the folders of classes 1, .svg 1, " in said


def test_captions_belong_to_files_of_any_ending(tmp_path: Path) -> None:
    files = {"a.jfif": JPEG, "a.txt": b"one", "b": JPEG, "b.txt": b"two", "c.gif": encoded("GIF"), "c.txt": b"three"}
    assert shard("folder", written(tmp_path / "src", files), tmp_path / "set") == 0
    with open_shards(tmp_path / "set") as shards:
        assert {sample["__key__"]: sample["text"] for sample in map(shards.read, range(3))} == {
            "a": "one",
            "b": "two",
            "c": "three",
        }


@pytest.mark.peer("av")
def test_videos_and_sounds_of_any_ending(tmp_path: Path) -> None:
    video, sound = clips.video("mp4", sound=True), clips.audio("flac")
    for name, file in (
        ("video", {"run/a.m4v.bak": video, "run/b": clips.video("ts")}),
        ("sound", {"run/a.song": sound}),
    ):
        src = written(tmp_path / name, {**file, "run/code.ts": b"export const a = 1;", "run/list.csv": b"a,b"})
        assert shard("folder", src, tmp_path / f"{name}-set") == 0
        assert len(keys(tmp_path / f"{name}-set")) == len(file)
        assert set(reasons(tmp_path / f"{name}-set")) == {"code.ts", "list.csv"}


@pytest.mark.peer("av")
def test_packets_of_a_camera(tmp_path: Path) -> None:
    """AVCHD (.mts) has a time of four bytes before each packet of 188."""
    packets = clips.video("ts")
    camera = b"".join(bytes(4) + packets[at : at + 188] for at in range(0, len(packets), 188))
    assert media_kind(camera[:HEAD]) == "video"
    assert shard("folder", written(tmp_path / "src", {"a.MTS": camera}), tmp_path / "set") == 0
    with open_shards(tmp_path / "set") as shards:
        assert shards.read(0)["video"] == camera


@pytest.mark.parametrize(
    "text",
    ["BMW and others\n", "P1 is a peptide 3\n", "G" * 400, "II*", "RIFF raff", "\ufefftext", "moov"],
)
def test_text_is_no_media(text: str) -> None:
    for encoding in ("utf-8", "utf-16"):
        data = text.encode(encoding)
        assert media_kind(data) == "" or text == "G" * 400
    assert media_kind(b"a G " * 100) == ""


HEIC = (24).to_bytes(4, "big") + b"ftypheic\0\0\0\0mif1heic" + bytes(100)


def test_heic_without_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    src = written(tmp_path / "src", {"a.jpg": JPEG, "b.HEIC": HEIC, "c.jpg": HEIC})
    assert shard("folder", src, tmp_path / "set", "--workers", "1") == 0
    reason = "a HEIC picture: pip install headrace[heic] reads it"
    assert reasons(tmp_path / "set") == {"b.HEIC": reason, "c.jpg": reason}


@pytest.mark.peer("pillow-heif")
def test_heic_is_read(tmp_path: Path) -> None:
    import pillow_heif

    picture = Image.fromarray(np.full((48, 64, 3), (200, 30, 40), np.uint8))
    stream = io.BytesIO()
    pillow_heif.from_pillow(picture).save(stream, quality=90)
    assert shard("folder", written(tmp_path / "src", {"a.HEIC": stream.getvalue()}), tmp_path / "set") == 0
    with open_shards(tmp_path / "set") as shards:
        decoded = np.asarray(Image.open(io.BytesIO(shards.read(0)["image"])))
    assert decoded.shape == (48, 64, 3)
    assert abs(decoded.astype(int) - (200, 30, 40)).max() < 8


def test_an_empty_class_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = written(tmp_path / "src", {"cat/a.jpg": JPEG})
    (src / "bird").mkdir()
    assert shard("folder", src, tmp_path / "set") == 0
    assert "folders of classes without samples, which keep their numbers (bird) 1" in capsys.readouterr().out
    with open_shards(tmp_path / "set") as shards:
        assert shards.fields["label"].classes == ("bird", "cat")
        assert shards.read(0)["label"] == 1


def test_a_shard_set_in_its_own_source_is_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = written(tmp_path / "src", {"cat/a.jpg": JPEG, "dog/b.jpg": JPEG})
    assert shard("folder", src, tmp_path / "set") == 0
    os.rename(tmp_path / "set", src / "adult")
    assert shard("folder", src, tmp_path / "again") == 0
    assert "shard sets 1" in capsys.readouterr().out
    with open_shards(tmp_path / "again") as shards:
        assert shards.fields["label"].classes == ("cat", "dog")
    assert shard("folder", src / "adult", tmp_path / "third") == 1
    assert "it is a shard set, which the source shards reads" in capsys.readouterr().err


def test_links_to_folders_twice_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = written(tmp_path / "src", {"cat/a.jpg": JPEG})
    os.symlink(src / "cat", src / "cat" / "more")
    assert shard("folder", src, tmp_path / "set") == 0
    assert "links to folders that were read before 1" in capsys.readouterr().out


def special_files(folder: Path, *names: str) -> None:
    """A named pipe and a socket, under the given names."""
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / names[0])
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket has room for 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(names[1])
    finally:
        os.chdir(here)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("source", ["folder", "imagenet"])
def test_special_files_in_a_folder(tmp_path: Path, source: str) -> None:
    src = written(tmp_path / "src", {"train/n00000001/a.jpg": JPEG})
    special_files(src / "train" / "n00000001", "p.jpg", "s.jpg")
    special_files(src / "train" / "n00000001", "p", "s.data")
    assert shard(source, src, tmp_path / "set", "--split", "train") == 0
    assert keys(tmp_path / "set") == {"n00000001/a"}
    assert reasons(tmp_path / "set") == {
        "p.jpg": "not a regular file but a named pipe",
        "s.jpg": "not a regular file but a socket",
        "p": "belongs to no sample: named pipes",
        "s.data": "belongs to no sample: sockets",
    }


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("folder", "."),
        ("folder", "a.jpg"),
        ("video", "a.tar"),
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar10", "data_batch_1"),
        ("imagenet", "ILSVRC2012_img_train.tar"),
        ("imagenet", "ILSVRC2012_devkit_t12.tar.gz"),
        ("coco", "train2017.zip"),
        ("coco", "annotations/captions_train2017.json"),
        ("shards", "a.tar"),
        ("shards", "manifest.json"),
    ],
)
def test_a_named_pipe_for_an_archive_is_an_error(
    tmp_path: Path, source: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    src = tmp_path / "src"
    if name == ".":
        os.mkfifo(src)
    else:
        (src / name).parent.mkdir(parents=True, exist_ok=True)
        if source == "imagenet":
            written(src, {"train/n00000001/a.jpg": JPEG})
        if source == "coco":
            (src / "train2017").mkdir()
        os.mkfifo(src / name)
    if (source, name) == ("folder", "a.jpg"):
        src = src / name
    if (source, name) == ("video", "a.tar"):
        src = src / name
    assert main(["shard", source, str(src), str(tmp_path / "set")]) == 1
    said = capsys.readouterr().err
    assert "a named pipe" in said
    assert said.count("\n") == 1


@pytest.mark.timeout(60)
def test_named_pipes_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ShardError, match="a named pipe"):
        open_shards(tmp_path / "pipe")
    config = ["train", "simclr", "--data", "x", "--out", str(tmp_path / "run")]
    assert main([*config, "--config", str(tmp_path / "pipe")]) == 2
    assert "a named pipe" in capsys.readouterr().err
    for command in (["inspect"], ["verify"]):
        assert main([*command, str(tmp_path / "pipe")]) == 1
        assert "a named pipe" in capsys.readouterr().err


CSV = "label,youtube_id,time_start,time_end,split\n"
LINES = ["run,abc,1,2,train", "sit,def,1,2,train", "run,abc,1,2,train", "run,def,1,2,train"]


@pytest.mark.peer("av")
def test_a_clip_that_is_listed_twice(tmp_path: Path) -> None:
    video = clips.video("mp4")
    files = {"abc_000001_000002.mp4": video, "def_000001_000002": video, "unknown.mp4": video}
    written(tmp_path / "src", {**files, "train.csv": (CSV + "\n".join(LINES)).encode()})
    assert shard("video", tmp_path / "src", tmp_path / "set") == 0
    assert keys(tmp_path / "set") == {"run/abc_000001_000002", "sit/def_000001_000002"}
    lines = (tmp_path / "set" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    found = {json.loads(line)["reason"].replace(f"{tmp_path}/src/", "") for line in lines}
    assert found == {
        "abc_000001_000002 is listed twice: train.csv, line 4, and 2, which counts",
        "def_000001_000002 is listed twice: train.csv, line 5, and 3 as 'sit', which counts",
        "belongs to no sample: videos in no list",
    }


def tar_of(path: Path, members: list[tuple[str, bytes | tuple[bytes, str]]], **options: Any) -> Path:
    """Members are a name and bytes, or a name, a type and a target."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = data
                tar.addfile(info)
    return path


def sparse(name: str, data: bytes, kind: str) -> bytes:
    """A member whose content is that of a file with a hole, as GNU tar writes it in its own format and in pax."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    if kind == "gnu":
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[156:157] = b"S"
        for at, value in ((386, 0), (398, len(data)), (483, 1 << 20)):
            header[at : at + 12] = b"%011o\0" % value
        header[482] = 1  # another block of the map follows
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header) + bytes(512) + data + bytes(-len(data) % 512)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name}
    info.name = f"GNUSparseFile.1/{name}"
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.peer("av")
@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_a_sparse_member_is_named(tmp_path: Path, kind: str) -> None:
    video = clips.video("mp4")
    (tmp_path / "src").mkdir()
    plain = tar_of(tmp_path / "plain.tar", [("abc_000001_000002.mp4", video)]).read_bytes()
    end = 512 + len(video) + -len(video) % 512
    whole = plain[:end] + sparse("def_000001_000002.mp4", video, kind) + bytes(1024)
    written(tmp_path / "src", {"v.tar": whole, "train.csv": (CSV + "\n".join(LINES[:2])).encode()})
    assert shard("video", tmp_path / "src", tmp_path / "set") == 0
    assert keys(tmp_path / "set") == {"run/abc_000001_000002"}
    (reason,) = reasons(tmp_path / "set").values()
    assert reason == "a sparse member, whose holes the tar leaves out: unpack the tar, or pack it without --sparse"


@pytest.mark.peer("av")
def test_links_in_a_tar(tmp_path: Path) -> None:
    video = clips.video("mp4")
    (tmp_path / "src").mkdir()
    members: list[tuple[str, bytes | tuple[bytes, str]]] = [
        ("v/abc_000001_000002.mp4", (tarfile.SYMTYPE, "../w/x.mp4")),
        ("w/x.mp4", video),
        ("v/def_000001_000002.mp4", (tarfile.SYMTYPE, "away.mp4")),
        ("v/pipe", (tarfile.FIFOTYPE, "")),
    ]
    tar_of(tmp_path / "src" / "v.tar", members)
    written(tmp_path / "src", {"train.csv": (CSV + "\n".join(LINES[:2])).encode()})
    assert shard("video", tmp_path / "src", tmp_path / "set") == 0
    assert keys(tmp_path / "set") == {"run/abc_000001_000002"}
    assert sorted(reasons(tmp_path / "set").values()) == [
        "a link to away.mp4, which is not in the tar",
        "belongs to no sample: named pipes",
        "belongs to no sample: videos in no list",
    ]


@pytest.mark.peer("av")
def test_links_and_encrypted_files_in_a_zip(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with zipfile.ZipFile(tmp_path / "src" / "v.zip", "w") as archive:
        link = zipfile.ZipInfo("abc_000001_000002.mp4")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "x.mp4")
        archive.writestr("def_000001_000002.mp4", clips.video("mp4"))
    data = bytearray((tmp_path / "src" / "v.zip").read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 8] |= 1  # encrypted, says the directory
    written(tmp_path / "src", {"v.zip": bytes(data), "train.csv": (CSV + "\n".join(LINES[:2])).encode()})
    source = SOURCES["video"](tmp_path / "src", None)
    for number, reason in ((0, "a link, which is not followed in a zip: unpack it"), (1, "encrypted: unpack the zip")):
        with pytest.raises(Exception, match=reason):
            source.load(number)


def test_a_hard_link_in_a_class_tar(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    names = [f"n01440764_{number}.JPEG" for number in (1, 2, 3)]
    inner = tar_of(tmp_path / "n.tar", [(names[0], JPEG), (names[1], (tarfile.LNKTYPE, names[0])), (names[2], JPEG)])
    tar_of(tmp_path / "src" / "ILSVRC2012_img_train.tar", [("n01440764.tar", inner.read_bytes())])
    assert shard("imagenet", tmp_path / "src", tmp_path / "tar") == 0
    written(tmp_path / "tree", {f"train/n01440764/{name}": JPEG for name in names})
    assert shard("imagenet", tmp_path / "tree", tmp_path / "unpacked") == 0
    assert keys(tmp_path / "tar") == keys(tmp_path / "unpacked") == {f"n01440764/n01440764_{n}" for n in (1, 2, 3)}


@pytest.mark.parametrize(("program", "head"), [("gunzip", b"\x1f\x8b\x08"), ("unzstd", b"\x28\xb5\x2f\xfd")])
@pytest.mark.parametrize("source", ["imagenet", "video", "shards"])
def test_a_compressed_tar_by_another_name(
    tmp_path: Path, program: str, head: bytes, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "ILSVRC2012_img_train.tar" if source == "imagenet" else "v.tar"
    src = written(tmp_path / "src", {name: head + bytes(1000)})
    src = src / name if source == "video" else src
    assert main(["shard", source, str(src), str(tmp_path / "set")]) == 1
    said = capsys.readouterr().err
    assert f"is compressed, so that nothing in it can be read by itself: unpack it ({program})" in said
    assert "again" not in said


def test_pictures_that_the_annotations_have_not(tmp_path: Path) -> None:
    image = {"id": 9, "file_name": "000000000009.jpg", "width": 30, "height": 40}
    captions = {"images": [image], "annotations": [{"id": 1, "image_id": 9, "caption": "a cat"}]}
    instances = {"images": [image], "annotations": [], "categories": []}
    files = {"captions_train2017.json": captions, "instances_train2017.json": instances}
    lists = {f"annotations/{name}": json.dumps(content).encode() for name, content in files.items()}
    pictures = {f"train2017/{number:012d}.jpg": JPEG for number in (9, 10)}
    assert shard("coco", written(tmp_path / "src", lists | pictures), tmp_path / "set") == 0
    assert keys(tmp_path / "set") == {"000000000009"}
    assert reasons(tmp_path / "set") == {"000000000010.jpg": "belongs to no sample: not in the annotations"}


def test_many_strays_are_counted_and_some_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.tools.sources.left_out.LISTED", 3)
    src = written(tmp_path / "src", {"a.jpg": JPEG, **{f"{n}.xml": b"<a/>" for n in range(10)}})
    data = SOURCES["folder"](src, None)
    assert data.left_out == {".xml": 10}
    assert [stray.reason for stray in data.strays] == ["belongs to no sample: .xml"] * 3 + [
        "belong to no sample: 7 more .xml"
    ]


def test_a_source_that_is_no_folder(tmp_path: Path) -> None:
    written(tmp_path, {"a.jpg": JPEG})
    with pytest.raises(UserError, match="no such folder"):
        SOURCES["folder"](tmp_path / "a.jpg", None)
