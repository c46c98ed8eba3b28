"""Muon, for matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """torch's Muon, which can be held back on the device as torch's fused optimisers can.

    It keeps copies of weights and momentum for the length of a step.

    Source: arXiv 2502.16982; torch.optim.Muon.
    """

    found_inf: Tensor | None = None
    """float32 scalar on the device: where it is 1, `step` changes nothing."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; nothing is read back from the device."""
        weights = [w for group in self.param_groups for w in group["params"] if w.grad is not None]
        if self.found_inf is None or not weights:
            return super().step(closure)
        for w in weights:
            if "momentum_buffer" not in self.state[w]:
                self.state[w]["momentum_buffer"] = torch.zeros_like(w)
        moving = [*weights, *(self.state[w]["momentum_buffer"] for w in weights)]
        before = [tensor.clone() for tensor in moving]
        loss = super().step(closure)
        good = self.found_inf == 0
        torch._foreach_copy_(moving, [torch.where(good, new, old) for new, old in zip(moving, before, strict=True)])
        return loss
