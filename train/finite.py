"""What must stay finite: gradients before each step, weights before each checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients together, a float32 scalar on their device, which is not waited for."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).norm()


class FiniteState:
    """Finds what stops being finite among a module's weights and floating-point buffers.

    What is not finite from the beginning, such as a mask of infinities, is meant to be so. Reading waits for the
    device.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._exempt = {name for name, _ in self._broken()}

    def broken(self) -> str | None:
        """The name of the first tensor that is not finite any more."""
        return next((name for name, _ in self._broken() if name not in self._exempt), None)

    def _broken(self) -> Iterator[tuple[str, Tensor]]:
        named = [
            (name, tensor)
            for name, tensor in self._module.state_dict(keep_vars=True).items()
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel()
        ]
        if not named:
            return
        with torch.no_grad():
            largest = torch.stack([n.float() for n in torch._foreach_norm([t for _, t in named], float("inf"))])
        for pair, finite in zip(named, largest.isfinite().tolist(), strict=True):
            if not finite:
                yield pair
