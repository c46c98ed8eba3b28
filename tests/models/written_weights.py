"""Weights and inputs that are written down by a formula, for facts of others' code that ran with the same ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def write_weights(module: nn.Module, size: float = 0.1) -> None:
    """Sines in the order of the trained parameters' names, in float64; weights of norms lie around one."""
    module.double()
    for number, (name, parameter) in enumerate(sorted(module.named_parameters())):
        if parameter.requires_grad:
            steps = torch.arange(parameter.numel(), dtype=torch.float64)
            values = size * (0.7 * steps + number).sin()
            around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(around + values.view(parameter.shape))


def waves(*shape: int) -> Tensor:
    """float64, from -1 to 1."""
    count = torch.Size(shape).numel()
    return (0.37 * torch.arange(count, dtype=torch.float64) + 0.2).sin().view(shape)
