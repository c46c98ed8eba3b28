"""What ends a run before its time: signals, its wall time, and what is not finite; all ranks decide alike."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import NoReturn

import torch
from torch import Tensor

from headrace.train.checkpoint import checkpoint_paths
from headrace.train.distributed import World
from headrace.train.errors import RunError
from headrace.train.metrics import Ending

WALL_TIME = 1000
"""Stands for the end of the wall time among the numbers of signals."""


class Stop:
    """What asks the run to stop: a signal, whose handler fills it, or the clock."""

    signal: int = 0
    """The signal that asked, 0 for none."""
    deadline: float = math.inf
    """When the wall time is over, on the clock of `perf_counter`."""

    @property
    def asked(self) -> int:
        """A signal's number, WALL_TIME, or 0 for neither."""
        return self.signal or (WALL_TIME if perf_counter() >= self.deadline else 0)


def interrupted(asked: int, step: int, total: int) -> Ending:
    """The end of a run that was asked to stop, see `Stop.asked`, with a checkpoint after `step` of `total` steps."""
    by = "wall time" if asked == WALL_TIME else signal.Signals(asked).name
    line = f"{by}: stopped at step {step} of {total} with a checkpoint; run again to resume"
    return Ending(why=by, line=line, step=step)


@contextmanager
def stop_signals(hours: float | None = None) -> Iterator[Stop]:
    """Note SIGINT and SIGTERM instead of dying of them; a second one acts as usual. Only in the main thread.

    Args:
        hours: wall time from now on, after which to stop as well; None for no end.
    """
    stop = Stop()
    if hours is not None:
        stop.deadline = perf_counter() + 3600 * hours
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Watch:
    """Whether each step's loss and gradient are finite and the run was asked to stop, agreed on by all ranks.

    That takes one reduction of three numbers a step, and nobody waits for it: it stays on the device, and what the
    host needs of it, who asked, is read a step later, when a step is under way behind it.
    """

    def __init__(self, world: World, stop: Stop, *, gradient_counts: bool = True) -> None:
        """`gradient_counts` says whether a gradient that is not finite ends the run, or its step is just left out."""
        self._world, self._stop = world, stop
        self._counts = torch.tensor([True, gradient_counts], device=world.device)
        self._first = torch.zeros(2, dtype=torch.int64, device=world.device)
        """The first step whose loss, and the first whose gradient, was not finite; 0 for none."""
        self._before: _Late | None = None
        self._now: _Late | None = None

    def step(self, step: int, loss: Tensor, norm: Tensor) -> Tensor:
        """Note step number `step`, from 1, behind its backward pass.

        Args:
            loss: scalar of this rank.
            norm: of the gradient, see `headrace.train.finite.gradient_norm`.

        Returns:
            float32 scalar on the device, the same on all ranks: 1 if the optimiser must leave the weights alone.
        """
        asked = torch.full((), self._stop.asked, dtype=torch.int64, device=loss.device)
        bad = ~torch.stack([loss.detach(), norm.detach()]).isfinite()
        votes = self._world.greatest(torch.cat([asked[None], bad.long()]))
        found = votes[1:] > 0
        self._first = torch.where((self._first == 0) & found & self._counts, step, self._first)
        if self._world.size > 1:
            self._before, self._now = self._now, _Late(votes[0])
        return found.any().float()

    @property
    def asked(self) -> int:
        """`Stop.asked`, at once in one process, a step later where ranks must obey it together."""
        if self._world.size == 1:
            return self._stop.asked
        return self._before.read() if self._before else 0

    def check(self, out: Path) -> None:
        """Raise RunError if a step was not finite, naming the first. Waits for the device."""
        of_loss, of_gradient = self._first.tolist()
        if of_loss and (not of_gradient or of_loss <= of_gradient):
            raise RunError(_not_finite(f"the loss is not finite at step {of_loss}", out))
        if of_gradient:
            raise RunError(_not_finite(f"the gradient is not finite at step {of_gradient}, though the loss is", out))

    def refuse(self, broken: str, step: int, out: Path) -> NoReturn:
        """Raise RunError for a weight, `broken`, that is not finite after `step` though the gradient was."""
        raise RunError(_not_finite(f"{broken} is not finite after step {step}", out))


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


def _not_finite(what: str, out: Path) -> str:
    kept = checkpoint_paths(out / "checkpoints")
    last = f"the newest checkpoint, {kept[0].name}, is from before" if kept else "there is no checkpoint yet"
    return f"{out}: {what}; {last}. A lower optim.lr or precision=float32 may help"
