"""The committed scores: every method learns, or is listed with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.benchmarks.learning.unlearnt import UNLEARNT, learns
from headrace.models import METHODS

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    (path,) = RESULTS.glob("methods_*.json")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return found


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_or_is_listed_with_the_reason(name: str, rows: list[dict[str, Any]]) -> None:
    shown = any(learns(row["scores"], row["untrained_scores"]) for row in rows if row["method"] == name)
    assert shown != (name in UNLEARNT), "learnt and listed" if shown else "neither learnt nor listed"


def test_the_list_is_below_the_table() -> None:
    (path,) = RESULTS.glob("methods_*.md")
    text = path.read_text(encoding="utf-8")
    assert all(f"- {name}: {reason}" in text for name, reason in UNLEARNT.items())


def test_learning_is_more_than_the_spread_over_three_seeds() -> None:
    assert learns([0.5, 0.6, 0.55], [0.4, 0.45, 0.42])
    assert not learns([0.5, 0.6, 0.55], [0.4, 0.6, 0.42])  # 0.2 between those that are not trained
    assert not learns([0.5, 0.6], [0.4, 0.45])
