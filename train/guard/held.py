"""What a step moves beside the optimiser, put back on the device where the step turns out to be bad."""

from __future__ import annotations

import operator
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
        self._places: list[tuple[dict[str, Any], str]] = []
        for module in method.modules():
            self._places += [(module._buffers, name) for name, x in module._buffers.items() if x is not None]
            if hooked:
                self._places += [(module._parameters, name) for name, p in module._parameters.items() if p is not None]
        self._precision = precision
        self._kept: list[Tensor] = []
        self._paired = _Paired([], [])

    def _now(self) -> list[Tensor]:
        """Looked up at each step: a method may put another tensor in a buffer's place."""
        return [place[name] for place, name in self._places] + self._precision.state()

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
        now = self._now()
        if not self._paired.is_of(self._kept, now):
            self._paired = _Paired(self._kept, now)
        self._paired.put_back(undone)


class _Paired:
    """Tensors and their copies, of the same shapes, as lists of integers of one size each.

    As integers times 0 or 1: there what is not a number does no harm, and one call serves many tensors.
    """

    def __init__(self, kept: list[Tensor], now: list[Tensor]) -> None:
        self._kept, self._now = kept, now
        self._addresses = [x.data_ptr() for x in now]
        self._by_size: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for copy, x in zip(kept, now, strict=True):
            kind = _AS_INTEGERS[x.element_size()]
            copies, current = self._by_size.setdefault(kind, ([], []))
            copies.append(copy.view(kind))
            current.append(x.detach().view(kind))

    def is_of(self, kept: list[Tensor], now: list[Tensor]) -> bool:
        """Whether these are the very tensors, in the same memory."""
        return (
            kept is self._kept
            and all(map(operator.is_, now, self._now))
            and [x.data_ptr() for x in now] == self._addresses
        )

    def put_back(self, undone: Tensor) -> None:
        """See `HeldState.put_back`. The copies are of no use then."""
        for kind, (copies, current) in self._by_size.items():
            torch._foreach_mul_(current, (~undone).to(kind))
            torch._foreach_mul_(copies, undone.to(kind))
            torch._foreach_add_(current, copies)
