"""SimCLR, which goes wrong at steps that a test names, also when it is resumed or taken again."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor

from headrace.models import METHODS, Context
from headrace.models.methods.joint.simclr import SimCLR, SimCLRConfig
from headrace.models.parts.collectives import rank
from headrace.pipeline import Batch


class Planted(SimCLR):
    """Its hooks move weights and what it remembers of losses, so that there is something to undo."""

    bad: ClassVar[dict[int, Literal["loss", "gradient"]]] = {}
    """What is not finite, by step, from 1."""
    on_rank: ClassVar[int] = 0
    taken: ClassVar[list[int]] = []
    """The steps whose losses were asked for."""
    trace: Tensor

    def __init__(self, config: SimCLRConfig) -> None:
        super().__init__(config)
        self.register_buffer("trace", torch.zeros(()))
        self.step = 0

    def before_step(self, context: Context) -> None:
        self.step = context.step + 1
        next(self.projector.parameters()).mul_(0.999)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        loss = super().loss(batch)["loss"]
        self.taken.append(self.step)
        match self.bad.get(self.step) if rank() == self.on_rank else None:
            case "loss":
                loss = loss * torch.nan
            case "gradient":
                loss = loss + (0.0 * next(self.parameters()).float().sum()).sqrt()
        self.last = loss.detach()
        return {"loss": loss}

    def after_step(self, context: Context) -> None:
        self.trace.lerp_(self.last, 0.5)


def plant(patch: pytest.MonkeyPatch, bad: dict[int, Literal["loss", "gradient"]], on_rank: int = 0) -> None:
    """Let `method=planted` be a method that is bad at these steps."""
    patch.setitem(METHODS, "planted", METHODS["simclr"]._replace(method=Planted))
    patch.setattr(Planted, "bad", bad)
    patch.setattr(Planted, "on_rank", on_rank)
    patch.setattr(Planted, "taken", [])
