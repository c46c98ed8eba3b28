"""The loader benchmark's work on texts at smoke size; see `test_smoke.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.benchmarks.command import SMOKE_BATCH
from headrace.benchmarks.errors import fetched
from headrace.benchmarks.glosses import glosses
from headrace.benchmarks.packed import HUGGINGFACE
from headrace.benchmarks.test_smoke import smoke, took_part


@pytest.mark.timeout(900)
def test_loader_of_packed_texts(tmp_path: Path) -> None:
    fetched(glosses)
    (comparison,) = smoke("loader", tmp_path, "--works", "packed").values()
    found = took_part(comparison, {"Headrace", HUGGINGFACE})
    for each in found.values():
        assert each["rounds"][0]["samples"] % SMOKE_BATCH == 0
