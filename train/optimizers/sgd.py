"""SGD whose first step may be left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class SGD(torch.optim.SGD):
    """torch's fused SGD, with a momentum that begins at zero.

    torch's own takes memory as it finds it for the momentum, to be filled by the first step. Where that one is held
    back the second reads what was there (torch 2.14, `_fused_sgd` in torch/optim/sgd.py).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        for group in self.param_groups:
            for w in group["params"] if group["momentum"] else ():
                if w.grad is not None and self.state[w].get("momentum_buffer") is None:
                    self.state[w]["momentum_buffer"] = torch.zeros_like(w)
        return super().step(closure)
