"""Tars as other programs write them: nothing in them is lost, or taken for another thing, without a word."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.shards import ShardError, ShardSet, open_shards
from headrace.shards.errors import MachineError
from headrace.tools.conversion.convert import convert
from headrace.tools.sources import SOURCES


def png(level: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (5, 3), (level, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


Files = list[tuple[str, bytes]]


def write_tar(path: Path, files: Files, format: int = tarfile.USTAR_FORMAT, **pax: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = pax
            tar.addfile(info, io.BytesIO(content))
    return path


def quietly(path: Path) -> ShardSet:
    """Opened without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return open_shards(path)


def test_fields_whose_names_begin_alike(tmp_path: Path) -> None:
    files: Files = []
    for key in "ab":
        files += [(f"{key}.segmentation_mask_left.png", png(1)), (f"{key}.segmentation_mask_right.png", png(2))]
        files += [(f"{key}.a-b.txt", b"dash"), (f"{key}.a_b.txt", b"bar"), (f"{key}.a very long caption.txt", b"long")]
    with quietly(write_tar(tmp_path / "0.tar", files)) as shards:
        assert len(shards.fields) == 5
        sample = shards.read(0)
        del sample["__key__"]
        assert sorted(map(str, sample.values())) == sorted(map(str, (png(1), png(2), "dash", "bar", "long")))
        assert shards.fields["a_very_long_capt"].kind == "text", "a name that is cut, and alone, stays as it was"
        assert all(name.startswith("segmentatio_") for name, value in sample.items() if value in (png(1), png(2)))
    convert("shards", tmp_path / "0.tar", tmp_path / "set")
    with open_shards(tmp_path / "set") as shards:
        assert len(shards.fields) == 5


def test_types_of_image_stay_one_field(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros((3, 5, 3), np.uint8))
    files = [("a.png", png(1)), ("a.cls", b"0"), ("b.jpg", b"x"), ("b.cls", b"1"), ("c.npy", array.getvalue())]
    with quietly(write_tar(tmp_path / "0.tar", [*files, ("c.cls", b"2")])) as shards:
        assert sorted(shards.fields) == ["image", "label"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_that_are_long(tmp_path: Path, format: int) -> None:
    name = "/".join("abcdefgh" * 10 for _ in range(3))
    with quietly(write_tar(tmp_path / "0.tar", [(f"{name}.cls", b"7")], format)) as shards:
        assert shards.read(0) == {"__key__": name, "label": 7}


def test_a_size_in_a_pax_header(tmp_path: Path) -> None:
    """Allowed for every file, and how those beyond 8 GiB are written; it goes before that of the header."""
    path = write_tar(tmp_path / "v.tar", [("a.txt", b"hello"), ("b.txt", b"there")], tarfile.PAX_FORMAT, size="5")
    content = path.read_bytes()
    assert b"size=5\n" in content
    for at in range(0, len(content), 512):
        header = bytearray(content[at : at + 512])
        if header[257:262] == b"ustar" and header[156:157] == b"0":
            header[124:136], header[148:156] = b"00000000000\0", b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            content = content[:at] + header + content[at + 512 :]
    path.write_bytes(content)
    with quietly(path) as shards:
        assert [shards.read(i)["text"] for i in range(2)] == ["hello", "there"]
    write_tar(path, [("a.txt", b"hello")], tarfile.PAX_FORMAT, size="-5")
    with pytest.raises(ShardError, match=r"v\.tar, offset 512: damaged name \(b'-5' is no size\)"):
        open_shards(path)


@pytest.mark.peer("av")
def test_a_size_in_a_pax_header_of_a_source(tmp_path: Path) -> None:
    (tmp_path / "k" / "labels").mkdir(parents=True)
    (tmp_path / "k" / "labels" / "train.csv").write_text(
        "label,youtube_id,time_start,time_end\nx,abc,1,11\n", encoding="utf-8"
    )
    write_tar(tmp_path / "k" / "v.tar", [("abc_000001_000011.mp4", b"12345")], tarfile.PAX_FORMAT, size="5")
    assert SOURCES["video"](tmp_path / "k", None).origin(0).endswith("v.tar, abc_000001_000011.mp4")


def test_hard_links(tmp_path: Path) -> None:
    """What a tar holds under two names it holds once."""
    path = tmp_path / "0.tar"
    long = "long/" * 25
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for key, target in (("0", ""), ("1", "0.png"), (f"{long}2", ""), ("3", f"{long}2.png")):
            info = tarfile.TarInfo(f"{key}.png")
            if target:
                info.type, info.linkname = tarfile.LNKTYPE, target
            else:
                info.size = len(png(len(key)))
            tar.addfile(info, io.BytesIO(png(len(key))) if not target else None)
            info = tarfile.TarInfo(f"{key}.cls")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"1"))
    with quietly(path) as shards:
        assert [shards.read(i)["image"] for i in range(4)] == [png(1)] * 2 + [png(len(f"{long}2"))] * 2
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("1.png")
        info.type, info.linkname = tarfile.LNKTYPE, "0.png"
        tar.addfile(info)
    with pytest.raises(
        ShardError, match=r"0\.tar, offset 0, key 1: its png is a link to 0\.png, which is not in the tar"
    ):
        open_shards(path)


