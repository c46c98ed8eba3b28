"""Random access, spans, and what damaged sets get."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.shards import Field, ShardError, ShardSet, mapping, open_shards, write_shards
from headrace.shards.errors import MachineError
from headrace.shards.mapping import MappedFile
from tests.conftest import needs_linux


@pytest.fixture(params=["webdataset", "ffcv"])
def digits(request: pytest.FixtureRequest) -> ShardSet:
    return request.getfixturevalue(f"digits_{request.param}")


@pytest.fixture
def copied(digits: ShardSet, tmp_path: Path) -> Path:
    """A set that a test may damage."""
    return Path(shutil.copytree(digits.path, tmp_path / "set"))


def test_spans_point_at_the_payload(digits: ShardSet) -> None:
    ids = np.random.Generator(np.random.Philox(0)).permutation(len(digits))[:70]
    spans = digits.spans("image", ids)
    assert [part.dtype.str[1:] for part in spans] == ["i8", "i8", "i4", "i4", "u1"]
    for row, i in enumerate(ids):
        content = ctypes.string_at(int(spans.address[row]), int(spans.size[row]))
        assert content == digits.read(int(i))["image"].tobytes()
    assert (spans.height == 28).all()
    assert (spans.width == 28).all()
    assert (spans.encoding == 1).all()


def test_spans_of_jpegs(photos: ShardSet) -> None:
    spans = photos.spans("image", range(len(photos)))
    sizes = {(375, 500), (500, 375)}
    assert set(zip(spans.height.tolist(), spans.width.tolist(), strict=True)) == sizes
    assert (spans.encoding == 0).all()
    assert ctypes.string_at(int(spans.address[30]), int(spans.size[30])) == photos.read(30)["image"]


def test_spans_of_nothing_and_outside(digits: ShardSet) -> None:
    assert len(digits.spans("image", []).address) == 0
    for ids in ([-1], [200], [0, 1 << 62]):
        with pytest.raises(IndexError, match=r"\[0, 200\)"):
            digits.spans("image", ids)
    for i in (-1, 200):
        with pytest.raises(IndexError):
            digits.read(i)
    with pytest.raises(ShardError, match="no field 'img', the set has image, label"):
        digits.spans("img", [0])
    with pytest.raises(ShardError, match="image is of kind image, not int"):
        digits.ints("image")


def test_ints_agree_with_read(digits: ShardSet) -> None:
    labels = digits.ints()
    assert labels.dtype == np.int64
    assert labels.tolist() == [digits.read(i)["label"] for i in range(len(digits))]
    assert np.bincount(labels).tolist() == [20] * 10
    assert not labels.flags.writeable
    assert digits.fields["label"].classes == tuple("0123456789")


def test_where_names_shard_offset_and_key(digits_webdataset: ShardSet) -> None:
    assert len(digits_webdataset.manifest.shards) == 3
    where = digits_webdataset.where(199, "label")
    assert where.startswith("shard-000002.tar, offset ")
    assert where.endswith(", key 000199")
    assert digits_webdataset.key(199) == "000199"


def test_pickles_as_its_path(digits: ShardSet) -> None:
    with pickle.loads(pickle.dumps(digits)) as again:
        np.testing.assert_array_equal(again.read(123)["image"], digits.read(123)["image"])
        assert again.manifest == digits.manifest


def test_threads_share_a_set(digits: ShardSet) -> None:
    with open_shards(digits.path) as shards:
        failures: list[BaseException] = []

        def work(first: int) -> None:
            try:
                for i in range(first, 200, 8):
                    sample = shards.read(i)
                    assert sample["label"] == shards.ints()[i]
                    size = shards.spans("image", [i]).size[0]
                    assert size == sample["image"].nbytes
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def open_descriptors() -> int:
    needs_linux("/proc/self/fd")
    return len(os.listdir("/proc/self/fd"))


def test_no_descriptors_and_after_close_no_maps(digits: ShardSet) -> None:
    before = open_descriptors()
    shards = open_shards(digits.path)
    shards.spans("image", range(200))
    kept = shards.read(0)["image"]
    assert open_descriptors() == before

    def maps() -> int:
        return Path("/proc/self/maps").read_text(encoding="utf-8").count(str(digits.path))

    files = 2 * len(shards.manifest.shards)
    open_by_fixture = maps() - files
    shards.close()
    assert maps() == open_by_fixture
    assert kept.sum() > 0  # a copy
    for use in (lambda: shards.read(0), lambda: shards.spans("image", [0]), shards.ints):
        with pytest.raises(ValueError, match="closed"):
            use()
    shards.close()


def test_views_keep_the_map_alive(digits: ShardSet) -> None:
    path = digits.path / digits.manifest.shards[0].name
    view = MappedFile(path).array[-512:]
    gc.collect()
    assert view.tobytes() == path.read_bytes()[-512:]
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_what_is_not_a_set(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="there is no such file or folder"):
        open_shards(tmp_path / "missing")
    with pytest.raises(ShardError, match=r"no manifest\.json, no \.tar and no \.beton files"):
        open_shards(tmp_path)
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(ShardError, match=r"no manifest\.json"):
        open_shards(tmp_path / "notes.txt")


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(headrace_shards=3), r"version 3, this library reads versions 1 to 2"),
        (lambda m: m.pop("headrace_shards"), r"not the manifest of a shard set"),
        (lambda m: m.update(format="zip"), r"unknown format 'zip'"),
        (lambda m: m.update(samples=199), r"samples is 199, the shards add up to 200"),
        (lambda m: m.update(shards=[]), r"no shards"),
        (lambda m: m.update(shards=5), r"damaged"),
        (lambda m: m.pop("fields"), r"damaged \(KeyError: 'fields'\)"),
        (lambda m: m["fields"].update(Image=m["fields"]["image"]), r"field name 'Image'"),
        (lambda m: m["fields"]["image"].update(kind="hologram"), r"Field.kind must be one of"),
        (lambda m: m["fields"]["label"].update(colour="red"), r"unknown part 'colour'"),
        (lambda m: m["shards"][0].update(name="../shard-000000.tar"), r"must be called shard-000000"),
        (lambda m: m["shards"][0].update(samples=-1), r"-1 is not a count"),
        (lambda m: m["shards"][0].update(xxh128="0"), r"'0' is no XXH3-128"),
        (lambda m: m["shards"][0].update(extra=1), r"damaged \(TypeError"),
        (lambda m: m["fields"].pop("label"), r"shard-000000\.index\.npy: not a valid index"),
    ],
)
def test_a_wrong_manifest(copied: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    rewrite(copied / "manifest.json", change)
    with pytest.raises(ShardError, match=message) as caught:
        open_shards(copied)
    assert str(copied) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"headrace_shards": 2}', b"[" * 100_000])
def test_a_manifest_that_is_not_one(copied: Path, content: bytes) -> None:
    (copied / "manifest.json").write_bytes(content)
    with pytest.raises(ShardError, match=r"manifest\.json"):
        open_shards(copied)


def test_a_set_without_its_manifest_is_not_taken_for_a_foreign_one(copied: Path) -> None:
    (copied / "manifest.json").unlink()
    with pytest.raises(ShardError, match="indexes but no manifest"):
        open_shards(copied)


def test_files_of_the_wrong_size(copied: Path) -> None:
    for path in sorted(copied.glob("shard-000000.*")):
        content = path.read_bytes()
        for damaged in (content[:-1], content + b"\0", b""):
            path.write_bytes(damaged)
            with pytest.raises(ShardError, match=path.name):
                open_shards(copied)
        path.unlink()
        with pytest.raises(ShardError, match=rf"{path.name}: No such file"):
            open_shards(copied)
        path.write_bytes(content)
    open_shards(copied).close()


def damage_index(folder: Path, column: str, value: int) -> None:
    path = folder / "shard-000000.index.npy"
    index = np.load(path)
    index[column][7] = value
    np.save(path, index)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image.offset", 1 << 40),
        ("image.offset", -1),
        ("image.offset", (1 << 63) - 1),
        ("image.size", 1 << 62),
        ("image.size", -(1 << 63)),
        ("image.size", 28 * 28 * 3 + 1),
        ("image.height", 1 << 30),
        ("image.height", 0),
        ("image.width", -28),
        ("image.encoding", 9),
    ],
)
def test_an_index_that_points_outside_is_refused(copied: Path, column: str, value: int) -> None:
    """Also pixels whose height and width claim more than the payload holds: engines trust them."""
    damage_index(copied, column, value)
    with open_shards(copied) as shards:
        with pytest.raises(ShardError, match=r"offset -?\d+, key 000007: image lies outside"):
            shards.spans("image", [0])
        with pytest.raises(ShardError, match=r"key 000007: image lies outside"):
            shards.read(7)
        shards.read(6)
        assert len(shards.spans("label", [7]).address) == 1


def test_an_index_that_was_pickled_is_not_unpickled(copied: Path) -> None:
    path = copied / "shard-000000.index.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ShardError, match="not a valid index"):
        open_shards(copied)


def test_a_flipped_bit_is_found_by_check(copied: Path, digits: ShardSet) -> None:
    shard = copied / digits.manifest.shards[0].name
    content = bytearray(shard.read_bytes())
    offset = int(np.load(copied / "shard-000000.index.npy")["image.offset"][3])
    content[offset + 1000] ^= 4
    shard.write_bytes(content)
    with open_shards(copied) as shards:
        shards.read(3)
    with open_shards(copied, check=True) as shards:
        with pytest.raises(ShardError, match=rf"{shard.name}, offset {offset}, key 000003: image differs from its"):
            shards.read(3)
        shards.read(4)


def test_pixels_that_encode_the_index(tmp_path: Path) -> None:
    """Identity survives: sizes differ, and every pixel says which sample it belongs to."""
    count = 300
    samples = [
        {"__key__": f"{i:04d}", "image": np.full((1 + i % 9, 1 + i % 13, 3), (i % 256, i // 256, 7), np.uint8)}
        for i in range(count)
    ]
    fields = {"image": Field(kind="image", encoding="raw")}
    for format, shard_size in (("webdataset", 40_000), ("ffcv", 1)):
        write_shards(tmp_path / format, samples, fields, format=format, shard_size=shard_size)  # type: ignore[arg-type]
        with open_shards(tmp_path / format) as shards:
            ids = np.random.Generator(np.random.Philox(5)).permutation(count)
            spans = shards.spans("image", ids)
            for row, i in enumerate(ids.tolist()):
                pixels = np.frombuffer(ctypes.string_at(int(spans.address[row]), int(spans.size[row])), np.uint8)
                pixels = pixels.reshape(spans.height[row], spans.width[row], 3)
                assert pixels.shape == (1 + i % 9, 1 + i % 13, 3)
                assert (pixels == (i % 256, i // 256, 7)).all()


def test_a_shard_that_is_cut_short_behind_a_reader(copied: Path) -> None:
    """Its memory is there no more: to touch it is the end of a process."""
    with open_shards(copied) as shards:
        last = shards.read(len(shards) - 1)
        shard = copied / shards.manifest.shards[-1].name
        os.truncate(shard, 4096)
        with pytest.raises(MachineError, match=rf"{shard.name}, offset \d+: cannot be read: the disk fails, or"):
            shards.read(len(shards) - 1)
        assert len(last["image"]) == 28


def test_where_the_system_does_not_copy(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_shards(copied) as shards:
        expected = shards.read(7)
        monkeypatch.setattr(mapping, "process_vm_readv", mapping._missing)
        assert (shards.read(7)["image"] == expected["image"]).all()
