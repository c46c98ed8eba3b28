"""Sets of more shards than a process may have descriptors, or maps."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headrace.pipeline import Loader, View, ViewSpec
from headrace.shards import Field, ShardSet, open_shards, opened, write_shards
from headrace.shards.errors import MachineError
from headrace.shards.manifest import index_name, shard_name
from tests.conftest import needs_linux

FIELDS = {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int", classes=("a", "b"))}


def write_many(path: Path, shards: int) -> None:
    """A set of so many shards, of one or two samples in turn, that are links to two files: file systems allow some
    65,000 links to a file."""
    sources = []
    for number in range(2):
        samples = [
            {"__key__": f"{number}{i}", "image": np.full((2, 2, 3), 10 * number + i, np.uint8), "label": number}
            for i in range(1 + number)
        ]
        write_shards(path.with_name(f"{path.name}-{number}"), samples, FIELDS)
        source = path.with_name(f"{path.name}-{number}")
        sources.append((source, json.loads((source / "manifest.json").read_text(encoding="utf-8"))))
    path.mkdir()
    entries = []
    for number in range(shards):
        source, manifest = sources[number % 2]
        name = shard_name(number, "webdataset")
        entries.append({**manifest["shards"][0], "name": name, "index": index_name(name)})
        for old, new in (
            (shard_name(0, "webdataset"), name),
            (index_name(shard_name(0, "webdataset")), index_name(name)),
        ):
            link(source / old, f"{path}/{new}")
    document = {**sources[0][1], "shards": entries}
    document |= {count: sum(entry[count] for entry in entries) for count in ("samples", "bytes")}
    (path / "manifest.json").write_text(json.dumps(document), encoding="utf-8")


def link(source: Path, place: str) -> None:
    try:
        os.link(source, place)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        fresh = source.with_suffix(".fresh")
        shutil.copy2(source, fresh)
        fresh.replace(source)
        os.link(source, place)


READS = """
import resource, sys
import numpy as np
from headrace.shards import open_shards
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
shards = open_shards(sys.argv[1])
count = int(sys.argv[2])
assert len(shards) == 3 * (count // 2), len(shards)
ids = np.random.Generator(np.random.Philox(0)).integers(0, len(shards), 500)
spans = shards.spans("image", ids)
for i in (0, 1, 2, len(shards) - 1, *ids[:50].tolist()):
    sample = shards.read(i)
    assert sample["__key__"] == ("00", "10", "11")[i % 3], (i, sample)
    assert (sample["image"] == (0, 10, 11)[i % 3]).all()
assert shards.ints().tolist() == [0, 1, 1] * (count // 2)
assert open("/proc/self/maps").read().count(sys.argv[1]) < 2_100 or count < 4_096
resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
print(resident)
"""


@pytest.mark.parametrize("shards", [1_100, 100_000])
def test_a_set_opens_and_reads_with_few_descriptors(shards: int, tmp_path: Path) -> None:
    needs_linux("/proc/self/maps")
    path = tmp_path / "set"
    try:
        write_many(path, shards)
        command = [sys.executable, "-c", READS, str(path), str(shards)]
        ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        assert ended.returncode == 0, ended.stderr
        assert int(ended.stdout) < 600 << 20
    finally:
        shutil.rmtree(tmp_path)  # pytest would keep 200,000 files


@pytest.fixture
def lazily(photos: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of which two shards at most are kept mapped."""
    monkeypatch.setattr("headrace.shards.shard_set.FEW", 0)
    monkeypatch.setattr(opened, "SHARD_MAPS", 2)
    monkeypatch.setattr(opened, "INDEX_MAPS", 1)
    return Path(shutil.copytree(str(photos.path), tmp_path / "set"))


def maps(path: Path) -> int:
    needs_linux("/proc/self/maps")
    return Path("/proc/self/maps").read_text(encoding="utf-8").count(f"{path}/")


def test_maps_are_few_and_stay_while_somebody_reads(lazily: Path, photos: ShardSet) -> None:
    with open_shards(lazily) as shards:
        assert maps(lazily) == 0
        for i in range(len(shards)):
            assert shards.read(i) == photos.read(i)
            assert maps(lazily) <= 3
        held = shards.spans("image", range(len(shards)))
        part = held.address[-3:].copy()
        sizes = held.size
        assert maps(lazily) >= len(shards.manifest.shards)
        for i in range(len(shards)):
            shards.read(i)
        content = [ctypes.string_at(int(a), int(s)) for a, s in zip(held.address, sizes, strict=True)]
        assert content == [photos.read(i)["image"] for i in range(len(shards))]
        del held
        count = len(shards.manifest.shards)
    assert ctypes.string_at(int(part[-1]), int(sizes[-1])) == content[-1]
    assert maps(lazily) == count
    del part
    assert maps(lazily) == 0


def test_a_loader_gives_the_same_batches(lazily: Path, photos: ShardSet) -> None:
    spec = ViewSpec([View(size=16)])
    with open_shards(lazily) as shards, Loader(shards, spec, 9, threads=2) as ours, Loader(photos, spec, 9) as theirs:
        for one, other in zip(ours, theirs, strict=True):
            assert one.index.tolist() == other.index.tolist()
            assert (one.views[0] == other.views[0]).all()


@pytest.mark.parametrize("kind", ["shard", "index"])
@pytest.mark.parametrize("change", ["gone", "other size", "other time"])
def test_a_file_that_is_not_the_one_that_was_there(lazily: Path, kind: str, change: str) -> None:
    name = shard_name(1, "webdataset")
    file = lazily / (name if kind == "shard" else index_name(name))
    with open_shards(lazily) as shards:
        if change == "gone":
            file.unlink()
        elif change == "other size":
            os.truncate(file, file.stat().st_size - 1)
        else:
            os.utime(file, ns=(0, 0))
        said = "No such file" if change == "gone" else "has changed since the set was opened|not a valid index"
        with pytest.raises(MachineError, match=rf"{file.name}: ({said})"):
            [shards.read(i) for i in range(len(shards))]
        with pytest.raises(MachineError, match=rf"{file.name}: ({said})"):
            shards.spans("image", range(len(shards)))
