"""How long work takes on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

import torch


def finish(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def per_second(work: Callable[[], int], device: torch.device, seconds: float) -> float:
    """Units a second, of which each call of `work` does so many, over at least `seconds`."""
    finish(device)
    done, began = 0, perf_counter()
    while perf_counter() < began + seconds or not done:
        for _ in range(4 if seconds >= 0.1 else 1):  # so that the device is never out of work
            done += work()
        finish(device)
    return done / (perf_counter() - began)


def in_turn(
    works: Mapping[str, Callable[[], int]], device: torch.device, seconds: float, rounds: int
) -> dict[str, list[float]]:
    """`per_second` of each in every round, after a call to warm up."""
    for work in works.values():
        work()
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            rates[name].append(per_second(work, device, seconds))
    return rates


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median of the ratios round by round."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))
