"""Name tokens: those that are hidden (BERT and its like), or those of a text one after the other (T5, BART)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.collectives import mean_over_ranks, world_size
from headrace.models.parts.precision import full_precision
from headrace.pipeline.texts.tokens import IGNORED

_SMALL = 1e-12
"""Keeps the mean over no token at all, whose sum is 0, from being none."""


@full_precision
def masked_token_loss(logits: Tensor, labels: Tensor, *, added: float) -> Tensor:
    """Masked language modelling: the cross entropy of the tokens to predict, their sum over their number + `added`.

    The number is that of all ranks, each of which may have others: the mean of the ranks' losses, and so the gradient
    that DistributedDataParallel averages, is that of one process with all the texts.

    Args:
        logits: (..., T) of any float type, over the T tokens of the vocabulary.
        labels: int64 (...); -100 where nothing is to be predicted.
        added: 1e-5 in BERT's and ALBERT's code, 1e-6 in ELECTRA's, 0 in RoBERTa's. With nothing to predict the loss
            is 0.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1810.04805, section 3.1; authors' code google-research/bert at eedf571, run_pretraining.py,
    get_masked_lm_output; for RoBERTa facebookresearch/fairseq at 3d262bb, fairseq/criterions/masked_lm.py.
    """
    summed = F.cross_entropy(*_flat(logits, labels), ignore_index=IGNORED, reduction="sum")
    return summed / _number(labels, summed, added)


@full_precision
def next_token_loss(logits: Tensor, labels: Tensor, *, normalizer_weight: float) -> Tensor:
    """The cross entropy of a sequence's tokens, plus `normalizer_weight` times the squared logarithm of the sum of the
    exponentials of the logits, which keeps it near 1; the mean over the tokens of all ranks, as `masked_token_loss`.

    Args:
        logits: (..., T) of any float type, over the T tokens of the vocabulary.
        labels: int64 (...); -100 where nothing is to be predicted.
        normalizer_weight: T5's z-loss, 1e-4 in its code; 0 for none, as in BART's.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1910.10683; tensorflow/mesh, mesh_tensorflow/layers.py, softmax_cross_entropy_with_logits, and the
    parameter z_loss of google-research/text-to-text-transfer-transformer at e081111.
    """
    flat, wanted = _flat(logits, labels)
    summed = F.cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="sum")
    if normalizer_weight:
        squared = flat.logsumexp(dim=1).square()
        summed = summed + normalizer_weight * squared.where(wanted != IGNORED, 0.0).sum()
    return summed / _number(labels, summed, 0.0)


@full_precision
def replaced_token_loss(logits: Tensor, replaced: Tensor, attention: Tensor, *, added: float) -> Tensor:
    """ELECTRA's second loss: the binary cross entropy of whether each token of a text was replaced, their sum over
    the number of tokens of all ranks + `added`.

    Args:
        logits: (B, L) of any float type; above 0 for a token that was replaced.
        replaced: bool (B, L).
        attention: bool (B, L), true on the text, the special tokens' places too.
        added: 1e-6 in the authors' code.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2003.10555; google-research/electra at 8a46635, run_pretraining.py, _get_discriminator_output.
    """
    if not logits.shape == replaced.shape == attention.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (logits, replaced, attention))
        raise ValueError(f"replaced_token_loss needs three (B, L), got {shapes}")
    each = F.binary_cross_entropy_with_logits(logits, replaced.to(logits.dtype), reduction="none")
    number = mean_over_ranks(attention.sum().to(logits.dtype)) + added / world_size()
    return each.where(attention, 0.0).sum() / number


def _flat(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"needs logits (..., T) and labels (...), got {tuple(logits.shape)} and {tuple(labels.shape)}")
    return logits.flatten(0, -2), labels.flatten()


def _number(labels: Tensor, like: Tensor, added: float) -> Tensor:
    """What a rank's sum is divided by, so that the mean over ranks is the sum of all over the number of all."""
    number = (labels != IGNORED).sum().to(like.dtype)
    return (mean_over_ranks(number) + added / world_size()).clamp(min=_SMALL)
