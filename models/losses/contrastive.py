"""Find the partner among the others: SimCLR, MoCo, DenseCL, NNCLR, CLIP, instance discrimination."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.collectives import gather, gathered, rank
from headrace.models.parts.precision import full_precision


@full_precision
def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """SimCLR's normalised temperature-scaled cross entropy.

    For each of the 2N views, the cross entropy of finding the other view of the same sample among the other
    2NW - 1 views of all ranks, by cosine similarity over `temperature`:
    `l(i, j) = -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t))`, mean over this rank's 2N views. The authors' code
    adds the means of the two views: twice this.

    Where `torch.distributed` is initialised the negatives of the other ranks take part, with their gradient; every
    rank must then pass the same N. The mean of the ranks' losses, and so the gradient that
    DistributedDataParallel averages, is that of one process with all the samples.

    Args:
        z1, z2: (N, D) projections of the two views, of any float type; not normalised yet.
        temperature: t, above 0.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2002.05709, equation 1 and algorithm 1; authors' code google-research/simclr at be133b3,
    objective.py.
    """
    if z1.shape != z2.shape or z1.ndim != 2:
        raise ValueError(f"nt_xent needs two (N, D) tensors, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    _check_temperature("nt_xent", temperature)
    z = F.normalize(torch.cat([z1, z2]), dim=1)  # (2N, D)
    n = len(z1)
    logits = z @ gather(z).T / temperature  # (2N, 2NW), ranks side by side
    own = torch.arange(2 * n, device=z.device)
    itself = own + rank() * 2 * n
    other_view = (own + n) % (2 * n) + rank() * 2 * n
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return F.cross_entropy(logits, other_view)


@full_precision
def queue_info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo's loss: find a sample's key beside the keys of earlier batches.

    `-log(exp(q.k / t) / (exp(q.k / t) + sum_j exp(q.queue_j / t)))`, mean over N. The keys of this batch are not each
    other's negatives. Keys and queue get no gradient.

    Args:
        query, key: (N, D) of the two views, not normalised yet.
        queue: (K, D), rows of length 1.
        temperature: t, above 0; 0.07 in version 1, 0.2 in version 2.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1911.05722, equation 1; authors' code facebookresearch/moco at 4397a04, moco/builder.py.
    """
    _check_temperature("queue_info_nce", temperature)
    query, key = F.normalize(query, dim=1), F.normalize(key.detach(), dim=1)
    positive = (query * key).sum(dim=1, keepdim=True)  # (N, 1)
    logits = torch.cat([positive, query @ queue.detach().to(query.dtype).T], dim=1) / temperature  # (N, 1 + K)
    return F.cross_entropy(logits, logits.new_zeros(len(query), dtype=torch.int64))


@full_precision
def dense_info_nce(
    query: Tensor, key: Tensor, query_map: Tensor, key_map: Tensor, queue: Tensor, temperature: float
) -> Tensor:
    """DenseCL's loss: `queue_info_nce` of each cell of a picture, whose key is the one of the cell of the other view
    that looks most like it, by the cosine of what the backbone makes of both.

    Keys, queue and the choice of cells get no gradient.

    Args:
        query, key: (N, D, H, W) of the two views, not normalised yet.
        query_map, key_map: (N, C, H, W) of the backbone.
        queue: (K, D), rows of length 1.
        temperature: t, above 0; 0.2 in the paper.

    Returns:
        float32 scalar (float64 for float64), the mean over N * H * W cells.

    Source: arXiv 2011.09157, equations 2 and 3; authors' code WXinlong/DenseCL at b64bbb6,
    openselfsup/models/densecl.py.
    """
    if query.shape != key.shape or query_map.shape != key_map.shape or query.shape[2:] != query_map.shape[2:]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, query_map, key_map))
        raise ValueError(f"dense_info_nce needs (N, D, H, W) twice and (N, C, H, W) twice, got {shapes}")
    query, key = (x.flatten(2).transpose(1, 2) for x in (query, key))  # (N, HW, D)
    match = most_similar_cells(query_map, key_map)
    key = key.gather(1, match[:, :, None].expand_as(key))  # row i is the key of cell i's match
    return queue_info_nce(query.flatten(0, 1), key.flatten(0, 1), queue, temperature)


