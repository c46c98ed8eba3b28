"""What a step moves beside the optimiser, put back on the device where the step turns out to be bad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headrace.models import Method
from headrace.train.precision import Precision

_HOOKS = "before_step", "after_backward", "after_step"
_AS_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of an element."""


class HeldState:
    """A copy of what a step may move though the optimiser is held back: buffers and float16's loss scale and, where a
    method has hooks around a step, all its weights, of which it has slow ones or may move any.

    It takes a copy's memory and a few passes over it a step, little beside the passes over weights that a step of the
    optimiser makes.
    """

    def __init__(self, method: Method, precision: Precision) -> None:
        hooked = any(getattr(type(method), hook) is not getattr(Method, hook) for hook in _HOOKS)
        # Tensors are looked up at each step: a method may put another one in a buffer's place.
        self._places: list[tuple[dict[str, Any], str]] = []
        for module in method.modules():
            self._places += [(module._buffers, name) for name, x in module._buffers.items() if x is not None]
            if hooked:
                self._places += [(module._parameters, name) for name, p in module._parameters.items() if p is not None]
        self._precision = precision
        self._kept: list[Tensor] = []

    def _now(self) -> list[Tensor]:
        return [place[name].detach() for place, name in self._places] + self._precision.state()

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the state in front of a step."""
        now = self._now()
        if [x.shape for x in now] == [x.shape for x in self._kept]:
            if now:
                torch._foreach_copy_(self._kept, now)
        else:
            self._kept = [x.clone() for x in now]

    @torch.no_grad()
    def put_back(self, undone: Tensor) -> None:
        """Put the copy back where `undone`, a bool scalar on the device, is true; it is not waited for."""
        # As integers times 0 or 1: there what is not a number does no harm, and one call serves many tensors.
        by_size: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        for kept, now in zip(self._kept, self._now(), strict=True):
            size = now.element_size()
            for of_size, tensor in zip(by_size.setdefault(size, ([], [])), (kept, now), strict=True):
                of_size.append(tensor.view(_AS_INTEGERS[size]))
        for size, (kept_ones, current) in by_size.items():
            torch._foreach_mul_(current, (~undone).to(_AS_INTEGERS[size]))
            torch._foreach_mul_(kept_ones, undone.to(_AS_INTEGERS[size]))
            torch._foreach_add_(current, kept_ones)
