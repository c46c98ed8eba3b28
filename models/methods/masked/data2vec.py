"""data2vec: predict, of hidden patches, what a slow copy makes of them in the whole picture (arXiv 2202.03555)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from timm.models.beit import Beit
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import averaged_layers, feature_loss
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.beit import (
    BEiTViews,
    beit_initialization,
    beit_layers,
    beit_vit,
    build_beit,
    cut_normal,
    groups_without_decay,
    hidden_pictures,
    hidden_places,
    without_drops,
)
from headrace.models.parts.masked_vit import take
from headrace.models.parts.momentum import follow
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, ViewSpec
from headrace.pipeline.masks import BlockMasks


def vit_base() -> BackboneConfig:
    """BEiT's ViT-B/16 with the authors' drops."""
    return beit_vit(layer_scale=1e-4, drop_path=0.25, attention_dropout=0.05)


@dataclass(frozen=True, kw_only=True)
class Data2VecConfig(BEiTViews):
    """data2vec for images with the authors' values for ViT-B on ImageNet (facebookresearch/data2vec_vision at af9a363,
    beit/README.md); the view is BEiT's."""

    masked_patches: int = 120
    """Patches that are hidden, in blocks."""
    target_blocks: int = 6
    """The last blocks of the slow network, whose outputs are averaged."""
    beta: float = 2.0
    """Differences below it count by their square, others by their size."""
    momentum: float = 0.9998
    """Of the slow network, constant; 0.9999 in the second half of the authors' longest run."""
    backbone: BackboneConfig = field(default_factory=vit_base)
    """The network that is kept, a Beit of timm's with its norm before the mean of the patches. The slow network drops
    nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.target_blocks >= 1, self, "target_blocks", "be at least 1")
        require(self.beta > 0, self, "beta", "be above 0")
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")


class Data2Vec(Method):
    """Probes see the mean of the patches of a whole view behind the last norm of the network that is trained, whose
    weights the authors fine-tune.

    Followed: facebookresearch/data2vec_vision at af9a363, beit/modeling_cyclical.py, engine_for_cyclical.py,
    run_cyclical.py, datasets.py and optim_factory.py. Which patches are hidden comes with the batch. The warm-up of the
    slow network's momentum, which their command asks for, never happens, as it starts at step 0.
    """

    config: Data2VecConfig
    inputs: ViewSpec

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.feature_dim = build_beit(config.backbone, config.size, config)
        vit: Any = self.backbone
        blocks = len(vit.blocks)
        require(config.target_blocks <= blocks, config, "target_blocks", f"be at most {blocks}, the backbone's blocks")
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.feature_dim))
        cut_normal(self.mask_token)
        self.predict = nn.Linear(self.feature_dim, self.feature_dim)
        beit_initialization(self.predict)
        self.slow_backbone, _ = build_beit(without_drops(config.backbone), config.size, config)
        self.slow_backbone.load_state_dict(self.backbone.state_dict())
        self.slow_backbone.requires_grad_(False)
        self.inputs = config.views(vit.patch_embed.grid_size)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: see `headrace.models.losses.feature_loss`; `"spread"`: the deviation of predictions over patches, 0
        when all are the same."""
        (images,), (masks,) = batch.normalized(), batch.masks
        assert isinstance(masks, BlockMasks)
        places = hidden_places(masks.masked, self.config.masked_patches)
        with torch.no_grad():
            layers = beit_layers(self.slow_backbone, images, None, self.mask_token)[-self.config.target_blocks :]
            target = averaged_layers([take(layer[:, 1:], places) for layer in layers])
        vit: Any = self.backbone
        tokens = beit_layers(vit, images, masks.masked, self.mask_token)[-1][:, 1:]
        prediction = self.predict(vit.norm(take(tokens, places)))  # (B, masked_patches, D)
        return {
            "loss": feature_loss(prediction, target, self.config.beta),
            "spread": widened(prediction.detach()).flatten(0, 1).std(dim=0).mean(),
        }

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A view as it is ("input"), and what the network sees of it ("masked")."""
        (images,), (masks,), vit = batch.normalized(), batch.masks, self.backbone
        assert isinstance(masks, BlockMasks)
        assert isinstance(vit, Beit)
        return hidden_pictures(images, masks.masked, vit.patch_embed.patch_size[0], self.config.normalize)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The class token, absolute positions, biases and norms do not decay; the mask token and the table of relative
        positions do."""
        return groups_without_decay(self, "cls_token", "pos_embed")

    def after_step(self, context: Context) -> None:
        """All weights of the slow network follow."""
        follow(self.slow_backbone, self.backbone, self.config.momentum)
