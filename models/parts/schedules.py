"""Numbers that change over a run, as functions of how much of it is done."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` on half a cosine, as `progress` goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def linear(start: float, end: float, progress: float) -> float:
    """From `start` to `end` on a line, as `progress` goes from 0 to 1; `end` afterwards."""
    return start + (end - start) * min(1.0, progress)