def test_hard_links_in_the_archives_of_a_source(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w", encoding="utf-8") as tar:
        for number in range(3):
            info = tarfile.TarInfo(f"n00000001_{number}.JPEG")
            info.size = len(png())
            if number == 1:
                info.size, info.type, info.linkname = 0, tarfile.LNKTYPE, "n00000001_0.JPEG"
            tar.addfile(info, io.BytesIO(png()) if info.size else None)
    write_tar(tmp_path / "ILSVRC2012_img_train.tar", [("n00000001.tar", inner.getvalue())])
    data = SOURCES["imagenet"](tmp_path, None)
    assert [data.load(i)["image"] for i in range(3)] == [png()] * 3


def test_doubles_of_a_mac(tmp_path: Path) -> None:
    files = [(f"ds/{dot}{key}.{ending}", png()) for key in "01" for ending in ("png", "bin") for dot in ("._", "")]
    with quietly(write_tar(tmp_path / "0.tar", files)) as shards:
        assert [shards.key(i) for i in range(len(shards))] == ["ds/0", "ds/1"]


def img2dataset(folder: Path) -> Path:
    """What it writes: tars, a table and statistics for each, and a tar without samples where all downloads failed."""
    for number in range(3):
        files = [
            (f"{number:05d}{i:04d}.{ending}", content)
            for i in range(4 if number != 1 else 0)
            for ending, content in (("png", png(i)), ("json", b"{}"), ("txt", b"a caption"))
        ]
        if number == 2:
            files.remove(("000020001.txt", b"a caption"))
        write_tar(folder / f"{number:05d}.tar", files)
        (folder / f"{number:05d}.parquet").write_bytes(b"PAR1")
        (folder / f"{number:05d}_stats.json").write_text("{}", encoding="utf-8")
    return folder


def test_what_img2dataset_writes(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path / "laion")
    with pytest.warns(UserWarning, match="left out") as caught:
        shards = open_shards(folder)
    assert [str(warning.message) for warning in caught] == [
        f"{folder}: 1 of 8 samples is left out: 00002.tar, offset 3584, key 000020001: has no .txt",
        f"{folder}: left out, because there are no samples in it: 00001.tar",
    ]
    with shards:
        assert (len(shards), sorted(shards.fields)) == (7, ["image", "json", "text"])
        assert [shard.name for shard in shards.manifest.shards] == ["00000.tar", "00002.tar"]
        assert shards.read(6)["image"] == png(3)


def test_tars_without_a_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [])
    with pytest.raises(ShardError, match=r"0\.tar: the tar holds no samples"):
        open_shards(tmp_path)
    (tmp_path / "1.tar").write_bytes(b"")
    write_tar(tmp_path / "2.tar", [("a.cls", b"1")])
    with pytest.raises(ShardError, match=r"1\.tar"):  # nothing at all is no tar, but one that was cut off
        open_shards(tmp_path)


