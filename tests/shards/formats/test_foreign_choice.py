"""What of another program's tars makes a set: nothing goes without a word, and one odd file costs one sample."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.pipeline import Loader, View, ViewSpec
from headrace.pipeline.images.decode import decode_image
from headrace.shards import OTHER, UNREADABLE, ShardError, ShardSet, open_shards
from headrace.tools.conversion.convert import convert
from headrace.tools.pictures.show_views import pixels
from headrace.tools.sources import SOURCES
from headrace.tools.upkeep.verify import verify

Link = tuple[bytes, str]
"""Type of a header, and what it leads to."""


def picture(format: str = "PNG", level: int = 0, **options: Any) -> bytes:
    """Noise of 7 x 5 pixels."""
    noise = np.random.Generator(np.random.Philox(level)).integers(0, 256, (5, 7, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, format, **options)
    return stream.getvalue()


def write_tar(path: Path, files: list[tuple[str, bytes | Link]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if info.size and isinstance(content, bytes) else None)
    return path


def captioned(count: int) -> list[tuple[str, bytes | Link]]:
    """Samples with a picture, a caption and a class."""
    files: list[tuple[str, bytes | Link]] = []
    for i in range(count):
        files += [(f"{i:03d}.png", picture(level=i)), (f"{i:03d}.txt", b"a caption"), (f"{i:03d}.cls", b"%d" % (i % 3))]
    return files


def opened(path: Path) -> tuple[ShardSet, list[str]]:
    """The set and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        shards = open_shards(path)
    return shards, [str(warning.message) for warning in said]


