"""What the loader asks of an engine."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from headrace.pipeline.plan import Plan
from headrace.shards import Spans


class StageTimes(NamedTuple):
    """Thread seconds that one `render` call spent in each stage."""

    decode_s: float
    augment_s: float


class Engine(Protocol):
    """Applies plans. Deterministic, and safe to call from several threads at once."""

    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        """Write the V views of n samples into arrays (n, S, S, 3), uint8 levels or float32 normalised."""
