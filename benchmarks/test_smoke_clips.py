"""The loader benchmark's work on video at smoke size; see `test_smoke.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.benchmarks.clips import SHARE
from headrace.benchmarks.command import SMOKE_BATCH
from headrace.benchmarks.errors import fetched
from headrace.benchmarks.test_smoke import smoke, took_part
from headrace.benchmarks.videos import sample_videos

BATCH = SMOKE_BATCH // SHARE
CLIPS = f"1 x float32 ({BATCH}, 3, 16, 224, 224) + mask of visible ({BATCH}, 160) and masked ({BATCH}, 1408)"


@pytest.mark.timeout(900)
def test_loader_of_clips(tmp_path: Path) -> None:
    fetched(sample_videos)
    (comparison,) = smoke("loader", tmp_path, "--works", "video").values()
    found = took_part(comparison, {"Headrace", "TorchCodec", "PyAV", "decoding only"})
    for each in found.values():
        if not each["limit"]:
            assert each["batch"] == CLIPS
            # Normalised pixels of the same three videos; two random clips differ by this much.
            assert abs(each["mean"] - found["Headrace"]["mean"]) < 1.5
