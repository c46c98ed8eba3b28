"""Where a run stands, for hooks of methods of sounds."""

from __future__ import annotations

from headrace.models import Context


def context(step: int, *, epochs: int = 10, steps_per_epoch: int = 10) -> Context:
    return Context(
        step=step, epoch=step // steps_per_epoch, steps_per_epoch=steps_per_epoch, epochs=epochs, batch_size=4
    )
