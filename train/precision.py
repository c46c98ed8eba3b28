"""float32 or bfloat16: taken from the hardware, by a short measurement where its name does not tell."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal

import torch

from headrace.models import Method
from headrace.models.seeding import seeded
from headrace.pipeline import Batch
from headrace.train.distributed import World

SAMPLES = 16
"""Of a rank's batch to measure with: enough to fill the cores, few enough to take a second or two."""
_REPEATS = 2
_WORTH_IT = 0.9  # bfloat16 costs digits, so it must take a tenth less time
_HOPELESS = 4.0  # a first step this many times slower than float32's is not made up for by the next ones


def choose_precision(
    method: Method, world: World, first_batch: Callable[[], Batch]
) -> tuple[Literal["float32", "bfloat16"], str]:
    """("float32" or "bfloat16", the reason in words), the same on all ranks.

    A GPU uses bfloat16 where it supports it. On a CPU bfloat16 may be twice as fast (AMX) or many times slower
    (emulated), so a few forward and backward steps of a copy of `method` are timed in both; every rank must take
    part, for the loss may.

    Args:
        first_batch: gives this rank's batch to measure with, of some `SAMPLES`; called only where it is needed.
    """
    if world.device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU supports it"
        return "float32", "the GPU does not support bfloat16"
    batch = first_batch()
    plain, mixed = (_steps(method, batch, dtype) for dtype in (torch.float32, torch.bfloat16))
    first, float32 = next(plain), min(islice(plain, _REPEATS))
    mixed_first = next(mixed)
    [hopeless] = world.max(int(mixed_first > _HOPELESS * first))  # one answer: all ranks go on, or none
    if hopeless:
        return "float32", f"{len(batch)} samples took {first:.1f} s in float32, {mixed_first:.1f} s in bfloat16"
    bfloat16 = min(islice(mixed, _REPEATS))
    faster = world.rank == 0 and bfloat16 < _WORTH_IT * float32
    [chosen] = world.max(int(faster))  # rank 0's choice: the others pass 0
    reason = f"{len(batch)} samples take {float32 * 1e3:.0f} ms in float32, {bfloat16 * 1e3:.0f} ms in bfloat16"
    return "bfloat16" if chosen else "float32", reason


def _steps(method: Method, batch: Batch, dtype: torch.dtype) -> Iterator[float]:
    """Seconds of one training step after another on a copy of `method`; the first one also warms up."""
    method = copy.deepcopy(method)
    while True:
        began = time.perf_counter()
        with seeded(0), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = method.loss(batch)["loss"]
        loss.backward()
        yield time.perf_counter() - began
