"""Whether each step is good, agreed on by all ranks, without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headrace.train.distributed import World
from headrace.train.stopping import Stop

Kind = Literal["loss", "gradient", "collapse"]
KINDS: tuple[Kind, ...] = ("loss", "gradient", "collapse")


@dataclass(frozen=True)
class Found:
    """The first bad step since the last look."""

    step: int
    """Its number, from 1."""
    kind: Kind
    """What is wrong with it: its loss is not finite, or only its gradient, or features have collapsed."""
    loss: float
    """Of this rank."""
    norm: float
    """Of the whole gradient."""

    def __str__(self) -> str:
        if self.kind == "loss":
            return f"the loss is not finite at step {self.step}"
        if self.kind == "gradient":
            return f"the gradient is not finite at step {self.step}, though the loss is"
        return f"features have collapsed at step {self.step}"


class Watch:
    """Holds back what a bad step would do, and every step behind it until somebody has looked.

    That takes one reduction of four numbers a step, and nobody waits for it: it stays on the device, and what the
    host needs of it, who asked to stop, is read a step later, when a step is under way behind it.
    """

    def __init__(self, world: World, stop: Stop, *, gradient_counts: bool = True) -> None:
        """`gradient_counts` says whether a gradient that is not finite makes a step bad, or it is just left out."""
        self._world, self._stop = world, stop
        self._counts = torch.tensor([True, gradient_counts, True], device=world.device)
        self._never = torch.zeros((), dtype=torch.bool, device=world.device)
        self._before: _Late | None = None
        self._now: _Late | None = None
        self.clear()

    def clear(self) -> None:
        """Forget what was found: the next step is taken again."""
        self._first = torch.zeros(1 + len(KINDS), dtype=torch.int64, device=self._world.device)
        """Number of the first bad step, 0 for none, and which `KINDS` it is of."""
        self._figures = torch.zeros(2, device=self._world.device)
        """Its loss and the norm of its gradient."""

    def step(self, step: int, loss: Tensor, norm: Tensor, collapsed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Note step number `step`, from 1, behind its backward pass.

        Args:
            loss: scalar of this rank.
            norm: of the gradient, see `headrace.train.finite.gradient_norm`.
            collapsed: bool scalar; None where it is not known.

        Returns:
            Scalars on the device, the same on all ranks. The first, float32, is 1 if the optimiser must leave the
            weights alone; the second, bool, is true if the whole step is to be undone.
        """
        asked = torch.full((), self._stop.asked, dtype=torch.int64, device=loss.device)
        figures = torch.stack([loss.detach(), norm.detach()])
        bad = torch.cat([~figures.isfinite(), (self._never if collapsed is None else collapsed)[None]])
        votes = self._world.greatest(torch.cat([asked[None], bad.long()]))
        found = votes[1:] > 0
        counted = found & self._counts
        first = counted.any() & (self._first[0] == 0)
        self._first = torch.where(first, torch.cat([torch.full_like(asked, step)[None], counted.long()]), self._first)
        self._figures = torch.where(first, figures, self._figures)
        if self._world.size > 1:
            self._before, self._now = self._now, _Late(votes[0])
        undone = self._first[0] > 0
        return (found.any() | undone).float(), undone

    @property
    def asked(self) -> int:
        """`Stop.asked`, at once in one process, a step later where ranks must obey it together."""
        if self._world.size == 1:
            return self._stop.asked
        return self._before.read() if self._before else 0

    def look(self) -> Found | None:
        """The first bad step, behind which none was taken; the same on all ranks but for the loss. Waits for the
        device."""
        step, *kinds = self._first.tolist()
        if not step:
            return None
        loss, norm = self._figures.tolist()
        return Found(step, KINDS[kinds.index(1)], loss, norm)


class _Late:
    """A number on the device that is read later: its copy to the host is begun at once."""

    def __init__(self, value: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        self._value = value
        if value.device.type == "cuda":
            self._value = torch.empty_like(value, device="cpu", pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(value.device))

    def read(self) -> int:
        if self._copied:
            self._copied.synchronize()
        return int(self._value)
