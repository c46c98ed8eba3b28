"""LARS, for large batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled, layer by layer, to the size of the layer's weights.

    With weights w, gradient g, momentum m, trust coefficient eta:
    `u = (g + weight_decay * w) * eta * |w| / |g + weight_decay * w|`, and then either
    `v <- m * v + lr * u`, `w <- w - v` (SimCLR), or `v <- m * v + u`, `w <- w - lr * v` (BYOL, Barlow Twins, VICReg,
    MoCo v3): the two differ where the learning rate changes. The scale is 1 where either norm is 0, and in groups with
    `adapt` False.

    With `clip_rate` the layer's learning rate is `eta * |w| / |g + weight_decay * w|` itself, but at most lr, in the
    place of their product: LARC (NVIDIA/apex at 0bfb830, apex/parallel/LARC.py) and solo-learn (vturrisi/solo-learn at
    9187ea3, solo/utils/lars.py), which add the norms.

    Source: arXiv 1708.03888, algorithm 1. The paper divides by `|g| + weight_decay * |w|`; this is SimCLR's code
    (google-research/simclr at 036ea7b, lars_optimizer.py), which takes the norm of the sum, and
    facebookresearch/barlowtwins at 8e8d284, main.py.

    Args:
        params: parameters, or groups of them; a group may set `adapt` (default True), `weight_decay` and `lr`.
        lr_in_momentum: whether the learning rate is multiplied into v.
        clip_rate: see above.
    """

    found_inf: Tensor | None = None
    """float32 scalar on the device: where it is 1, `step` changes nothing; as torch's fused optimisers have it."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        lr_in_momentum: bool = True,
        clip_rate: bool = False,
    ) -> None:
        self.lr_in_momentum, self.clip_rate = lr_in_momentum, clip_rate
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update, of a group's tensors together; nothing is read back from the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if weights:
                self._step(group, weights)
        return loss

    def _step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        u: list[Tensor] = [w.grad for w in weights if w.grad is not None]
        if group["weight_decay"]:
            u = list(torch._foreach_add(u, weights, alpha=group["weight_decay"]))
        if group["adapt"]:
            w_norms, u_norms = (torch.stack(list(torch._foreach_norm(tensors))) for tensors in (weights, u))
            usable = (w_norms > 0) & (u_norms > 0)
            ratios = group["trust"] * w_norms / u_norms
            if self.clip_rate:
                ratios = (ratios / group["lr"]).clamp(max=1.0)
            u = list(torch._foreach_mul(u, list(torch.where(usable, ratios, 1.0).unbind())))
        for w in weights:
            if "momentum" not in self.state[w]:
                self.state[w]["momentum"] = torch.zeros_like(w)
        v: list[Tensor] = [self.state[w]["momentum"] for w in weights]
        inside, outside = (group["lr"], 1.0) if self.lr_in_momentum else (1.0, group["lr"])
        moved = list(torch._foreach_mul(v, group["momentum"]))
        torch._foreach_add_(moved, u, alpha=inside)
        if self.found_inf is not None:
            good = self.found_inf == 0
            moved = [torch.where(good, new, old) for new, old in zip(moved, v, strict=True)]
        torch._foreach_copy_(v, moved)
        torch._foreach_add_(weights, self._held(moved), alpha=-outside)

    def _held(self, steps: list[Tensor]) -> list[Tensor]:
        """The steps, or nothing where the update is held back."""
        if self.found_inf is None:
            return steps
        return [torch.where(self.found_inf == 0, step, 0.0) for step in steps]
