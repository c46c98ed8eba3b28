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


class Clustered(Planted):
    """Its epochs begin with a buffer of another shape and with weights that no optimiser moved."""

    found: Tensor

    def __init__(self, config: SimCLRConfig) -> None:
        super().__init__(config)
        self.register_buffer("found", torch.zeros(0))

    def on_epoch(self, context: Context) -> None:
        self.found = next(self.projector.parameters())[0, : context.epoch + 1].clone()
        next(self.projector.parameters()).mul_(0.5).add_(torch.rand(()))


def plant(patch: pytest.MonkeyPatch, bad: dict[int, Literal["loss", "gradient"]], on_rank: int = 0) -> None:
    """Let the methods "planted" and "clustered" be bad at these steps."""
    for method in (Planted, Clustered):
        patch.setitem(METHODS, method.__name__.lower(), METHODS["simclr"]._replace(method=method))
    patch.setattr(Planted, "bad", bad)
    patch.setattr(Planted, "on_rank", on_rank)
    patch.setattr(Planted, "taken", [])