@torch.no_grad()
@full_precision
def most_similar_cells(query_map: Tensor, key_map: Tensor) -> Tensor:
    """For each cell of (N, C, H, W) the cell of the same sample's `key_map` with the largest cosine: int64 (N, HW),
    counted row by row."""
    query, key = (F.normalize(x, dim=1).flatten(2) for x in (query_map, key_map))  # (N, C, HW)
    return (query.transpose(1, 2) @ key).argmax(dim=2)


@full_precision
def in_batch_info_nce(query: Tensor, key: Tensor, temperature: float, *, key_gradient: bool) -> Tensor:
    """The cross entropy of finding each query's own key among the keys of all ranks, mean over N.

    `-log(exp(q_i.k_i / t) / sum_j exp(q_i.k_j / t))`. MoCo v3 adds both directions, times `2 t`, with keys of a slow
    network; NNCLR takes the mean of both, with neighbours as queries and predictions as keys. Every rank must pass the
    same N; the mean of the ranks' losses has the gradient of one process with all the samples.

    Args:
        query, key: (N, D), not normalised yet.
        temperature: t, above 0.
        key_gradient: whether keys get gradient, those of other ranks, too.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2104.02057, algorithm 1, facebookresearch/moco-v3 at c349e6e, moco/builder.py, contrastive_loss;
    arXiv 2104.14548, equation 2.
    """
    if query.shape != key.shape or query.ndim != 2:
        raise ValueError(f"in_batch_info_nce needs two (N, D) tensors, got {tuple(query.shape)} and {tuple(key.shape)}")
    _check_temperature("in_batch_info_nce", temperature)
    query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    keys = gather(key) if key_gradient else gathered(key)
    own = torch.arange(len(query), device=query.device) + rank() * len(query)
    return F.cross_entropy(query @ keys.T / temperature, own)


@full_precision
def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's loss: each image finds its text among those of all ranks, each text its image; the mean of both.

    Both sides carry gradient over ranks, so that the mean of the ranks' losses has the gradient of one process with
    all the samples. Every rank must pass the same N.

    Args:
        image, text: (N, D), not normalised yet.
        logit_scale: scalar, the factor of the cosines (not its logarithm).

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2103.00020, figure 3; mlfoundations/open_clip, src/open_clip/loss.py, with gather_with_grad.
    """
    if image.shape != text.shape or image.ndim != 2:
        raise ValueError(f"clip_loss needs two (N, D) tensors, got {tuple(image.shape)} and {tuple(text.shape)}")
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    own = torch.arange(len(image), device=image.device) + rank() * len(image)
    of_image = F.cross_entropy(logit_scale * image @ gather(text).T, own)
    of_text = F.cross_entropy(logit_scale * text @ gather(image).T, own)
    return (of_image + of_text) / 2


@full_precision
def instance_softmax(features: Tensor, bank: Tensor, own: Tensor, temperature: float) -> Tensor:
    """The cross entropy of finding each sample's own row among those of all samples: `-log(exp(f_i.v_i / t) /
    sum_j exp(f_i.v_j / t))`, mean over N. Rows get no gradient.

    Args:
        features: (N, D), of length 1.
        bank: (K, D), what is remembered of all K samples.
        own: int64 (N,), the rows of these.
        temperature: t, above 0.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1805.01978, equation 2; zhirongw/lemniscate.pytorch at f7cfe29, lib/LinearAverage.py.
    """
    _check_temperature("instance_softmax", temperature)
    return F.cross_entropy(features @ bank.detach().to(features.dtype).T / temperature, own)


@full_precision
def noise_contrastive(similarity: Tensor, z: Tensor, samples: int) -> Tensor:
    """Noise-contrastive estimation of `instance_softmax`: tell a sample's own row from M that were drawn uniformly.

    With `P = exp(s) / z` and the noise's density M / K: `-log(P / (P + M / K))` of the own row, and the sum of
    `-log((M / K) / (P + M / K))` over the others; mean over N. A ten-millionth is added to each denominator.

    Args:
        similarity: s (N, 1 + M), products of a sample's feature with its own row and with those that were drawn, over
            the temperature.
        z: scalar, the softmax's denominator, a constant.
        samples: K.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1805.01978, section 3.2; zhirongw/lemniscate.pytorch at f7cfe29, lib/NCECriterion.py.
    """
    density = (similarity.shape[1] - 1) / samples
    p = similarity.exp() / z
    whole = p + (density + 1e-7)
    own = (p[:, 0] / whole[:, 0]).log()
    noise = (density / whole[:, 1:]).log().sum(dim=1)
    return -(own + noise).mean()


def _check_temperature(name: str, temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"{name} needs a temperature above 0, got {temperature}")
