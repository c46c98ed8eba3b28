"""CAPI: from one block of patches, name the clusters of some others, which a slow copy finds (arXiv 2502.08769)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from headrace.models.checks import require
from headrace.models.losses import assignment_loss, sinkhorn
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.masked_vit import shown_masked, take
from headrace.models.parts.meters import target_meters
from headrace.models.parts.momentum import follow
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.models.parts.rope_vit import RopeEncoderPredictor
from headrace.models.parts.schedules import linear
from headrace.pipeline import Batch, Normalize, RolledBlockMask, View, ViewSpec
from headrace.pipeline.masks import PredictedMasks

SLACK = 1e-8
"""In the sums that Sinkhorn-Knopp divides by."""


@dataclass(frozen=True, kw_only=True)
class CAPIConfig:
    """CAPI with the authors' values (facebookresearch/capi at 98b4fa1, default_pretrain_config.yaml)."""

    size: int = 224
    """Side of the square view, in pixels; a multiple of `patch`."""
    crop_scale: tuple[float, float] = (0.6, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    mask_ratio: float = 0.65
    """Share of the patches that is hidden."""
    predicted: float = 0.05
    """Share of the hidden patches that is predicted."""
    patch: int = 14
    """Side of a patch, in pixels."""
    dim: int = 1024
    """Width of encoder and predictor."""
    depth: int = 24
    """Blocks of the encoder."""
    predictor_depth: int = 12
    """Blocks of the predictor."""
    heads: int = 16
    """Attention heads of both."""
    registers: int = 16
    """Learnt tokens beside the patches, a multiple of 4."""
    drop_path: float = 0.2
    """Probability that a sample passes by a layer; 0 turns it off."""
    clusters: int = 16384
    """Of patches."""
    target_temperature: float = 0.06
    """Of the assignments of the slow copy's patches to clusters."""
    temperature: float = 0.12
    """Of what is compared with them."""
    iterations: int = 3
    """Of Sinkhorn-Knopp, by which clusters get equal shares at each place."""
    momentum: float = 0.999
    """Of the slow copy at its lowest, behind the warm-up; it falls from 1 and rises towards 1 again."""
    momentum_warmup: float = 0.1
    """Share of the run in which it falls."""
    cosine_share: float = 0.8
    """Share of half a cosine that it takes on its way up."""

    def __post_init__(self) -> None:
        for name in ("patch", "dim", "depth", "predictor_depth", "heads", "clusters", "iterations"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.size % self.patch == 0, self, "size", "be a multiple of patch")
        require(self.dim % (4 * self.heads) == 0, self, "dim", "be a multiple of 4 for each head")
        require(self.registers >= 4 and self.registers % 4 == 0, self, "registers", "be a multiple of 4, above 0")
        for name in ("target_temperature", "temperature", "cosine_share"):
            require(getattr(self, name) > 0, self, name, "be above 0")
        for name in ("momentum", "momentum_warmup"):
            require(0 <= getattr(self, name) <= 1, self, name, "lie in [0, 1]")
        require(0 <= self.drop_path < 1, self, "drop_path", "lie in [0, 1)")


class ClusterHead(nn.Linear):
    """The slow copy's patches (..., D) to similarities (..., K) to clusters, which learn from the assignments that are
    made of them.

    Source: facebookresearch/capi at 98b4fa1, model.py, OnlineClustering.
    """

    def __init__(self, dim: int, clusters: int) -> None:
        super().__init__(dim, clusters)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.normalize(x, dim=-1, eps=1e-7))


class NamingHead(nn.Module):
    """Predictions (..., D) to similarities (..., K) to clusters, by a weight-normalised layer whose lengths begin at 1.

    Source: facebookresearch/capi at 98b4fa1, model.py, L2NormLinear.
    """

    def __init__(self, dim: int, clusters: int) -> None:
        super().__init__()
        layer = nn.Linear(dim, clusters, bias=False)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        self.layer = weight_norm(layer)
        nn.init.ones_(self.layer.parametrizations.weight.original0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.normalize(x, dim=-1))


