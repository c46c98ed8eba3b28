"""Tell drawn pictures from true ones, and be taken for true: the two players of a GAN."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.precision import full_precision


@full_precision
def discriminator_loss(true: Tensor, drawn: Tensor) -> Tensor:
    """The binary cross entropy of logits of true samples, mean over them, plus that of drawn ones: 2 ln 2 where it says
    nothing.

    Args:
        true, drawn: (N, ...); `drawn` without gradient to what drew them.

    Returns:
        float32 scalar (float64 for float64).

    Source: pathak22/context-encoder at 68abd11, train.lua, fDx.
    """
    return F.softplus(-true).mean() + F.softplus(drawn).mean()


@full_precision
def generator_loss(drawn: Tensor) -> Tensor:
    """The binary cross entropy of logits of drawn samples, as if they were true.

    Args:
        drawn: (N, ...), without gradient to the discriminator's weights.

    Returns:
        float32 scalar (float64 for float64).

    Source: pathak22/context-encoder at 68abd11, train.lua, fGx.
    """
    return F.softplus(-drawn).mean()
