"""Numbers that change over a run, as functions of how much of it is done."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` on half a cosine, as `progress` goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def linear(start: float, end: float, progress: float) -> float:
    """From `start` to `end` on a line, as `progress` goes from 0 to 1; `end` afterwards."""
    return start + (end - start) * min(1.0, progress)


def warmed_up(start: float, end: float, done: int, length: int) -> float:
    """From `start` to `end` on a line of `length` points, ends included, of which `done` have passed; `end` behind the
    last one. DINO's teachers are warmed up so."""
    return linear(start, end, done / max(1, length - 1) if done < length else 1.0)
