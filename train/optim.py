"""Optimisers and their parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headrace.models.method import ParameterGroup
from headrace.train.config import OptimConfig


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled, layer by layer, to the size of the layer's weights.

    With weights w, gradient g, momentum m, trust coefficient eta:
    `u = (g + weight_decay * w) * eta * |w| / |g + weight_decay * w|`, and then either
    `v <- m * v + lr * u`, `w <- w - v` (SimCLR), or `v <- m * v + u`, `w <- w - lr * v` (BYOL, Barlow Twins, VICReg,
    MoCo v3): the two differ where the learning rate changes. The scale is 1 where either norm is 0, and in groups with
    `adapt` False.

    Source: arXiv 1708.03888, algorithm 1. The paper divides by `|g| + weight_decay * |w|`; this is SimCLR's code
    (google-research/simclr at 036ea7b, lars_optimizer.py), which takes the norm of the sum, and
    facebookresearch/barlowtwins at 8e8d284, main.py.

    Args:
        params: parameters, or groups of them; a group may set `adapt` (default True), `weight_decay` and `lr`.
        lr_in_momentum: whether the learning rate is multiplied into v.
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
    ) -> None:
        self.lr_in_momentum = lr_in_momentum
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
            u = list(torch._foreach_mul(u, list(torch.where(usable, group["trust"] * w_norms / u_norms, 1.0).unbind())))
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


def peak_lr(config: OptimConfig, batch_size: int) -> float:
    """The learning rate after the warm-up, for a global batch of `batch_size` samples."""
    return config.lr * batch_size / 256 if config.scale_lr else config.lr


def build_optimizer(groups: Sequence[ParameterGroup], config: OptimConfig, batch_size: int) -> torch.optim.Optimizer:
    """The optimiser that `config` names, over a method's parameter groups; one that `step_unless` can hold back.

    Each group keeps what the method said of it: its scales, `constant_lr`, `frozen_epochs`.
    """
    params: list[dict[str, Any]] = [{name: getattr(group, name) for name in _GROUP} for group in groups]
    lr, weight_decay = peak_lr(config, batch_size), config.weight_decay
    for group in params:
        group["weight_decay"] = weight_decay * group["decay_scale"]
        if config.name == "adamw":
            group["betas"] = (config.betas[0] * group["momentum_scale"], config.betas[1])
        else:
            group["momentum"] = config.momentum * group["momentum_scale"]
    if config.name == "adamw":
        return torch.optim.AdamW(params, lr=lr, betas=config.betas, weight_decay=weight_decay, fused=True)
    if config.name == "sgd":
        return torch.optim.SGD(params, lr=lr, momentum=config.momentum, weight_decay=weight_decay, fused=True)
    return LARS(
        params,
        lr=lr,
        momentum=config.momentum,
        weight_decay=weight_decay,
        trust=config.trust,
        lr_in_momentum=config.lr_in_momentum,
    )


_GROUP = [field.name for field in fields(ParameterGroup)]


def set_schedule(optimizer: torch.optim.Optimizer, lr: float, peak: float, weight_decay: float) -> None:
    """What each group takes in the next step.

    Args:
        lr: of the step.
        peak: the largest of the run, which groups with a constant rate keep.
        weight_decay: of the step.
    """
    for group in optimizer.param_groups:
        group["lr"] = (peak if group["constant_lr"] else lr) * group["lr_scale"]
        group["weight_decay"] = weight_decay * group["decay_scale"]


def drop_frozen(optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """No gradient, and so no step, no momentum and no decay, for groups that are frozen in this epoch."""
    for group in optimizer.param_groups:
        if epoch < group["frozen_epochs"]:
            for parameter in group["params"]:
                parameter.grad = None


@torch.no_grad()
def clip_gradients(method: nn.Module, most: float, by: Literal["all", "tensor", "module"]) -> None:
    """Scale gradients down to a norm of `most`; nothing is read back from the device.

    Args:
        by: "all" takes the norm of all gradients together; "tensor" of each tensor by itself, as DINO does; "module" of
            each of the method's own parts (backbone, head, ...), as DINOv2 does.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            part = {"all": "", "tensor": name, "module": name.partition(".")[0]}[by]
            parts.setdefault(part, []).append(parameter.grad)
    for gradients in parts.values():
        norm = torch.stack(list(torch._foreach_norm(gradients))).norm()
        torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))


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
