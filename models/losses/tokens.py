"""Name the tokens that are hidden: BERT."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses.precision import full_precision
from headrace.models.parts.collectives import mean_over_ranks, world_size
from headrace.pipeline.texts.tokens import IGNORED


@full_precision
def masked_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """BERT's masked language modelling: the cross entropy of the tokens to predict, their sum over their number + 1e-5.

    The number is that of all ranks, each of which may have others: the mean of the ranks' losses, and so the gradient
    that DistributedDataParallel averages, is that of one process with all the texts.

    Args:
        logits: (..., T) of any float type, over the T tokens of the vocabulary.
        labels: int64 (...); -100 where nothing is to be predicted.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1810.04805, section 3.1; authors' code google-research/bert at eedf571, run_pretraining.py,
    get_masked_lm_output.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"masked_token_loss needs logits (..., T) and labels (...), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    summed = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    number = (labels != IGNORED).sum().to(summed.dtype)
    return summed / (mean_over_ranks(number) + 1e-5 / world_size())
