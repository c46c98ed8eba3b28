"""Losses over the frames of sounds. Letters: B sounds, F frames that are predicted, K negatives of each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.precision import full_precision


@full_precision
def frame_info_nce(
    predictions: Tensor, targets: Tensor, negatives: Tensor, same: Tensor, *, temperature: float
) -> dict[str, Tensor]:
    """Which of some targets is a frame's own? wav2vec 2.0's contrastive loss (arXiv 2006.11477, section 3.2).

    Args:
        predictions: (B, F, D).
        targets: (B, F, D), with gradient.
        negatives: int64 (B, F, K): frames of the same sound whose targets stand beside a frame's own.
        same: bool (B, F, F): targets that are alike and are therefore no negatives of each other.
        temperature: that cosines are divided by.

    Returns:
        `"loss"`: the mean over frames of the cross entropy, and `"accuracy"`, detached: the share of the frames with a
        negative whose own target is nearer than all negatives; 0 where none has any.

    Source: facebookresearch/fairseq at 3d262bb, fairseq/models/wav2vec/wav2vec2.py, compute_preds, and
    fairseq/criterions/wav2vec_criterion.py.
    """
    cosines = F.normalize(predictions, dim=2) @ F.normalize(targets, dim=2).transpose(1, 2) / temperature  # (B, F, F)
    own = cosines.diagonal(dim1=1, dim2=2)[:, :, None]
    others = cosines.masked_fill(same, float("-inf")).gather(2, negatives)
    loss = (torch.cat([own, others], dim=2).logsumexp(dim=2) - own[:, :, 0]).mean()
    with torch.no_grad():
        best = others.amax(dim=2)
        judged = best > float("-inf")
        right = (own[:, :, 0] > best) & judged
        accuracy = right.sum() / judged.sum().clamp(min=1)
    return {"loss": loss, "accuracy": accuracy}


@full_precision
def future_info_nce(predictions: Tensor, encodings: Tensor, negatives: Tensor, *, step: int) -> dict[str, Tensor]:
    """Which encoding comes `step` frames later? One step of CPC (arXiv 1807.03748).

    Args:
        predictions: (B, F, D), of the encoding `step` frames behind each of the first F.
        encodings: (B, T, D), T at least F + step, with gradient.
        negatives: int64 (B, F, K): frames of the same sound whose encodings stand beside the right one.

    Returns:
        `"loss"`: the mean over frames of the cross entropy of scores that are means over D of products, and
        `"accuracy"`, detached.

    Source: facebookresearch/CPC_audio at b98a1bd, cpc/criterion/criterion.py, CPCUnsupersivedCriterion.
    """
    scores = predictions @ encodings.transpose(1, 2) / predictions.shape[2]  # (B, F, T)
    own = scores.diagonal(offset=step, dim1=1, dim2=2)[:, :, None]
    others = scores.gather(2, negatives)
    loss = (torch.cat([own, others], dim=2).logsumexp(dim=2) - own[:, :, 0]).mean()
    accuracy = (own.detach()[:, :, 0] >= others.detach().amax(dim=2)).float().mean()
    return {"loss": loss, "accuracy": accuracy}


@full_precision
def cluster_loss(predictions: Tensor, clusters: Tensor, labels: Tensor, *, temperature: float) -> dict[str, Tensor]:
    """Which cluster does a hidden frame belong to? HuBERT's loss (arXiv 2106.07447, section II.B).

    Args:
        predictions: (B, F, D).
        clusters: (K, D), a learnt vector of each cluster.
        labels: int64 (B, F).
        temperature: that cosines are divided by.

    Returns:
        `"loss"`: the mean over frames of the cross entropy, and `"accuracy"`, detached.

    Source: facebookresearch/fairseq at 3d262bb, fairseq/models/hubert/hubert.py, compute_nce, where the right vector
    stands in front of all K and its copy among them counts nothing.
    """
    logits = F.normalize(predictions, dim=2) @ F.normalize(clusters, dim=1).T / temperature
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return {"loss": loss, "accuracy": (logits.detach().argmax(dim=2) == labels).float().mean()}


@full_precision
def normalized_layers(layers: list[Tensor]) -> Tensor:
    """(B, T, D): the mean of layers (B, T, D), each normalised over time, channel by channel. data2vec's targets for
    sounds (facebookresearch/fairseq at 3d262bb, examples/data2vec/models/data2vec_audio.py)."""
    normed = [F.instance_norm(layer.transpose(1, 2)).transpose(1, 2) for layer in layers]
    return torch.stack(normed).mean(dim=0)


@full_precision
def frame_regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """The mean over frames of the squared distance of predictions (B, F, D) from targets, divided by the root of D.
    data2vec's loss for sounds (as `normalized_layers`)."""
    return (predictions - targets).square().sum(dim=2).mean() / predictions.shape[2] ** 0.5