def rejects(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (path / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
@pytest.mark.parametrize("ending", ["png", "txt", "cls"])
def test_one_missing_file_costs_one_sample(tmp_path: Path, ending: str, format: Any) -> None:
    path = write_tar(tmp_path / "0.tar", [file for file in captioned(40) if file[0] != f"017.{ending}"])
    shards, said = opened(path)
    with shards:
        assert sorted(shards.fields) == ["image", "label", "text"]
        assert [shards.key(i) for i in range(len(shards))] == [f"{i:03d}" for i in range(40) if i != 17]
        (left,) = shards.omitted.samples
        assert (left.key, left.reason) == ("017", f"has no .{ending}")
        assert said == [f"{path}: 1 of 40 samples is left out: {left.where}: has no .{ending}"]
        assert left.where.startswith("0.tar, offset ")
    with pytest.warns(UserWarning, match="left out"):
        result = convert("shards", path, tmp_path / "set", format=format, seed=None, max_rejects=0.03)
    assert (result.samples, result.rejects) == (39, 1)
    assert rejects(tmp_path / "set") == [{"key": "017", "source": left.where, "reason": f"has no .{ending}"}]
    with pytest.raises(Exception, match="1 of 40 samples cannot be used, more than 2%"), pytest.warns(match="left out"):
        convert("shards", path, tmp_path / "none", format=format, max_rejects=0.02)
    with pytest.warns(UserWarning, match="left out"):
        report = verify(path)
    assert report.problems == [f"{left.where}: has no .{ending}, so that it is left out"]


def test_a_file_that_few_have_costs_no_sample(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [*captioned(40), ("039.json", b"{}")])
    shards, said = opened(path)
    with shards:
        assert (len(shards), sorted(shards.fields)) == (40, ["image", "label", "text"])
        why = ".json: 1 of 40 samples has it (the first: 0.tar, key 039)"
        assert said == [f"{path}: left out for all samples, because fewer than half have such a file: {why}"]
        assert shards.omitted.fields == {"json": why}
    with pytest.warns(UserWarning, match="left out"):
        result = convert("shards", path, tmp_path / "set")
    assert (result.samples, result.left_out) == (40, {".json": 1})


def test_what_was_left_out_is_said_where_it_is_missed(tmp_path: Path) -> None:
    files = [file for file in captioned(9) if not file[0].endswith(".png") or file[0] == "001.png"]
    shards, _ = opened(write_tar(tmp_path / "0.tar", files))
    hint = r"has no images; its fields are label, text \(left out when it was opened, .*: image, \.png: 1 of 9 samples"
    with shards, pytest.raises(ValueError, match=hint):
        Loader(shards, ViewSpec([View(size=8)]), 2)


@pytest.mark.parametrize(("with_it", "kept"), [(20, True), (19, False)])
def test_half_of_the_samples_decide(tmp_path: Path, with_it: int, kept: bool) -> None:
    files = captioned(40) + [(f"{i:03d}.json", b"{}") for i in range(with_it)]
    shards, said = opened(write_tar(tmp_path / "0.tar", sorted(files)))
    with shards:
        assert ("json" in shards.fields, len(shards)) == (kept, 20 if kept else 40)
    assert len(said) == 1


def test_no_set_has_less_than_half_of_the_samples(tmp_path: Path) -> None:
    """Two files that more than half have each, and hardly one both."""
    files = (
        captioned(40) + [(f"{i:03d}.json", b"{}") for i in range(24)] + [(f"{i:03d}.bin", b"") for i in range(15, 40)]
    )
    shards, said = opened(write_tar(tmp_path / "0.tar", sorted(files)))
    with shards:
        assert (len(shards), "bytes" in shards.fields, "json" in shards.fields) == (25, True, False)
    assert "24 of 40 samples have it, 9 beside the others" in said[0]


def test_where_no_half_has_anything_in_common(tmp_path: Path) -> None:
    files: list[tuple[str, bytes | Link]] = [(f"{i}.{e}", b"x") for i, e in enumerate(("png", "mp4", "flac"))]
    with pytest.raises(
        ShardError, match=r"no file that at least half of the samples have: \.flac: 1 of 3 samples has it"
    ):
        open_shards(write_tar(tmp_path / "0.tar", files))


def test_a_tar_of_which_no_sample_stays(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", captioned(4))
    write_tar(tmp_path / "1.tar", [("x.png", picture())])
    shards, said = opened(tmp_path)
    with shards:
        assert ([shard.name for shard in shards.manifest.shards], len(shards)) == (["0.tar"], 4)
    assert "1 of 5 samples is left out: 1.tar, offset 512, key x: has no .cls; has no .txt" in said[0]


def test_links_are_what_they_lead_to(tmp_path: Path) -> None:
    hard, symbolic = tarfile.LNKTYPE, tarfile.SYMTYPE
    links: dict[str, Link] = {
        "ds/before": (hard, "ds/real/0.png"),
        "ds/behind": (hard, "ds/real/1.png"),
        "ds/chain": (hard, "ds/before.png"),
        "ds/near": (symbolic, "real/0.png"),
        "ds/deep/up": (symbolic, "../real/1.png"),
        "ds/twice": (symbolic, "./deep/up.png"),
        "ds/absolute": (symbolic, "/ds/real/0.png"),
        "ds/through": (symbolic, "folder/0.png"),
    }
    files: list[tuple[str, bytes | Link]] = [("ds/real/0.png", picture(level=0)), ("ds/folder", (symbolic, "real"))]
    files += [(f"{key}.png", link) for key, link in links.items()]
    files += [("ds/real/1.png", picture(level=1)), ("ds/v1.5", (symbolic, "real"))]
    shards, said = opened(write_tar(tmp_path / "0.tar", files))
    with shards:
        found = {shards.key(i): shards.read(i)["image"] for i in range(len(shards))}
        assert not said
        assert list(found) == ["ds/real/0", *links, "ds/real/1"]
        ones = {"ds/behind", "ds/deep/up", "ds/twice", "ds/real/1"}
        assert {key for key, image in found.items() if image == picture(level=1)} == ones
        assert {key for key, image in found.items() if image == picture(level=0)} == found.keys() - ones
    assert convert("shards", tmp_path / "0.tar", tmp_path / "set").samples == len(links) + 2


def test_the_last_of_two_files_of_a_name_is_what_a_link_leads_to(tmp_path: Path) -> None:
    """As after unpacking: a hard link to the one before it, a symbolic link to the one that is there at last."""
    hard, symbolic = tarfile.LNKTYPE, tarfile.SYMTYPE
    files: list[tuple[str, bytes | Link]] = [
        ("a.txt", b"old"),
        ("hard.txt", (hard, "a.txt")),
        ("soft.txt", (symbolic, "a.txt")),
        ("x.txt", b"x"),
        ("a.txt", b"new"),
    ]
    shards, _ = opened(write_tar(tmp_path / "0.tar", files))
    with shards:
        texts = [(sample["__key__"], sample["text"]) for sample in map(shards.read, range(len(shards)))]
    assert texts == [("a", "old"), ("hard", "old"), ("soft", "new"), ("x", "x"), ("a", "new")]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nowhere.png", "its png is a link to nowhere.png, which is not in the tar"),
        ("/etc/passwd.png", "its png is a link to /etc/passwd.png, which is not in the tar"),
        ("../../x.png", "its png is a link to ../../x.png, which is not in the tar"),
        ("circle.png", "its png is a link to circle.png, which leads in a circle"),
        ("002.png", "its png is a link to 002.png, which leads in a circle"),
    ],
)
def test_links_that_lead_to_nothing_are_named(tmp_path: Path, kind: bytes, target: str, reason: str) -> None:
    files: list[tuple[str, bytes | Link]] = [
        (name, (kind, target) if name == "002.png" else content) for name, content in captioned(40)
    ]
    files.append(("circle.png", (kind, "002.png")))
    shards, said = opened(write_tar(tmp_path / "0.tar", files))
    with shards:
        assert len(shards) == 39
        assert shards.omitted.samples[0][2:] == ("002", reason)
        assert shards.omitted.samples[1].key == "circle"
    assert "2 of 41 samples are left out: 0.tar, offset " in said[0]
    with pytest.warns(UserWarning, match="left out"):
        assert convert("shards", tmp_path / "0.tar", tmp_path / "set", max_rejects=0.05).rejects == 2
    assert rejects(tmp_path / "set")[0]["reason"] == reason or rejects(tmp_path / "set")[1]["reason"] == reason


OTHERS = {
    "webp": ("WEBP", {"quality": 90}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "tif": ("TIFF", {}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", {}),
    "avif": ("AVIF", {}),
    "jp2": ("JPEG2000", {}),
    "ppm": ("PPM", {}),
}


@pytest.mark.parametrize("ending", OTHERS)
def test_other_pictures(tmp_path: Path, ending: str) -> None:
    """They are read as they are, and a conversion keeps every pixel."""
    format, options = OTHERS[ending]
    content = picture(format, **options)
    key, suffix = "0", ending.rpartition(".")[2]
    path = write_tar(
        tmp_path / "0.tar", [(f"{key}.{suffix}", content), ("1.jpg", picture("JPEG")), ("2.png", picture())]
    )
    shards, said = opened(path)
    with shards:
        assert (said, len(shards), list(shards.fields), shards.fields["image"].encoding) == ([], 3, ["image"], "mixed")
        spans = shards.spans("image", range(3))
        assert (spans.encoding.tolist(), spans.height.tolist(), spans.width.tolist()) == (
            [OTHER, 0, 2],
            [5] * 3,
            [7] * 3,
        )
        assert shards.read(0)["image"] == content
    assert verify(path).ok
    for kind in ("webdataset", "ffcv"):
        convert("shards", path, tmp_path / kind, format=kind, seed=None)  # type: ignore[arg-type]
        with open_shards(tmp_path / kind) as shards:
            stored = shards.read(0)["image"]
            shown = stored if isinstance(stored, np.ndarray) else decode_image(stored)
            assert np.array_equal(shown, decode_image(content))
            assert shards.places("image", [0]).encoding[0] == (2 if kind == "webdataset" else 1)
        assert verify(tmp_path / kind).ok


@pytest.mark.parametrize("ending", ["jfif", "jpe", "JPG", "Jpeg"])
def test_other_names_of_jpegs(tmp_path: Path, ending: str) -> None:
    shards, said = opened(write_tar(tmp_path / "0.tar", [(f"0.{ending}", picture("JPEG")), ("1.jpg", picture("JPEG"))]))
    with shards:
        assert (said, shards.fields["image"].encoding, len(shards)) == ([], "jpg", 2)


@pytest.mark.parametrize("format", ["WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
@pytest.mark.parametrize("size", [(1, 1), (300, 2), (2, 300), (4097, 3)])
def test_sizes_of_other_pictures(tmp_path: Path, format: str, size: tuple[int, int]) -> None:
    stream = io.BytesIO()
    Image.new("RGB", size, (9, 8, 7)).save(stream, format)
    shards, _ = opened(write_tar(tmp_path / "0.tar", [("0.webp", stream.getvalue())]))
    with shards:
        places = shards.places("image", [0])
        assert (int(places.width[0]), int(places.height[0]), int(places.encoding[0])) == (*size, OTHER)
    for mode in ("lossless", "alpha"):
        if format == "WEBP":
            stream = io.BytesIO()
            Image.new("RGBA", size, (9, 8, 7, 99)).save(stream, "WEBP", lossless=mode == "lossless")
            shards, _ = opened(write_tar(tmp_path / "0.tar", [("0.webp", stream.getvalue())]))
            with shards:
                places = shards.places("image", [0])
                assert (int(places.width[0]), int(places.height[0])) == size


def test_a_set_of_ours_holds_no_other_pictures(tmp_path: Path) -> None:
    from headrace.shards import Field, write_shards

    with pytest.raises(ShardError, match="neither JPEG nor PNG"):
        write_shards(
            tmp_path / "set",
            [{"__key__": "a", "image": picture("WEBP")}],
            {"image": Field(kind="image", encoding="mixed")},
        )


def test_members_that_do_not_lie_side_by_side(tmp_path: Path) -> None:
    files = [(f"{i}.{e}", picture(level=i) if e == "png" else b"%d" % i) for e in ("png", "cls") for i in range(4)]
    path = write_tar(tmp_path / "0.tar", files)
    shards, said = opened(path)
    with shards:
        assert [shards.read(i)["label"] for i in range(4)] == [0, 1, 2, 3]
        assert [shards.read(i)["image"] for i in range(4)] == [picture(level=i) for i in range(4)]
    assert len(said) == 1
    assert (
        "the files of 4 samples do not lie side by side, such as those of 0.tar, key 0: they are joined here" in said[0]
    )
    assert "--sort=name" in said[0]


def test_a_key_that_comes_again_with_the_same_files_is_another_sample(tmp_path: Path) -> None:
    shards, said = opened(write_tar(tmp_path / "0.tar", [("a.cls", b"1"), ("b.cls", b"2"), ("a.cls", b"3")]))
    with shards:
        assert ([shards.read(i)["label"] for i in range(3)], said) == ([1, 2, 3], [])


def test_two_files_of_one_name_in_a_sample(tmp_path: Path) -> None:
    files = captioned(9)
    files.insert(4, ("001.PNG", picture(level=50)))
    shards, _ = opened(write_tar(tmp_path / "0.tar", files))
    with shards:
        assert (len(shards), [(left.key, left.reason) for left in shards.omitted.samples]) == (
            8,
            [("001", "two files png")],
        )


def test_compressed_tars_among_others(tmp_path: Path) -> None:
    """By their content, whatever they are called."""
    packed = gzip.compress(write_tar(tmp_path / "0.tar", captioned(3)).read_bytes())
    (tmp_path / "1.tar").write_bytes(packed)
    (tmp_path / "2.tgz").write_bytes(packed)
    shards, said = opened(tmp_path)
    with shards:
        assert (len(shards), shards.omitted.files) == (3, {"compressed tars": 2})
    assert [line.removeprefix(f"{tmp_path}: ") for line in said] == [
        "left out, because they are compressed, whatever their names say: 1.tar; unpack them",
        "left out, because they are compressed: 2.tgz; unpack them",
    ]


def test_what_belongs_to_no_sample_is_counted(tmp_path: Path) -> None:
    files = [*captioned(2), ("README", b""), ("._000.png", b"\0"), ("__MACOSX/x.png", b"\0"), (".DS_Store", b"")]
    shards, said = opened(write_tar(tmp_path / "0.tar", [*files, ("__meta__/info.json", b"{}")]))
    with shards:
        assert (said, len(shards)) == ([], 2)
        assert shards.omitted.files == {
            "without an ending": 1,
            "a Mac's doubles": 2,
            "hidden": 1,
            "with names as __meta__": 1,
        }
    assert SOURCES["shards"](tmp_path, None).left_out == shards.omitted.files


@pytest.mark.parametrize("bad", [b"", b"seven", b"7.5", b"0x7", b"\xff\xfe", b"9" * 30])
def test_a_class_that_is_no_number_is_one_bad_sample(tmp_path: Path, bad: bytes) -> None:
    files = [(name, bad if name == "004.cls" else content) for name, content in captioned(9)]
    shards, said = opened(write_tar(tmp_path / "0.tar", files))
    with shards:
        assert (said, len(shards), shards.fields["label"].classes) == ([], 9, ())
        assert shards.unreadable("label").tolist() == [4]
        assert shards.ints().tolist() == [-1 if i == 4 else i % 3 for i in range(9)]
        with pytest.raises(ShardError, match=r"0\.tar, offset \d+, key 004: label"):
            shards.read(4)
        assert shards.read(4, ["image"])["image"] == picture(level=4)
    convert("shards", tmp_path / "0.tar", tmp_path / "set", max_rejects=0.2)
    assert [reject["key"] for reject in rejects(tmp_path / "set")] == ["004"]


def test_a_number_among_names_is_one_bad_sample(tmp_path: Path) -> None:
    names = [b"cat", b"dog", b"7", b"dog", b"-1"]
    shards, _ = opened(write_tar(tmp_path / "0.tar", [(f"{i}.cls", name) for i, name in enumerate(names)]))
    with shards:
        assert (shards.fields["label"].classes, shards.ints().tolist()) == (("cat", "dog"), [0, 1, -1, 1, -1])
        assert shards.unreadable("label").tolist() == [2]
        with pytest.raises(ShardError, match=r"key 2: label is the number 7, and others are names, such as 'cat'"):
            shards.read(2)


def test_identifiers_of_which_some_look_like_numbers(tmp_path: Path) -> None:
    ids = [b"1234", b"f00d", b"beef", b"99"]
    shards, said = opened(write_tar(tmp_path / "0.tar", [(f"{i}.id", name) for i, name in enumerate(ids)]))
    with shards:
        assert ([shards.read(i)["id"] for i in range(4)], said) == (["1234", "f00d", "beef", "99"], [])


BROKEN = {
    "empty": b"",
    "text": b"<html>404</html>",
    "cut header": picture("JPEG")[:20],
    "webp without a size": b"RIFF\x20\0\0\0WEBPVP8 " + bytes(30),
    "no pixels in npy": b"\x93NUMPY garbage",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_picture_that_is_none_is_one_bad_sample(tmp_path: Path, what: str) -> None:
    files = [(name, BROKEN[what] if name == "004.png" else content) for name, content in captioned(9)]
    path = write_tar(tmp_path / "0.tar", files)
    shards, said = opened(path)
    with shards:
        assert (said, len(shards), shards.unreadable("image").tolist()) == ([], 9, [4])
        places = shards.places("image", range(9))
        assert (places.encoding[4], places.height[4], places.width[4]) == (UNREADABLE, 1, 1)
        with pytest.raises(ShardError, match=r"0\.tar, offset \d+, key 004: image is no image that can be read \("):
            shards.spans("image", [3, 4])
        assert len(shards.spans("image", [3, 5]).address) == 2
    (line,) = verify(path).problems
    assert "key 004: image is no image that can be read" in line


def test_dots_in_names_are_asked_about(tmp_path: Path) -> None:
    for names in (("img.v1.2.final.png", "img.v1.3.final.png"), ("photo.001.png", "photo.002.png", "photo.003.png")):
        shards, said = opened(write_tar(tmp_path / "0.tar", [(name, picture()) for name in names]))
        shards.close()
        assert any("the first dot of a name ends the key" in line for line in said)
    many: list[tuple[str, bytes | Link]] = [(f"photo.{i:04d}.png", picture()) for i in range(3000)]
    with pytest.raises(
        ShardError, match=r"3,000 files a sample, such as \.0000\.png, .*; the first dot of a name ends the key"
    ):
        open_shards(write_tar(tmp_path / "0.tar", many))


def test_keys_that_no_tar_of_ours_holds(tmp_path: Path) -> None:
    """Made into ones that it does, or rejected with the reason, whatever --max-rejects."""
    keys = [
        "/data/x/0",
        "../y/1",
        "d" * 72 + "/" + "k" * 90,
        "e" * 120,
        "~/2",
        "a//b/3",
        "caf\u0301e/4",
        "long/" * 60 + "5",
    ]
    path = write_tar(tmp_path / "0.tar", [(f"{key}.png", picture(level=i)) for i, key in enumerate(keys)])
    for format, share in itertools.product(("webdataset", "ffcv"), (0.2, 1.0)):
        result = convert("shards", path, tmp_path / f"{format}{share}", format=format, max_rejects=share, seed=None)  # type: ignore[arg-type]
        reasons = [reject["reason"] for reject in rejects(tmp_path / f"{format}{share}")] if result.rejects else []
        assert result.samples + len(reasons) == len(keys)
        assert all("too long for a tar" in reason for reason in reasons)
        assert len(reasons) == (format == "webdataset")
        assert verify(tmp_path / f"{format}{share}").ok


@pytest.mark.parametrize("format", ["TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_other_pictures_that_are_to_be_turned(tmp_path: Path, format: str, orientation: int) -> None:
    """Whatever is done about that, they are read, and look the same opened as they are and converted."""
    exif = Image.Exif()
    exif[0x112] = orientation
    options: dict[str, Any] = {"tiffinfo": exif} if format == "TIFF" else {"exif": exif}
    content = picture(format, **options)
    write_tar(tmp_path / "0.tar", [("0.tif", content), ("1.tif", content)])
    convert("shards", tmp_path / "0.tar", tmp_path / "set", seed=None)
    with open_shards(tmp_path / "0.tar") as found, open_shards(tmp_path / "set") as stored:
        assert np.array_equal(pixels(found, 0), pixels(stored, 0))
        for engine in ("native", "torchvision"):
            views = []
            for shards in (found, stored):
                with Loader(shards, ViewSpec([View(size=4)]), 2, engine=engine, shuffle=False) as loader:
                    views.append(next(iter(loader)).views[0].numpy())
            assert np.array_equal(*views)
