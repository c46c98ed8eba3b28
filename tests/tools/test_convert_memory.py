"""The memory of a conversion does not grow with the set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.shards import ShardSet
from headrace.shards.manifest import Format

CONVERT = """
import resource, sys
from headrace.tools.convert import convert
src, out, format, encode = sys.argv[1:]
result = convert("folder", src, out, format=format, encode=encode, shard_size=4 << 20, workers=1)
print(result.samples, result.bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
FEW, MANY = 150, 1500
PER_SAMPLE = 2_000
"""Bytes that a sample may take: its path and key in the source's list and in the check that keys are unique."""
SLACK = 12 << 20
"""Of the allocator."""


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_ten_times_the_samples(photos: ShardSet, tmp_path: Path, format: Format) -> None:
    found = {}
    for count in (FEW, MANY):
        root = tmp_path / str(count)
        root.mkdir()
        for i in range(count):
            original = tmp_path / f"{i % len(photos)}.jpg"
            if not original.exists():
                original.write_bytes(photos.read(i % len(photos))["image"])
            os.link(original, root / f"{i:05d}.jpg")
        command = [sys.executable, "-c", CONVERT, str(root), str(tmp_path / f"set-{count}"), format, "keep"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        samples, size, found[count] = map(int, printed)
        assert samples == count
    assert size > 2 * SLACK, "the set must be larger than what is allowed for"
    assert found[MANY] - found[FEW] < SLACK + PER_SAMPLE * (MANY - FEW)
