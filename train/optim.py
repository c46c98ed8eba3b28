"""Optimisers and their parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from headrace.train.config import OptimConfig


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled, layer by layer, to the size of the layer's weights.

    With weights w, gradient g, momentum m, trust coefficient eta:
    `u = g + weight_decay * w`, `v <- m * v + lr * (eta * |w| / |u|) * u`, `w <- w - v`.
    The ratio is 1 where |w| or |u| is 0, and in groups with `adapt` False.

    Source: arXiv 1708.03888, algorithm 1. The paper divides by `|g| + weight_decay * |w|`; this is SimCLR's code
    (google-research/simclr at 036ea7b, lars_optimizer.py), which takes the norm of the sum.

    Args:
        params: parameters, or groups of them; a group may set `adapt` (default True), `weight_decay` and `lr`.
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
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; nothing is read back from the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                u = w.grad.add(w, alpha=group["weight_decay"]) if group["weight_decay"] else w.grad
                if group["adapt"]:
                    w_norm, u_norm = w.norm(), u.norm()
                    usable = (w_norm > 0) & (u_norm > 0)
                    u = u * torch.where(usable, group["trust"] * w_norm / u_norm, 1.0)
                state = self.state[w]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(w)
                v: Tensor = state["momentum"]
                if self.found_inf is None:
                    v.mul_(group["momentum"]).add_(u, alpha=group["lr"])
                    w.sub_(v)
                else:
                    moved = (v * group["momentum"]).add_(u, alpha=group["lr"])
                    v.copy_(torch.where(self.found_inf == 0, moved, v))
                    w.sub_(torch.where(self.found_inf == 0, moved, 0.0))
        return loss


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters as two groups, each with the names of its parameters.

    Matrices and kernels come first; biases and the weights of norms, all of one dimension, are second and are
    neither decayed nor adapted (arXiv 2002.05709, section 2.1; common practice for AdamW too).
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    kernels = [(name, p) for name, p in named if p.ndim > 1]
    vectors = [(name, p) for name, p in named if p.ndim <= 1]
    return [
        {"params": [p for _, p in kernels], "adapt": True},
        {"params": [p for _, p in vectors], "adapt": False, "weight_decay": 0.0},
    ]


def peak_lr(config: OptimConfig, batch_size: int) -> float:
    """The learning rate after the warm-up, for a global batch of `batch_size` samples."""
    return config.lr * batch_size / 256 if config.scale_lr else config.lr


def build_optimizer(module: nn.Module, config: OptimConfig, batch_size: int) -> torch.optim.Optimizer:
    """The optimiser that `config` names, over `parameter_groups(module)`; one that `step_unless` can hold back."""
    groups = parameter_groups(module)
    lr, weight_decay = peak_lr(config, batch_size), config.weight_decay
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=config.betas, weight_decay=weight_decay, fused=True)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, weight_decay=weight_decay, fused=True)
    return LARS(groups, lr=lr, momentum=config.momentum, weight_decay=weight_decay, trust=config.trust)


def step_unless(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """One update, or none where `bad`, a float32 scalar on the weights' device, is 1. It is decided on the device.

    This is what `torch.amp.GradScaler` asks of fused optimisers.
    """
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    optimizer.step()


def resume_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load `state`, but for the implementation that it was made with, which belongs to a device."""
    own = [{key: group[key] for key in _IMPLEMENTATION & group.keys()} for group in optimizer.param_groups]
    groups = [group | ours for group, ours in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})


_IMPLEMENTATION = {"fused", "foreach", "capturable"}
