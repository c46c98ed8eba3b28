"""Settings are judged by training samples that the probes do not learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.benchmarks.learning import choosing
from headrace.benchmarks.learning.choosing import probe_held_out


def test_every_fifth_training_sample_judges_and_none_for_testing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Opened:
        def __init__(self, path: Path) -> None:
            opened.append(path.name)

        def __enter__(self) -> Opened:
            return self

        def __exit__(self, *of: Any) -> None: ...

    monkeypatch.setattr(choosing, "open_shards", Opened)
    rows = np.arange(12, dtype=np.float32)[:, None], np.arange(12)
    monkeypatch.setattr(choosing, "extract_features", lambda encode, shards, inputs: rows)
    seen: list[list[int]] = []

    def scores_of(*sides: Any) -> dict[str, float]:
        for features, labels in sides:
            assert features[:, 0].tolist() == labels.tolist()
            seen.append(labels.tolist())
        return {"knn": 0.5}

    monkeypatch.setattr(choosing, "scores_of", scores_of)
    assert probe_held_out(lambda batch: batch, None, tmp_path) == {"knn": 0.5}  # type: ignore[arg-type,return-value]
    assert seen == [[0, 1, 2, 3, 5, 6, 7, 8, 10, 11], [4, 9]]
    assert opened == ["train"]
