"""Verify finds what is damaged and names it; compare and inspect say what is there."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from headrace.tools.cli import main
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.upkeep.compare import compare
from headrace.tools.upkeep.inspect import contact_sheet, inspect_shards
from headrace.tools.upkeep.verify import verify
from tests import clips


@pytest.fixture(params=["photos", "photos_ffcv", "digits_webdataset", "digits_ffcv"])
def whole(request: pytest.FixtureRequest) -> ShardSet:
    return request.getfixturevalue(request.param)


@pytest.fixture
def copied(whole: ShardSet, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.path, tmp_path / "set"))


def offset_of(path: Path, row: int, column: str = "image.offset") -> int:
    return int(np.load(path / "shard-000000.index.npy")[column][row])


def flip(path: Path, offset: int, mask: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= mask
    path.write_bytes(content)


def test_whole_sets_are_ok(whole: ShardSet) -> None:
    seen: list[int] = []
    report = verify(whole.path, progress=seen.append)
    assert report.ok, report.problems
    assert (report.samples, report.format) == (len(whole), whole.manifest.format)
    assert str(report).startswith(f"{whole.path}: ok, {len(whole)} samples")
    assert seen[-1] == len(whole)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_a_flipped_bit_is_named_with_file_offset_and_key(copied: Path, whole: ShardSet) -> None:
    shard = copied / whole.manifest.shards[0].name
    offset = offset_of(copied, 5)
    flip(shard, offset + 700)
    problems = verify(copied).problems
    assert any(line.startswith(f"{shard}: its XXH3-128") for line in problems)
    expected = f"{shard.name}, offset {offset}, key {whole.key(5)}: image differs from its checksum"
    assert any(line.startswith(expected) for line in problems)
    assert len(problems) == 2
    assert str(verify(copied)).startswith(f"{copied}: 2 problems\n  ")


def test_one_broken_shard_does_not_hide_the_others(tmp_path: Path, digits_webdataset: ShardSet) -> None:
    path = Path(shutil.copytree(digits_webdataset.path, tmp_path / "set"))
    first, second, third = (path / shard.name for shard in digits_webdataset.manifest.shards)
    first.write_bytes(first.read_bytes()[:-512])
    flip(second, 512 + 128)
    third.unlink()
    problems = "\n".join(verify(path).problems)
    assert f"{first}: its XXH3-128 is not" in problems
    assert re.search(rf"{first}: \d+ bytes, the manifest says {first.stat().st_size + 512};", problems)
    assert f"{second.name}, offset 640, key" in problems
    assert f"{third}: No such file" in problems


def test_a_changed_index_is_found(copied: Path, whole: ShardSet) -> None:
    """A wrong place, a wrong label and a wrong size, each with the checksum of the manifest mended to fit."""
    path = copied / "shard-000000.index.npy"
    original = path.read_bytes()
    for column, change in (("image.offset", 512), ("label.value", 1), ("image.width", -1), ("image.offset", 1 << 50)):
        index = np.load(io.BytesIO(original)).copy()
        index[column][3] += change
        start = len(original) - index.nbytes
        path.write_bytes(original[:start] + index.tobytes())
        assert any("XXH3-128" in line for line in verify(copied).problems)
        manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
        manifest["shards"][0]["index_xxh128"] = xxhash.xxh3_128_hexdigest(path.read_bytes())
        (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        problems = verify(copied).problems
        assert problems, column
        assert all(f"key {whole.key(3)}" in line for line in problems), problems
    path.write_bytes(original)


def test_labels_in_the_index_are_those_in_the_tar(tmp_path: Path, digits_webdataset: ShardSet) -> None:
    path = Path(shutil.copytree(digits_webdataset.path, tmp_path / "set"))
    index_path = path / "shard-000000.index.npy"
    index = np.load(index_path).copy()
    index["label.value"][3] += 1
    content = index_path.read_bytes()
    index_path.write_bytes(content[: len(content) - index.nbytes] + index.tobytes())
    problems = [line for line in verify(path).problems if "XXH3-128" not in line]
    assert len(problems) == 1
    assert "key 000003: label is 3, the index says 4" in problems[0]


def test_a_picture_that_was_broken_before_it_was_written(tmp_path: Path, photos: ShardSet) -> None:
    whole, cut = photos.read(0)["image"], photos.read(1)["image"][:60_000]
    samples = [{"__key__": "whole", "image": whole}, {"__key__": "cut", "image": cut}]
    write_shards(tmp_path / "set", samples, {"image": Field(kind="image", encoding="jpg")})
    (problem,) = verify(tmp_path / "set").problems
    assert "key cut: image does not decode (image file is truncated: there is no end marker)" in problem


def test_fast_decodes_nothing_and_says_so(tmp_path: Path, photos: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [{"__key__": str(i), "image": photos.read(i)["image"][: 60_000 if i == 3 else None]} for i in range(9)]
    path = tmp_path / "set"
    write_shards(path, samples, {"image": Field(kind="image", encoding="jpg")}, shard_size=500_000)
    assert main(["verify", str(path)]) == 1
    assert "key 3: image does not decode" in capsys.readouterr().out
    assert main(["verify", str(path), "--fast"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{path}: ok, 9 samples, ")
    assert last == "names, sizes and checksums only: nothing was decoded (--fast)"
    seen: list[int] = []
    report = verify(path, fast=True, progress=seen.append)
    assert (report.ok, report.decoded, seen[-1]) == (True, False, 9)
    flip(path / "shard-000000.tar", offset_of(path, 1) + 700)
    index = path / "shard-000001.index.npy"
    flip(index, index.stat().st_size - 40)
    assert main(["verify", str(path), "--fast"]) == 1
    problems = capsys.readouterr().out
    assert "shard-000000.tar: its XXH3-128 is not the manifest's" in problems
    assert "shard-000001.index.npy: its XXH3-128 is not the manifest's" in problems
    assert problems.splitlines()[-1] == last
    assert main(["verify", str(path), "--fast", "--repair"]) == 0
    assert "repaired, 7 samples; 2 removed" in capsys.readouterr().out, "what is damaged is looked at in full"


@pytest.mark.peer("av")
def test_a_video_that_is_damaged_in_its_middle(tmp_path: Path) -> None:
    """Its ends decode, and its checksum is that of what was stored."""
    whole = clips.encoded("mp4", "libx264", {}, 0, 60, 10)
    middle = len(whole) // 2
    damaged = whole[: middle - 3000] + bytes(6000) + whole[middle + 3000 :]
    samples = [{"__key__": name, "video": video} for name, video in (("whole", whole), ("damaged", damaged))]
    write_shards(tmp_path / "set", samples, {"video": Field(kind="video", encoding="mp4")})
    (problem,) = verify(tmp_path / "set").problems
    assert "key damaged: video does not decode (packet" in problem
    assert verify(tmp_path / "set", fast=True).ok


def test_keys_that_appear_twice(tmp_path: Path) -> None:
    """Only a set put together by hand can have them."""
    fields = {"label": Field(kind="int")}
    write_shards(tmp_path / "set", [{"__key__": str(i), "label": i} for i in range(9)], fields, shard_size=5000)
    index_path = tmp_path / "set" / "shard-000001.index.npy"
    content = index_path.read_bytes()
    index = np.load(index_path).copy()
    index["key"][0] = b"0"
    index_path.write_bytes(content[: len(content) - index.nbytes] + index.tobytes())
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text(encoding="utf-8"))
    manifest["shards"][1]["index_xxh128"] = xxhash.xxh3_128_hexdigest(index_path.read_bytes())
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    problems = verify(tmp_path / "set").problems
    assert any("key 0: the key appears twice" in line for line in problems)


def test_a_set_without_a_readable_manifest(copied: Path) -> None:
    (copied / "manifest.json").write_text("{", encoding="utf-8")
    report = verify(copied)
    assert not report.ok
    assert "not valid JSON" in str(report)
    with pytest.raises(ShardError, match="no such file or folder"):
        verify(copied / "missing")


def test_files_of_other_programs_are_decoded(tmp_path: Path, photos: ShardSet) -> None:
    content = bytearray((photos.path / "shard-000000.tar").read_bytes())
    (tmp_path / "foreign.tar").write_bytes(content)
    assert verify(tmp_path).ok
    offset, size = (offset_of(photos.path, 1, f"image.{column}") for column in ("offset", "size"))
    content[offset + size - 2000 : offset + size] = bytes(2000)
    (tmp_path / "foreign.tar").write_bytes(content)
    problems = verify(tmp_path).problems
    assert [line.partition(":")[0] for line in problems] == [f"foreign.tar, offset {offset}, key photo_0001"]


def test_compare_tells_what_differs(tmp_path: Path, digits_webdataset: ShardSet, digits_ffcv: ShardSet) -> None:
    assert str(compare(digits_webdataset, digits_ffcv)) == "the same 200 samples"
    samples = [digits_webdataset.read(i) for i in range(200)]
    samples[3]["label"] += 1
    samples[4]["image"] = samples[4]["image"].copy()
    samples[4]["image"][0, 0, 0] ^= 1
    samples[5]["__key__"] = "other"
    write_shards(tmp_path / "set", samples[::-1], digits_webdataset.fields, format="ffcv")
    with open_shards(tmp_path / "set") as changed:
        report = compare(digits_webdataset, changed)
    assert report.samples == 199
    assert sorted(report.differences) == [
        "key 000003: label differs",
        "key 000004: image differs",
        f"key 000005: only in {digits_webdataset.path}",
        f"key other: only in {tmp_path / 'set'}",
    ]


def test_compare_decodes_where_encodings_differ(tmp_path: Path, photos: ShardSet) -> None:
    convert("shards", photos.path, tmp_path / "raw", encode="raw", format="ffcv")
    convert("shards", photos.path, tmp_path / "worse", encode="jpeg", quality=50)
    with open_shards(tmp_path / "raw") as raw, open_shards(tmp_path / "worse") as worse:
        assert compare(photos, raw).ok
        assert len(compare(photos, worse).differences) == len(photos)


def test_inspect_counts(photos: ShardSet, digits_ffcv: ShardSet) -> None:
    report = inspect_shards(photos.path)
    assert (report.samples, report.format, report.shards) == (36, "webdataset", len(photos.manifest.shards))
    image = report.fields["image"]
    assert image.encodings == {"jpg": 36}
    assert image.sizes == {"375x500": 18, "500x375": 18}
    assert image.heights == {"min": 375, "median": 437, "max": 500}
    assert image.bytes == sum(len(photos.read(i)["image"]) for i in range(36))
    assert report.fields["label"].classes == {"china": 18, "flower": 18}
    assert json.loads(json.dumps(report.to_dict()))["samples"] == 36
    text = str(inspect_shards(digits_ffcv.path))
    assert "200 samples in 1 ffcv shards" in text
    assert "200 raw; 28 wide, 28 high" in text
    assert "█" in text


def test_inspect_counts_labels_without_names(tmp_path: Path) -> None:
    samples = [{"__key__": str(i), "label": i % 3 - 1} for i in range(10)]
    write_shards(tmp_path / "set", samples, {"label": Field(kind="int")})
    assert inspect_shards(tmp_path / "set").fields["label"].values == {"min": -1, "max": 1, "different": 3}


def test_a_contact_sheet(tmp_path: Path, digits_ffcv: ShardSet) -> None:
    out = tmp_path / "sheet.png"
    contact_sheet(digits_ffcv, out, columns=5, rows=2, cell=56)
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (2 * 60 + 4, 5 * 60 + 4, 3)
    first = digits_ffcv.read(0)["image"]
    np.testing.assert_array_equal(sheet[4:60, 4:60], first.repeat(2, axis=0).repeat(2, axis=1))
    with pytest.raises(UserError, match="no image field 'label'"):
        contact_sheet(digits_ffcv, out, field="label")
