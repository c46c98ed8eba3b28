"""float32, bfloat16 or float16 in the forward pass: how each is trained with, and which of the first two is faster."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from headrace.models import Method
from headrace.models.seeding import seeded
from headrace.pipeline import Batch
from headrace.train.distributed import World
from headrace.train.errors import RunError

LEAST_SCALE = 2.0**-14
"""Of float16's loss; a run whose gradient is not finite with this one ends (arXiv 1710.03740; fairseq's is 1e-4)."""


class Precision:
    """What a step of training needs to know of the numbers' format.

    float16 has no numbers below 6e-8, where gradients get lost, so the loss is multiplied by a scale before the
    backward pass and the gradient divided by it behind (arXiv 1710.03740, by `torch.amp.GradScaler`). The scale begins
    at 65536 and doubles after 2000 steps. A step whose gradient is not finite is left out and halves it; the first
    steps of a run may be such. In the other formats nothing is scaled and no step left out.
    """

    def __init__(self, name: Literal["auto", "float32", "bfloat16", "float16"], device: torch.device) -> None:
        self.scaled = name == "float16"
        """Whether steps may be left out."""
        self._device = device
        self._dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.scaled)
        self._skipped = torch.zeros((), device=device)
        self._scaler.scale(self._skipped)  # it makes its tensors when it is first used

    def autocast(self) -> torch.autocast:
        """The context of the forward pass."""
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar, scaled."""
        self._scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide what the step's backward passes gave; nothing is read back from the device."""
        self._scaler.unscale_(optimizer)

    def after_step(self, bad: Tensor) -> None:
        """Find the scale of the next step. `bad`, a float32 scalar on the device, is 1 if this one was left out."""
        if self.scaled:
            self._scaler.update()
            self._skipped += bad

    def state(self) -> list[Tensor]:
        """The tensors that `after_step` moves."""
        if not self.scaled:
            return []
        tensors = self._scaler._scale, self._scaler._growth_tracker, self._skipped
        return [tensor for tensor in tensors if tensor is not None]

    def figures(self) -> dict[str, float]:
        """For a line of metrics; waits for the device."""
        return {"loss_scale": self._scaler.get_scale(), "skipped_steps": int(self._skipped)} if self.scaled else {}

    def check(self, out: Path) -> None:
        """Raise RunError if no scale makes the gradient finite. Waits for the device."""
        if self.scaled and (scale := self._scaler.get_scale()) < LEAST_SCALE:
            raise RunError(
                f"{out}: the gradient is not finite in float16, not even with a loss scale of {2 * scale:g}; "
                "precision=bfloat16 or float32 may help"
            )

    def state_dict(self) -> dict[str, Any]:
        """The scale, its age, and how many steps were left out; nothing where nothing is scaled."""
        return {**self._scaler.state_dict(), "skipped": int(self._skipped)} if self.scaled else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if self.scaled:
            self._scaler.load_state_dict(state)
            self._skipped.fill_(state["skipped"])


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