class CAPI(Method):
    """Probes see the mean over patches of what the first block of the slow copy's predictor says of a whole view, as
    the authors' do.

    Followed: facebookresearch/capi at 98b4fa1, train_capi.py, model.py, data.py, utils.py and
    default_pretrain_config.yaml. Which patches are hidden and predicted comes with the batch. The clusters are a player
    of their own, "clusters": what they learn reaches nothing else, and nothing else reaches them.
    """

    config: CAPIConfig
    inputs: ViewSpec
    backbone: RopeEncoderPredictor

    def __init__(self, config: CAPIConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = config.dim
        self.student = self._network(config.drop_path)
        self.head = NamingHead(config.dim, config.clusters)
        self.backbone = self._network(0.0)
        self.backbone.load_state_dict(self.student.state_dict())
        self.backbone.requires_grad_(False)
        self.clusters = ClusterHead(config.dim, config.clusters)
        view = View(
            size=config.size,
            scale=config.crop_scale,
            interpolation="bicubic",
            flip=config.flip,
            normalize=config.normalize,
        )
        side = config.size // config.patch
        mask = RolledBlockMask(grid=(side, side), ratio=config.mask_ratio, predicted=config.predicted)
        self.inputs = ViewSpec([view], [mask])

    def _network(self, drop_path: float) -> RopeEncoderPredictor:
        c = self.config
        return RopeEncoderPredictor(
            size=c.size,
            patch=c.patch,
            dim=c.dim,
            depth=c.depth,
            predictor_depth=c.predictor_depth,
            heads=c.heads,
            registers=c.registers,
            drop_path=drop_path,
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, the sum of those of the prediction ("prediction") and of the clusters ("clustering"); see
        `headrace.models.losses.assignment_loss`. Metered, how patches are assigned (`target_meters`)."""
        c = self.config
        (images,), masks = batch.normalized(), _masks(batch)
        with torch.no_grad():
            patches = self.backbone.patches(images)
        similarity = self.clusters(patches)  # (B, L, K)
        assigned = self.assigned(similarity)
        clustering = assignment_loss(similarity, assigned, c.temperature)
        encoded, places = self.student.encode(images, masks.visible)
        named = self.head(self.student.predict(encoded, places, masks.predicted))
        prediction = assignment_loss(named, take(assigned, masks.predicted), c.temperature)
        terms = {"prediction": prediction.detach(), "clustering": clustering.detach()}
        meters = target_meters(assigned.flatten(0, 1)) if self.metered else {}
        return {"loss": prediction + clustering, **terms, **meters}

    def assigned(self, similarity: Tensor) -> Tensor:
        """(B, L, K): to which clusters patches belong. At each place clusters have equal shares of the samples of all
        ranks, so that none can stand for the place. A patch that is far from all of them counts less than others."""
        by_place, c = similarity.detach().transpose(0, 1), self.config
        return sinkhorn(by_place, c.target_temperature, c.iterations, slack=SLACK).transpose(0, 1)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Norms decay by a tenth, the one bias does not, and patches are projected by a layer that learns at a fifth of
        the rate. Clusters are a player's of their own."""
        weight, bias = self.student.patch_embed.parameters()
        apart = {id(weight), id(bias)}
        trained = [p for module in (self.student, self.head) for p in module.parameters() if id(p) not in apart]
        return [
            ParameterGroup(params=[p for p in trained if p.ndim > 1]),
            ParameterGroup(params=[p for p in trained if p.ndim <= 1], decay_scale=0.1, adapt=False),
            ParameterGroup(params=[weight], lr_scale=0.2),
            ParameterGroup(params=[bias], lr_scale=0.2, decay_scale=0.0, adapt=False),
            ParameterGroup(params=list(self.clusters.parameters()), player="clusters"),
        ]

    def momentum(self, context: Context) -> float:
        """Of the slow copy behind a step."""
        c = self.config
        warmup = round(c.momentum_warmup * context.total_steps)
        if context.step < warmup:
            return linear(1.0, c.momentum, context.step / max(1, warmup - 1))
        progress = (context.step - warmup) / (context.total_steps - warmup)
        return 1.0 + (c.momentum - 1.0) * (1 + math.cos(math.pi * c.cosine_share * progress)) / 2

    def after_step(self, context: Context) -> None:
        """The slow copy follows; behind the first step it stands."""
        follow(self.backbone, self.student, self.momentum(context))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A view as it is ("input"), as the encoder sees it ("masked"), and the patches whose clusters are to be named
        ("predicted"). None of views that are not RGB, or normalised by themselves."""
        if not can_undo(self.config.normalize):
            return {}
        (images,), masks = batch.normalized(), _masks(batch)
        levels = unit_pixels(images, self.config.normalize)
        predicted = shown_masked(levels, masks.predicted, self.config.patch)["masked"]
        return {**shown_masked(levels, masks.visible, self.config.patch), "predicted": predicted}


def _masks(batch: Batch) -> PredictedMasks:
    (masks,) = batch.masks
    assert isinstance(masks, PredictedMasks)
    return masks
