"""What a row has to show so that its method is said to learn, and the methods that have none, with the reasons."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

SEEDS = 3
"""The fewest of a row that counts."""

UNLEARNT: dict[str, str] = {}
"""By method; shown below the table."""


def learns(trained: Sequence[float], untrained: Sequence[float]) -> bool:
    """Whether scores after trainings are above those before by more than either spreads, from lowest to highest, over
    at least three seeds."""
    spread = max(max(scores) - min(scores) for scores in (trained, untrained))
    return len(trained) >= SEEDS and statistics.mean(trained) - statistics.mean(untrained) > spread
