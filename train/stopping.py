"""What ends a run before its time: signals and its wall time."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType

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
