"""The loader benchmark's work on video at smoke size; see `test_smoke.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.benchmarks.clips import SHARE
from headrace.benchmarks.command import SMOKE_BATCH
from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.test_smoke import smoke, took_part
from headrace.benchmarks.videos import sample_videos

BATCH = SMOKE_BATCH // SHARE
CLIPS = f"1 x float32 ({BATCH}, 3, 16, 224, 224) + mask of visible ({BATCH}, 160) and masked ({BATCH}, 1408)"


def videos_or_skip() -> None:
    """As `photographs_or_skip`."""
    try:
        sample_videos()
    except SourceMissing as error:
        if os.environ.get("HEADRACE_REQUIRE_PEERS") == "1":
            pytest.fail(f"HEADRACE_REQUIRE_PEERS=1, but {error}", pytrace=False)
        pytest.skip(str(error))


@pytest.mark.timeout(900)
def test_loader_of_clips(tmp_path: Path) -> None:
    videos_or_skip()
    (comparison,) = smoke("loader", tmp_path, "--works", "video").values()
    found = took_part(comparison, {"Headrace", "TorchCodec", "PyAV", "decoding only"})
    for each in found.values():
        if not each["limit"]:
            assert each["batch"] == CLIPS
            # Normalised pixels of the same three videos; two random clips differ by this much.
            assert abs(each["mean"] - found["Headrace"]["mean"]) < 1.5
