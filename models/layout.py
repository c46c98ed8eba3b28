"""How weights lie in memory."""

from __future__ import annotations

from itertools import chain
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Number of dimensions to the format in which the channels of images and of clips come last."""


NARROWEST = 8
"""Channels that a trained 1 x 1 convolution with a stride must have on the CPU. With fewer, where there is no AVX-512,
the gradient of its weights is wrong and other memory is overwritten (uxlfoundation/oneDNN, issue 6035)."""


def channels_last(module: Module) -> Module:
    """`module` with all weights and buffers of four and five dimensions channels-last, as the views of a batch are.

    It changes the order in memory, in place, and nothing else; `nn.Module.to` knows one rank only.

    Raises:
        ValueError: for a convolution on the CPU that cannot be trained so, see `NARROWEST`.
    """
    for name, part in module.named_modules():
        strided = isinstance(part, nn.Conv2d) and set(part.kernel_size) == {1} and max(part.stride) > 1
        if strided and part.groups == 1 and part.in_channels < NARROWEST and part.weight.device.type == "cpu":
            raise ValueError(
                f"{name}: a 1 x 1 convolution with a stride needs {NARROWEST} channels or more on the CPU, "
                f"got {part.in_channels}; with fewer, torch's oneDNN overwrites memory"
            )
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.ndim in _CHANNELS_LAST:
            tensor.data = tensor.data.contiguous(memory_format=_CHANNELS_LAST[tensor.ndim])
    return module
