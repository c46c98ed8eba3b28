"""What a run asks at each step, so that a bad one can be undone, kept and counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from headrace.models import Method
from headrace.train.config import RunConfig
from headrace.train.distributed import World
from headrace.train.guard.held import HeldState
from headrace.train.guard.meters import FeatureMeters
from headrace.train.guard.watch import Found
from headrace.train.precision import Precision


class Guard:
    """A run's meters, the state that steps are undone to, and how many were bad."""

    def __init__(self, config: RunConfig, world: World, method: Method, precision: Precision) -> None:
        self._config = config
        self._meters = FeatureMeters(config.guard, method, world)
        needed = config.guard.capsules > 0 or config.guard.on_bad_step == "skip"
        self._held = HeldState(method, precision) if needed else None
        self._true = torch.ones((), dtype=torch.bool, device=world.device)
        self.in_a_row = 0
        self._in_a_row_until = 0
        """A bad step up to this one is in a row with the last."""
        self.left_out = 0
        """Steps of the run that were not taken, or were taken back."""

    @contextmanager
    def metering(self, step: int) -> Iterator[dict[str, Tensor]]:
        """Around the loss of step number `step`, from 1: its meters are in the dict behind it, if it has any."""
        if not self._config.log.metered(step):
            yield {}
            return
        with self._meters.taken() as meters:
            yield meters

    def collapsed(self, meters: dict[str, Tensor]) -> Tensor | None:
        """See `FeatureMeters.collapsed`."""
        return self._meters.collapsed(meters)

    def keep(self) -> None:
        """Copy what the step moves beside the optimiser; see `HeldState`."""
        if self._held:
            self._held.keep()

    def put_back(self, undone: Tensor) -> None:
        """Put it back where `undone`, a bool scalar on the device, is true."""
        if self._held:
            self._held.put_back(undone)

    @contextmanager
    def on_trial(self) -> Iterator[dict[str, Tensor]]:
        """A step that is taken to look at it: metered, and undone when the block is left."""
        assert self._held is not None
        self._held.keep()
        with self._meters.taken() as meters:
            yield meters
        self._held.put_back(self._true)

    def count(self, found: Found) -> None:
        """Note a bad step in `in_a_row`."""
        self.in_a_row = self.in_a_row + 1 if found.step <= self._in_a_row_until else 1
        log = self._config.log
        self._in_a_row_until = found.step + 1
        if found.kind == "collapse":
            self._in_a_row_until = found.step + log.every_steps * log.meters_every
        if self._config.guard.on_bad_step == "roll_back" and (every := self._config.checkpoint.every_steps):
            self._in_a_row_until = max(self._in_a_row_until, (found.step // every + 1) * every)

    def figures(self) -> dict[str, float]:
        """For a line of metrics."""
        return {"left_out": self.left_out} if self.left_out else {}

    def state_dict(self) -> dict[str, Any]:
        """The counts, in plain values, for a checkpoint."""
        return {"in_a_row": self.in_a_row, "until": self._in_a_row_until, "left_out": self.left_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; nothing where it is empty."""
        self.in_a_row, self._in_a_row_until = state.get("in_a_row", 0), state.get("until", 0)
        self.left_out = state.get("left_out", 0)
