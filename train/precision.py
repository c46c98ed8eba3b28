"""float32 or bfloat16: taken from the hardware, by a short measurement where its name does not tell."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from itertools import islice
from typing import Literal

import numpy as np
import torch

from headrace.models import Method
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, ViewSpec, plan
from headrace.pipeline.batch import drawn_views
from headrace.pipeline.masks import draw_masks
from headrace.train.distributed import World

_SAMPLES = 16  # enough to fill the cores, few enough to take a second or two
_REPEATS = 2
_WORTH_IT = 0.9  # bfloat16 costs digits, so it must take a tenth less time
_HOPELESS = 4.0  # a first step this many times slower than float32's is not made up for by the next ones


def choose_precision(method: Method, world: World, samples: int) -> tuple[Literal["float32", "bfloat16"], str]:
    """("float32" or "bfloat16", the reason in words), the same on all ranks.

    A GPU uses bfloat16 where it supports it. On a CPU bfloat16 may be twice as fast (AMX) or many times slower
    (emulated), so a few forward and backward steps of a copy of `method` are timed in both; every rank must take
    part, for the loss may.

    Args:
        samples: samples of a batch on this rank; at most 16 are used.
    """
    if world.device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU supports it"
        return "float32", "the GPU does not support bfloat16"
    batch = synthetic_batch(method.views, min(samples, _SAMPLES)).to(world.device)
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


def synthetic_batch(views: ViewSpec, samples: int) -> Batch:
    """Noise in the shape of a batch of `views`: uint8, channels-last, with masks and draws, without labels."""
    noise, ids = np.random.default_rng(0), np.arange(samples)
    pixels = [noise.integers(0, 256, (samples, v.size, v.size, 3), np.uint8) for v in views.views]
    return Batch(
        views=[torch.from_numpy(p).permute(0, 3, 1, 2) for p in pixels],
        index=torch.from_numpy(ids),
        labels=None,
        epoch=0,
        normalize=tuple(v.normalize for v in views.views),
        masks=draw_masks(views.masks, 0, 0, ids),
        drawn=drawn_views(plan(views, 0, 0, ids, np.full((samples, 2), 256))),
    )


def _steps(method: Method, batch: Batch, dtype: torch.dtype) -> Iterator[float]:
    """Seconds of one training step after another on a copy of `method`; the first one also warms up."""
    method = copy.deepcopy(method)
    while True:
        began = time.perf_counter()
        with seeded(0), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = method.loss(batch)["loss"]
        loss.backward()
        yield time.perf_counter() - began
