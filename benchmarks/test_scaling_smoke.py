"""The benchmark of scaling runs from end to end at smoke size; no time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.benchmarks.command import SMOKE_BATCH, SMOKE_PHOTOGRAPHS
from headrace.benchmarks.test_smoke import smoke, took_part


@pytest.mark.timeout(900)
def test_scaling(tmp_path: Path) -> None:
    comparisons = smoke("scaling", tmp_path)
    for name, names, step, finding in (
        ("plan", {"views", "plan", "order"}, SMOKE_BATCH, "of the views' time"),
        ("set", {f"{count} samples" for count in (SMOKE_PHOTOGRAPHS, 10 * SMOKE_PHOTOGRAPHS)}, SMOKE_BATCH, "times"),
        ("global", {"1,000 samples", "100,000 samples"}, 1, "times as much as of 1,000 samples"),
        ("window", {"1,000 samples", "100,000 samples"}, 1, "times as much as of 1,000 samples"),
        ("views", {"1 view", "2 views"}, 224**2 * SMOKE_BATCH // 4, "a pixel more costs"),
    ):
        for each in took_part(comparisons[name], names).values():
            assert each["rounds"][0]["samples"] % step == 0
        assert finding in comparisons[name]["findings"][0]
