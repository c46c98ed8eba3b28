"""How weights lie in memory."""

from __future__ import annotations

from itertools import chain
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Number of dimensions to the format in which the channels of images and of clips come last."""


def channels_last(module: Module) -> Module:
    """`module` with all weights and buffers of four and five dimensions channels-last, as the views of a batch are.

    It changes the order in memory, in place, and nothing else; `nn.Module.to` knows one rank only.
    """
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.ndim in _CHANNELS_LAST:
            tensor.data = tensor.data.contiguous(memory_format=_CHANNELS_LAST[tensor.ndim])
    return module