def test_names_of_classes(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.cls", b"dog\n"), ("b.cls", b"red panda")])
    write_tar(tmp_path / "1.tar", [("c.cls", "Kätzchen".encode()), ("d.cls", b"dog")])
    with quietly(tmp_path) as shards:
        assert shards.fields["label"].classes == ("Kätzchen", "dog", "red panda")
        assert shards.ints().tolist() == [shards.read(i)["label"] for i in range(4)] == [1, 2, 0, 1]
    convert("shards", tmp_path, tmp_path / "set", seed=None)
    with open_shards(tmp_path / "set", check=True) as shards:
        assert shards.fields["label"].classes == ("Kätzchen", "dog", "red panda")
        assert [shards.read(i)["label"] for i in range(4)] == [1, 2, 0, 1]


@pytest.mark.parametrize(("first", "second"), [(b"dog", b"7"), (b"7", b"dog"), (b"-2", b"dog")])
def test_numbers_and_names_of_classes(tmp_path: Path, first: bytes, second: bytes) -> None:
    write_tar(tmp_path / "0.tar", [("a.cls", first), ("b.cls", second)])
    with pytest.raises(ShardError, match=r"key b: cls is b'.*', but .*: write either numbers or names"):
        open_shards(tmp_path)


@pytest.mark.parametrize(
    ("other", "labels", "classes"), [(b"3", [-1, 3], ()), (b"dog", [-1, 0], ("dog",)), (b"-1", [-1, -1], ())]
)
def test_a_label_of_minus_one_is_no_class(
    tmp_path: Path, other: bytes, labels: list[int], classes: tuple[str, ...]
) -> None:
    write_tar(tmp_path / "0.tar", [("a.cls", b"-1\n"), ("b.cls", other)])
    with quietly(tmp_path) as shards:
        assert (shards.ints().tolist(), shards.fields["label"].classes) == (labels, classes)
        assert [shards.read(i)["label"] for i in range(2)] == labels
    convert("shards", tmp_path, tmp_path / "set", seed=None)
    with open_shards(tmp_path / "set") as shards:
        assert (shards.ints().tolist(), shards.fields["label"].classes) == (labels, classes)


def test_identifiers_that_are_no_numbers(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.id", b"f00d"), ("b.id", b"beef")])
    with quietly(tmp_path) as shards:
        assert [shards.read(i)["id"] for i in range(2)] == ["f00d", "beef"]


def test_compressed_tars(tmp_path: Path) -> None:
    packed = gzip.compress(write_tar(tmp_path / "plain" / "0.tar", [("a.cls", b"1")]).read_bytes())
    (tmp_path / "plain" / "1.tar.gz").write_bytes(packed)
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz" / "0.tar.gz").write_bytes(packed)
    (tmp_path / "named.tar").write_bytes(packed)
    for path in (tmp_path / "gz", tmp_path / "gz" / "0.tar.gz", tmp_path / "named.tar"):
        with pytest.raises(ShardError, match="is compressed, so that nothing in it can be read by itself: unpack it"):
            open_shards(path)
    with pytest.warns(UserWarning, match=r"left out, because they are compressed: 1\.tar\.gz; unpack them"):
        open_shards(tmp_path / "plain").close()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("{00000..00123}.tar", "patterns are not expanded: name the folder that holds the tars"),
        ("*.tar", "patterns are not expanded: name the folder that holds the tars"),
        ("pipe:curl -s https://example.org/0.tar", "copy the tars here and name their folder"),
        ("nothing", "there is no such file or folder$"),
    ],
)
def test_paths_as_other_programs_take_them(name: str, hint: str) -> None:
    with pytest.raises(ShardError, match=hint):
        open_shards(name)


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, MachineError), (errno.EACCES, ShardError)])
def test_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[ShardError]
) -> None:
    def fails(_: object) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "iterdir", fails)
    with pytest.raises(ShardError, match=os.strerror(number)) as caught:
        open_shards(tmp_path)
    assert type(caught.value) is kind


def test_a_set_with_an_empty_tar_becomes_a_source(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path / "laion")
    with pytest.warns(UserWarning, match="left out"):
        assert convert("shards", folder, tmp_path / "set", workers=1, max_rejects=0.2).samples == 7
    provenance = json.loads((tmp_path / "set" / "manifest.json").read_text(encoding="utf-8"))["provenance"]
    assert provenance["source"] == "shards"


def test_names_with_many_dots(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("img.v1.2.final.png", png()), ("img.v1.3.final.png", png())])
    with pytest.warns(
        UserWarning, match=r"the first dot of a name ends the key, so that \.v1\.2\.final\.png is a field"
    ):
        open_shards(tmp_path).close()


def test_a_file_whose_ending_lies(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (5, 3)).save(stream, "WEBP")
    files = [("0.jpg", stream.getvalue()), ("1.jpg", png()), ("2.jpg", b"<html>")]
    with quietly(write_tar(tmp_path / "0.tar", files)) as shards:
        assert [shards.read(i)["image"] for i in range(2)] == [stream.getvalue(), png()]
        with pytest.raises(ShardError, match=r"key 2: image is no image that can be read \(no picture of a known type"):
            shards.read(2)
