"""Sets of version 1 are read, verified, repaired and converted as before, and damage in them is seen.

tests/data/version1.zip holds one of each format, written by the last Headrace whose manifests had that version.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from headrace.pipeline import Loader, View, ViewSpec
from headrace.shards import ShardError, open_shards
from headrace.tools.conversion.convert import convert
from headrace.tools.upkeep.compare import compare
from headrace.tools.upkeep.inspect import inspect_shards
from headrace.tools.upkeep.repair import RepairReport, repair
from headrace.tools.upkeep.repair_plan import plan_repair
from headrace.tools.upkeep.verify import verify

COUNT = 12
FORMATS = ("webdataset", "ffcv")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version1")
    zipfile.ZipFile(Path(__file__).parents[2] / "data" / "version1.zip").extractall(folder)
    return folder


@pytest.fixture(scope="module", params=FORMATS)
def whole(request: pytest.FixtureRequest, both: Path) -> Path:
    """Not to be changed."""
    return both / str(request.param)


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    path = tmp_path / "set"
    path.mkdir()
    for file in whole.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def manifest_of(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    return document


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def damage_sample(path: Path, row: int) -> str:
    """Change one bit in the middle of a picture of the first shard; the key of its sample."""
    record = np.load(path / "shard-000000.index.npy")[row]
    (shard,) = path.glob("shard-000000.[tb]*")
    flip(shard, int(record["image.offset"]) + int(record["image.size"]) // 2)
    return str(record["key"].decode())


def repaired(path: Path) -> RepairReport:
    report = verify(path)
    assert not report.ok
    done = repair(plan_repair(path, report))
    again = verify(path)
    assert again.ok, again.problems
    return done


def test_the_fixture_is_of_version_1(whole: Path) -> None:
    """By hashlib and zlib alone."""
    document = manifest_of(whole)
    assert document["headrace_shards"] == 1
    for shard in document["shards"]:
        content = (whole / shard["name"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        assert shard["index_sha256"] == hashlib.sha256((whole / shard["index"]).read_bytes()).hexdigest()
        for record in np.load(whole / shard["index"]):
            for name in document["fields"]:
                offset, size = int(record[f"{name}.offset"]), int(record[f"{name}.size"])
                assert record[f"{name}.crc32"] == zlib.crc32(content[offset : offset + size])


def test_every_value_is_read(whole: Path, both: Path) -> None:
    pictures = {}
    for path in both.glob("webdataset/*.tar"):
        with tarfile.open(path) as tar:
            pictures |= {m.name: tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")}  # type: ignore[union-attr]
    with open_shards(whole, check=True) as shards:
        assert (len(shards), shards.manifest.version) == (COUNT, 1)
        assert shards.fields["label"].classes == ("a", "b", "c")
        for i in range(COUNT):
            sample = shards.read(i)
            boxes, image = sample.pop("boxes"), sample.pop("image")
            assert sample == {
                "__key__": f"some/{i:04d}",
                "label": i % 3,
                "score": i / 7,
                "text": f"größer {i}",
                "meta": {"n": [i, None]},
                "blob": bytes([i]) * i,
            }
            np.testing.assert_array_equal(boxes, np.arange(8, dtype=np.float32).reshape(2, 4) + i)
            if i % 3 == 2:
                np.testing.assert_array_equal(image, ((np.arange(1800) + i) % 256).reshape(20, 30, 3))
            else:
                assert image == pictures[f"some/{i:04d}.jpg"]
    assert verify(whole).ok
    assert inspect_shards(whole).samples == COUNT


def test_a_remote_set_is_read(whole: Path, tmp_path: Path) -> None:
    url = f"file://{whole}"
    for _ in range(2):  # fetched, then from the cache
        with open_shards(url, check=True, cache_dir=tmp_path, cache_bytes=8 << 20) as far, open_shards(whole) as near:
            assert compare(near, far).ok
    assert verify(url).ok


def test_the_loader_gives_the_batches_of_a_converted_set(whole: Path, tmp_path: Path) -> None:
    convert("shards", whole, tmp_path / "new", seed=None)
    batches = []
    for path in (whole, tmp_path / "new"):
        with open_shards(path) as shards, Loader(shards, ViewSpec.repeat(View(size=16), 2), 4, seed=3) as loader:
            batches.append([(b.index.tolist(), *(view.numpy().copy() for view in b.views)) for b in loader])
    assert len(batches[0]) == COUNT // 4
    for old, new in zip(*batches, strict=True):
        assert old[0] == new[0]
        assert all(np.array_equal(a, b) for a, b in zip(old[1:], new[1:], strict=True))


def test_converting_writes_version_2(whole: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    convert("shards", whole, new, seed=None)
    document = manifest_of(new)
    assert document["headrace_shards"] == 2
    for shard in document["shards"]:
        content = (new / shard["name"]).read_bytes()
        assert shard["xxh128"] == xxhash.xxh3_128_hexdigest(content)
        assert shard["index_xxh128"] == xxhash.xxh3_128_hexdigest((new / shard["index"]).read_bytes())
        assert not {"sha256", "index_sha256", "checksum", "index_checksum"} & shard.keys()
        index = np.load(new / shard["index"])
        assert not [name for name in index.dtype.names if name.endswith(".crc32")]
        for record in index:
            for name in document["fields"]:
                offset, size = int(record[f"{name}.offset"]), int(record[f"{name}.size"])
                assert record[f"{name}.xxh64"] == xxhash.xxh3_64_intdigest(content[offset : offset + size])
    with open_shards(whole, check=True) as old, open_shards(new, check=True) as shards:
        assert compare(old, shards).ok
    assert verify(new).ok


def test_damage_is_seen(copied: Path) -> None:
    key = damage_sample(copied, 1)
    with open_shards(copied, check=True) as shards:
        with pytest.raises(ShardError, match=rf"key {key}: image differs from its checksum"):
            shards.read(1)
        shards.read(0)
    problems = verify(copied).problems
    assert any("its SHA-256 is not the manifest's" in line for line in problems)
    assert any(f"key {key}: image differs from its checksum" in line for line in problems)
    flip(copied / "shard-000000.index.npy", -1)
    with pytest.raises(ShardError, match=r"not a valid index \(its SHA-256 is not the manifest's\)"):
        open_shards(copied, check=True)


def test_a_repair_keeps_the_version(copied: Path, whole: Path) -> None:
    key = damage_sample(copied, 1)
    done = repaired(copied)
    assert (done.samples, done.removed) == (COUNT - 1, 1)
    document = manifest_of(copied)
    assert document["headrace_shards"] == 1
    first = document["shards"][0]
    assert first["sha256"] == hashlib.sha256((copied / first["name"]).read_bytes()).hexdigest()
    with open_shards(whole) as old, open_shards(copied, check=True) as new:
        assert compare(old, new).differences == [f"key {key}: only in {whole}"]


def test_a_lost_index_is_made_anew(copied: Path, whole: Path) -> None:
    """Byte for byte in a tar; a .beton does not hold the keys."""
    (copied / "shard-000000.index.npy").unlink()
    assert repaired(copied).removed == 0
    if whole.name == "webdataset":
        assert files(copied) == files(whole)
    else:
        old, new = (np.load(path / "shard-000000.index.npy") for path in (whole, copied))
        assert old.dtype.names == new.dtype.names
        for column in old.dtype.names[:-1]:
            assert np.array_equal(old[column], new[column]), column


@pytest.mark.parametrize("version", [0, 4, "1", "3", 1.0, True, None, [1]])
def test_other_versions_are_refused(copied: Path, version: object) -> None:
    path = copied / "manifest.json"
    path.write_text(json.dumps({**manifest_of(copied), "headrace_shards": version}), encoding="utf-8")
    with pytest.raises(ShardError) as caught:
        open_shards(copied)
    expected = f"{path}: version {version!r}, this library reads versions 1 to 3; "
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_a_version_without_its_checksums_is_refused(copied: Path) -> None:
    """Nothing is taken for the other version: neither a manifest nor an index."""
    document = manifest_of(copied)
    path = copied / "manifest.json"
    path.write_text(json.dumps({**document, "headrace_shards": 2}), encoding="utf-8")
    with pytest.raises(ShardError, match=r"damaged \(TypeError: .*index_sha256, index_xxh128, sha256, xxh128"):
        open_shards(copied)
    for shard in document["shards"]:
        for name in ("", "index_"):
            shard[f"{name}xxh128"] = shard.pop(f"{name}sha256")[:32]
    path.write_text(json.dumps({**document, "headrace_shards": 2}), encoding="utf-8")
    with pytest.raises(ShardError, match=r"index\.npy: not a valid index \(its columns are not those"):
        open_shards(copied)
