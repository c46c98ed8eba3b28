"""Views of several sizes through one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor


def by_resolution(network: Callable[[Tensor], Tensor], views: Sequence[Tensor]) -> Tensor:
    """(V * B, D): the network's output for V views (B, 3, H, W), one pass for each run of views of one size, so that
    batch norm's statistics are of all views of a size together, as SwAV and DINO have it."""
    groups = (list(group) for _, group in groupby(views, key=lambda view: view.shape[-2:]))
    return torch.cat([network(torch.cat(group)) for group in groups])
