"""The memory of a conversion does not grow with the set, but for the list of its samples, nor with the cores."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrace.shards import ShardSet
from headrace.shards.manifest import Format
from headrace.tools.conversion import units
from tests.conftest import needs_linux

CONVERT = """
import resource, sys
from headrace.tools.conversion.convert import convert
src, out, format, encode = sys.argv[1:]
result = convert("folder", src, out, format=format, encode=encode, shard_size=5 << 20, workers=2)
peaks = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(result.samples, result.bytes, *peaks)
"""
SLACK = 12 << 20
"""Of the allocator."""


def peaks(files: list[Path], count: int, folder: Path, format: Format) -> tuple[int, np.ndarray]:
    """(bytes of the set, highest memory of the first process and of the largest worker) for links to some files."""
    needs_linux("memory's peak in kB")
    root = folder / str(count)
    root.mkdir()
    for i in range(count):
        os.link(files[i % len(files)], root / f"{i:05d}.jpg")
    command = [sys.executable, "-c", CONVERT, str(root), str(folder / f"set-{count}"), format, "keep"]
    printed = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.split()
    samples, size, *found = map(int, printed)
    assert samples == count
    return size, np.array(found)


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_ten_times_the_bytes(photos: ShardSet, tmp_path: Path, format: Format) -> None:
    files = [tmp_path / f"{i}.jpg" for i in range(len(photos))]
    for i, file in enumerate(files):
        file.write_bytes(photos.read(i)["image"])
    few = peaks(files, 150, tmp_path, format)[1]
    size, many = peaks(files, 1500, tmp_path, format)
    assert size > 4 * SLACK, "the set must be larger than what is allowed for"
    assert (many - few < SLACK).all(), (many - few).tolist()


def test_many_samples(tmp_path: Path) -> None:
    """A sample costs its path, its key and the like: in the list of the first process, and of a worker that has come
    to have one of its own."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    (tmp_path / "tiny.jpg").write_bytes(stream.getvalue())
    few, many = (peaks([tmp_path / "tiny.jpg"], count, tmp_path, "webdataset")[1] for count in (1_000, 17_000))
    assert (many - few < 16_000 * 1_000).all(), (many - few).tolist()


@pytest.mark.parametrize("threads", [2, 8])
def test_what_threads_read_ahead_is_weighed(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    size, limit = 1 << 20, 16 << 20
    monkeypatch.setattr(units, "AHEAD_BYTES", limit)
    lock = threading.Lock()
    alive = peak = 0

    def change(by: int) -> None:
        nonlocal alive, peak
        with lock:
            alive += by
            peak = max(peak, alive)

    def attempt(i: int) -> units.Sample:
        value = np.empty(size, np.uint8)
        change(size)
        weakref.finalize(value, change, -size)
        return {"__key__": str(i), "value": value}

    keys = [sample["__key__"] for sample in units.converted(attempt, np.arange(200), threads)]
    assert keys == [str(i) for i in range(200)]
    assert peak <= limit + 2 * size  # and what the reader has in its hands
    assert threads == 2 or peak > limit / 2, "and yet the threads are busy"


def test_the_next_sample_may_be_larger_than_what_may_be_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "AHEAD_BYTES", 10)
    found = units.converted(lambda i: {"__key__": str(i), "value": bytes(100)}, np.arange(20), 4)
    assert len(list(found)) == 20
