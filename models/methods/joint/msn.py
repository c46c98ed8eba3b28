"""MSN: a view with some patches dropped is assigned to the same prototypes as a whole view (arXiv 2204.07141)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import masked_siamese_terms, sharpened_assignments
from headrace.models.method import Context, Method, ParameterGroup, kernels_and_vectors
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.masked_vit import encode_visible
from headrace.models.parts.meters import target_meters
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.multi_crop import by_resolution
from headrace.models.parts.schedules import linear
from headrace.pipeline import Batch, Normalize, RandomMask, View, ViewSpec
from headrace.pipeline.masks import PatchMasks

SCHEDULE_LENGTH = 1.25
"""Runs whose momentum would rise to 1; theirs ends before."""


@dataclass(frozen=True, kw_only=True)
class MSNConfig:
    """MSN with the authors' values for ViT-S/16 on ImageNet (facebookresearch/msn at 4388dc1,
    configs/pretrain/msn_vits16.yaml)."""

    size: int = 224
    """Side of the target's view and of the anchor's, in pixels; a multiple of the backbone's patches."""
    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Area of their crops as a share of the image."""
    focal_views: int = 10
    """Small anchors, of which no patch is dropped; 0 for none."""
    focal_size: int = 96
    """Their side, in pixels."""
    focal_scale: tuple[float, float] = (0.05, 0.3)
    """Area of their crops."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    strength: float = 0.5
    """Factor of the colour jitter's strengths (brightness, contrast and saturation 0.8, hue 0.2); 0 turns it off."""
    grayscale: float = 0.2
    """Probability of dropping the colour; 0 turns it off."""
    blur: float = 0.5
    """Probability of a Gaussian blur; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    mask_ratio: float = 0.15
    """Share of the large anchor's patches that is dropped; 0 drops none."""
    hidden_dim: int = 2048
    """Width of the projector's hidden layers."""
    projection_dim: int = 256
    """Its output dimension."""
    prototypes: int = 1024
    """K."""
    temperature: float = 0.1
    """Of anchors' and targets' assignments."""
    sharpening: float = 0.25
    """Temperature that targets are sharpened with: their powers of 1 / it; 1 leaves them."""
    sinkhorn_iterations: int = 3
    """Of the targets; 0 leaves them as they are sharpened."""
    entropy_weight: float = 1.0
    """Of the term that keeps the mean assignment spread out; 0 turns it off."""
    momentum: float = 0.996
    """Of the slow network at the beginning; it rises on a line that would be at 1 after 1.25 runs."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="vit_small_patch16_224"))
    """The network that is kept, a timm ViT with a class token."""

    def __post_init__(self) -> None:
        for name in ("temperature", "sharpening"):
            require(getattr(self, name) > 0, self, name, "be above 0")
        for name in ("hidden_dim", "projection_dim", "prototypes"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        for name in ("focal_views", "strength", "sinkhorn_iterations", "entropy_weight"):
            require(getattr(self, name) >= 0, self, name, "not be negative")
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")
        require(0 <= self.mask_ratio < 1, self, "mask_ratio", "lie in [0, 1)")
        self.views()  # its fields' limits are View's

    def views(self) -> list[View]:
        """The target's, the large anchor's, and the small anchors'. facebookresearch/msn at 4388dc1,
        src/data_manager.py, make_transforms."""
        s = self.strength
        view = View(
            size=self.size,
            scale=self.crop_scale,
            flip=self.flip,
            grayscale=self.grayscale,
            blur=self.blur,
            normalize=self.normalize,
        )
        if s > 0:
            view = replace(view, jitter=0.8, brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s)
        # PIL's blur has no limit: thirteen taps hold one of 2 pixels to three deviations.
        taps = min(13, self.focal_size - 1 | 1)
        focal = replace(view, size=self.focal_size, scale=self.focal_scale, blur_kernel=taps)
        return [view, view, *[focal] * self.focal_views]


class MSN(Method):
    """Probes see the slow network's class token of a whole view, as the authors' do.

    Followed: facebookresearch/msn at 4388dc1, src/msn_train.py, losses.py, deit.py, data_manager.py and utils.py. The
    large anchor passes alone, the small ones together. Prototypes are trained through anchors only, and are a player
    of their own: the authors clip the gradient of the network alone (`optim.players.prototypes` says how these are).
    """

    config: MSNConfig
    inputs: ViewSpec

    def __init__(self, config: MSNConfig) -> None:
        super().__init__()
        self.config = config
        options = {"img_size": config.size, "dynamic_img_size": True, **config.backbone.options}
        self.student, self.feature_dim = build_backbone(replace(config.backbone, options=options))
        vit: Any = self.student
        if getattr(vit, "num_prefix_tokens", 0) != 1 or not hasattr(vit, "blocks"):
            raise ValueError(f"MSNConfig.backbone must be a ViT with a class token, {config.backbone.name} is not one")
        hidden = config.hidden_dim
        self.student_projector = nn.Sequential(
            nn.Linear(self.feature_dim, hidden), nn.BatchNorm1d(hidden), nn.GELU(),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.GELU(),
            nn.Linear(hidden, config.projection_dim),
        )  # fmt: skip
        _as_the_authors(vit, self.student_projector)
        bound = config.projection_dim**-0.5
        self.prototypes = nn.Parameter(torch.empty(config.prototypes, config.projection_dim).uniform_(-bound, bound))
        self.backbone, self.projector = slow_copy(self.student), slow_copy(self.student_projector)
        masks = [RandomMask(grid=vit.patch_embed.grid_size, ratio=config.mask_ratio)] if config.mask_ratio else []
        self.inputs = ViewSpec(config.views(), masks)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the sum of the terms of `headrace.models.losses.masked_siamese_terms`; `"entropy_gap"`: its second
        term, by how much the mean assignment is short of an even one; metered, how targets are assigned
        (`target_meters`)."""
        target, anchor, *focal = batch.normalized()
        first = self._without_dropped_patches(batch, anchor)
        anchors = [self.student_projector(first)]
        if focal:
            anchors.append(by_resolution(lambda views: self.student_projector(self.student(views)), focal))
        with torch.no_grad():
            targets = self.projector(self.backbone(target))
        c = self.config
        rule = self.prototypes, c.temperature, c.sharpening, c.sinkhorn_iterations
        cross_entropy, gap = masked_siamese_terms(torch.cat(anchors), targets, *rule)
        terms = {"loss": cross_entropy + c.entropy_weight * gap, "entropy_gap": gap.detach()}
        return {**terms, **(target_meters(sharpened_assignments(targets, *rule)) if self.metered else {})}

    def _without_dropped_patches(self, batch: Batch, anchor: Tensor) -> Tensor:
        """(B, D): the class token of the large anchor."""
        if not batch.masks:
            features: Tensor = self.student(anchor)
            return features
        (masks,) = batch.masks
        assert isinstance(masks, PatchMasks)
        return encode_visible(self.student, anchor, masks.visible)[:, 0]

    def cluster_scores(self, batch: Batch) -> Tensor:
        """Of the prototypes."""
        z = F.normalize(self.projector(self.encode(batch)), dim=1)
        return F.linear(z, F.normalize(self.prototypes, dim=1))

    @property
    def layered(self) -> nn.Module:
        """The student."""
        return self.student

    def parameter_groups(self) -> list[ParameterGroup]:
        """Biases, vectors and prototypes do not decay; positions and the class token do."""
        prototypes = ParameterGroup(params=[self.prototypes], decay_scale=0.0, adapt=False, player="prototypes")
        return [*kernels_and_vectors(self.student, self.student_projector), prototypes]

    def after_step(self, context: Context) -> None:
        """The slow network moves."""
        momentum = linear(self.config.momentum, 1.0, context.progress / SCHEDULE_LENGTH)
        follow(self.backbone, self.student, momentum)
        follow(self.projector, self.student_projector, momentum)


def _as_the_authors(vit: Any, projector: nn.Sequential) -> None:
    """Linear layers, positions and the class token from a truncated normal, the patches' projection by He's rule for
    its inputs; biases at zero."""
    for layer in (*vit.modules(), *projector):
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for table in (vit.pos_embed, vit.cls_token):
        nn.init.trunc_normal_(table, std=0.02)
