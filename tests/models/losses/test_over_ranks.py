"""Every loss on several ranks is the loss, and its averaged gradient the gradient, of one process with all samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from headrace.models.losses import (
    assignment_loss,
    barlow_twins_loss,
    centre_distance,
    centred_targets,
    clip_loss,
    cluster_cross_entropy,
    colour_regression,
    cosine_regression,
    dense_info_nce,
    dino_loss,
    discriminator_loss,
    gaussian_kl,
    generator_loss,
    gram_loss,
    in_batch_info_nce,
    instance_softmax,
    koleo_loss,
    masked_distillation,
    masked_siamese_terms,
    masked_token_loss,
    next_patch_loss,
    next_token_loss,
    noise_contrastive,
    nt_xent,
    pixel_cross_entropy,
    queue_info_nce,
    relation_loss,
    replaced_token_loss,
    scaled_regression,
    second_moment,
    sigreg,
    sinkhorn,
    soft_bin_loss,
    swapped_prediction,
    target_regression,
    tico_loss,
    time_contrastive_loss,
    vicreg_terms,
    w_mse_loss,
    weighted_squared_error,
)
from tests.ranks import on_ranks

SAMPLES, D, K = 8, 5, 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def swav(z1: Tensor, z2: Tensor) -> Tensor:
    prototypes = F.normalize(draw(D, K, seed=4), dim=0)
    scores = [F.normalize(z, dim=1) @ prototypes for z in (z1, z2)]
    return swapped_prediction(scores, [sinkhorn(s, 0.05, 3, slack=0.0) for s in scores], 0.1)


def dense(z1: Tensor, z2: Tensor) -> Tensor:
    cells1, cells2 = (torch.stack([z, z.roll(1, dims=1), z.square()], dim=2)[..., None] for z in (z1, z2))
    queue = F.normalize(draw(16, D, seed=5), dim=1)
    return dense_info_nce(cells1, cells2, cells1.flip(2), cells2.flip(2), queue, 0.2)


def sinkhorn_of_some(z1: Tensor, z2: Tensor) -> Tensor:
    """Of which ranks have different numbers, or none."""
    scores, counted = F.normalize(z1, dim=1) @ F.normalize(draw(D, K, seed=4), dim=0), z2[:, 0] > 0
    targets = sinkhorn(scores, 0.05, 3, counted, slack=0.0)
    return masked_distillation(scores[:, None], targets[:, None], counted[:, None], 0.1)


def soft_bins_of(z1: Tensor, z2: Tensor) -> Tensor:
    """Three of the bins that z2 is high in, at one place."""
    share, nearest = z2.detach().softmax(dim=1).topk(3)
    logits = z1[..., None, None]
    return soft_bin_loss(logits, nearest[:, None, None], share[:, None, None], z2.detach()[:, :1, None].exp())


def some_labels(z1: Tensor, z2: Tensor) -> Tensor:
    """Not of every row, so that ranks have different numbers."""
    return z2.argmax(1).where(z2.argmax(1) != z1.argmax(1), -100)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": lambda z1, z2: nt_xent(z1, z2, 0.2),
    "queue_info_nce": lambda z1, z2: queue_info_nce(z1, z2, F.normalize(draw(16, D, seed=5), dim=1), 0.2),
    "dense_info_nce": dense,
    "instance_softmax": lambda z1, z2: instance_softmax(F.normalize(z1, dim=1), draw(16, D, seed=5), z2.argmax(1), 0.1),
    "noise_contrastive": lambda z1, z2: noise_contrastive(z1 * z2, z1.new_tensor(9.0), 40),
    "clip_loss": lambda z1, z2: clip_loss(z1, z2, z1.new_tensor(5.0)),
    "cosine_regression": cosine_regression,
    "dino_loss": lambda z1, z2: dino_loss([z1, z2], [z1, z2], z1.new_zeros(D), 0.1, 0.04),
    "swapped_prediction": swav,
    "masked_siamese_terms": lambda z1, z2: torch.stack(
        masked_siamese_terms(z1, z2, draw(K, D, seed=4), 0.1, 0.25, 3)
    ).sum(),
    "cluster_cross_entropy": lambda z1, z2: cluster_cross_entropy(
        z1, z2.argmax(1).where(z2.argmax(1) != z1.argmax(1), -1), 0.1
    ),
    "masked_token_loss": lambda z1, z2: masked_token_loss(z1, some_labels(z1, z2), added=1e-5),
    "next_token_loss": lambda z1, z2: next_token_loss(z1, some_labels(z1, z2), normalizer_weight=0.1),
    "replaced_token_loss": lambda z1, z2: replaced_token_loss(z1, z2 > 0, z2 > z1, added=1e-6),
    "next_patch_loss": lambda z1, z2: next_patch_loss(z1[..., None], z2[..., None], 1 + z2.argmax(1) % (D - 1)),
    "target_regression": lambda z1, z2: target_regression(
        z1[:, None, :, None], z2[:, None, :, None], 1 + z2.argmax(1, keepdim=True)
    ),
    "scaled_regression": scaled_regression,
    "assignment_loss, each view by itself": lambda z1, z2: assignment_loss(
        torch.stack([z1, z2]), sinkhorn(torch.stack([z1, z2]), 0.3, 3, slack=0.0), 0.12
    ),
    "in_batch_info_nce": lambda z1, z2: in_batch_info_nce(z1, z2, 0.2, key_gradient=True),
    "in_batch_info_nce, keys of a slow network": lambda z1, z2: in_batch_info_nce(
        z1, z2.detach(), 0.2, key_gradient=False
    ),
    "koleo_loss": lambda z1, z2: koleo_loss(z1, over_ranks=True) + koleo_loss(z2, over_ranks=True),
    "gram_loss": lambda z1, z2: gram_loss(torch.stack([z1, z2], dim=1), torch.stack([z1, z1 + z2], dim=1)),
    "masked_distillation": lambda z1, z2: masked_distillation(
        z1[:, None], centred_targets(z2[:, None], z1.new_zeros(D), 0.04), z1[:, :1] > 0, 0.1
    ),
    "sinkhorn of some": sinkhorn_of_some,
    "relation_loss": lambda z1, z2: relation_loss(z1, z2, F.normalize(draw(16, D, seed=5), dim=1), 0.1, 0.04),
    "pixel_cross_entropy": lambda z1, z2: pixel_cross_entropy(z1, z2.detach().sigmoid()),
    "gaussian_kl": gaussian_kl,
    "soft_bin_loss": soft_bins_of,
    "colour_regression": lambda z1, z2: colour_regression(z1[:, :2, None, None], z2[:, :2, None, None]),
    "weighted_squared_error": lambda z1, z2: weighted_squared_error(
        z1[..., None, None], z2[..., None, None], draw(1, 1, seed=9).exp()
    ),
    "discriminator_loss": discriminator_loss,
    "generator_loss": lambda z1, z2: generator_loss(z1) + z2.square().mean(),
    "vicreg_terms": lambda z1, z2: torch.stack(vicreg_terms(z1, z2)).sum(),
    "time_contrastive_loss": lambda z1, z2: time_contrastive_loss(
        torch.stack([z1, z2, z1 * z2, z1 + z2], dim=1), torch.arange(4).expand(len(z1), -1), 1, 2, 4.0
    ),
    "tico_loss": lambda z1, z2: tico_loss(z1, z2, second_moment(z1), 8.0),
    "w_mse_loss": lambda z1, z2: w_mse_loss(
        torch.stack([z1[:, :3], z2[:, :3]], dim=1), draw(2, SAMPLES, seed=9).argsort(dim=1), 4, eps=0.0
    ),
    "sigreg": lambda z1, z2: sigreg(torch.stack([z1, z2]), F.normalize(draw(D, 7, seed=6), dim=0)),
    "centre_distance": lambda z1, z2: centre_distance(torch.stack([z1, z2]), 1),
    "barlow_twins_loss": lambda z1, z2: barlow_twins_loss(z1, z2, 0.1, over_ranks="exact"),
    "barlow_twins_loss, local_gradient": lambda z1, z2: barlow_twins_loss(z1, z2, 0.1, over_ranks="local_gradient"),
}
RATIOS = {"barlow_twins_loss, local_gradient": lambda ranks: 1 / ranks}


def network() -> nn.Module:
    linear = nn.Linear(4, D).double()
    with torch.no_grad():
        linear.weight.copy_(draw(D, 4, seed=7))
        linear.bias.copy_(draw(D, seed=8))
    return linear


def loss_and_gradient(name: str, model: nn.Module, x1: Tensor, x2: Tensor) -> dict[str, Any]:
    z1, z2 = model(torch.cat([x1, x2])).chunk(2)
    loss = LOSSES[name](z1, z2)
    model.zero_grad()
    loss.backward()
    return {"loss": loss.detach(), "gradient": [p.grad.clone() for p in model.parameters() if p.grad is not None]}


def of_rank(rank: int, ranks: int) -> dict[str, Any]:
    x1, x2 = (draw(SAMPLES, 4, seed=seed).chunk(ranks)[rank] for seed in (1, 2))
    return {name: loss_and_gradient(name, DistributedDataParallel(network()), x1, x2) for name in LOSSES}


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(of_rank, request.param, tmp_path_factory.mktemp("ranks"), request.param)


@pytest.mark.timeout(900)  # the first one waits for all ranks to go through all losses
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_one_process(name: str, ranks: list[dict[str, Any]]) -> None:
    whole = loss_and_gradient(name, network(), draw(SAMPLES, 4, seed=1), draw(SAMPLES, 4, seed=2))
    ratio = RATIOS.get(name, lambda ranks: 1)(len(ranks))
    torch.testing.assert_close(torch.stack([rank[name]["loss"] for rank in ranks]).mean(), whole["loss"])
    for rank in ranks:
        for found, expected in zip(rank[name]["gradient"], whole["gradient"], strict=True):
            torch.testing.assert_close(found, ratio * expected, rtol=1e-9, atol=1e-11)
