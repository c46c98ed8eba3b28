"""Every loss of this package in float32 or better, whatever the networks before it were computed in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def widened(x: Any) -> Any:
    """A float tensor as float32, or as float64 where it is that; lists of them likewise; other things as they are."""
    if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64:
        return x.float()
    if isinstance(x, (list, tuple)):
        return type(x)(map(widened, x))
    return x


def full_precision(function: Function) -> Function:
    """A loss whose tensors arrive as `widened` and which autocast leaves alone."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        tensors = [x for x in (*arguments, *options.values()) if isinstance(x, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device, enabled=False):
            return function(*map(widened, arguments), **{name: widened(x) for name, x in options.items()})

    return call  # type: ignore[return-value]
