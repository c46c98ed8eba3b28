"""Gram anchoring: DINOv2 whose patches stay as alike as an earlier network has them (arXiv 2508.10104)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import gram_loss
from headrace.models.method import Context
from headrace.models.methods.joint.dinov2 import DINOv2, DINOv2Config
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class DINOv2GramConfig(DINOv2Config):
    """DINOv2's fields, and those of the stage behind it with the values of DINOv3's authors for their largest network
    (dinov3/configs/train/dinov3_vit7b16_gram_anchor.yaml)."""

    gram_weight: float = 2.0
    """Of the Gram loss; 0 turns it off."""
    anchor_size: int = 448
    """Side of the anchor's views, in pixels; a multiple of the backbone's patches. The authors' are twice as large as
    the student's."""
    anchor_every: int = 10_000
    """Steps until the anchor becomes what the teacher is then; 0 keeps the first one."""
    anchor_updates: int = 3
    """How often, at most."""
    local_weight: float = 0.5
    """Of the class tokens of small views."""
    momentum: float = 0.999
    """Of the teacher, constant."""
    assignment: Literal["center", "sinkhorn"] = "sinkhorn"
    """See `DINOv2Config`; DINOv3 always takes Sinkhorn's iteration."""
    warmup_teacher_epochs: int = 0
    """Epochs in which the teacher's temperature rises, which the stage before has done."""
    frozen_epochs: int = 0
    """Epochs at the beginning in which the last layers are not trained, likewise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gram_weight", "anchor_every", "anchor_updates", "local_weight"):
            require(getattr(self, name) >= 0, self, name, "not be negative")


class DINOv2Gram(DINOv2):
    """Probes see the class token of the teacher's backbone. `init` starts the stage from a run of DINOv2 with the same
    backbone and heads: student, teacher and anchor begin as its teacher, as the authors' do.

    Followed: facebookresearch/dinov3 at 6876159, dinov3/train/ssl_meta_arch.py, loss/gram_loss.py,
    data/augmentations.py and configs. It is a method of its own because it has a third network and two views more,
    which a run of DINOv2 should not carry.
    """

    config: DINOv2GramConfig
    continued: ClassVar[Mapping[str, Sequence[str]]] = {
        "head": ("head", "student_head"),
        "patch_head": ("patch_head", "student_patch_head"),
        "student.mask_token": ("student.mask_token",),
    }

    def __init__(self, config: DINOv2GramConfig) -> None:
        super().__init__(config)
        vit: Any = self.backbone
        side = int(vit.patch_embed.patch_size[0])
        require(config.anchor_size % side == 0, config, "anchor_size", f"be a multiple of the patches' {side} pixels")
        self.anchor: Any = slow_copy(vit)
        views = self.inputs.views
        # The same crops as the student's, larger and in the colours of the image.
        clear = [replace(view.crop_only(), size=config.anchor_size) for view in views[:2]]
        self.inputs = ViewSpec([*views, *clear], self.inputs.masks, draws=[*range(len(views)), 0, 1])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` and its addends: DINOv2's, and `"gram"`, see `headrace.models.losses.gram_loss`."""
        c = self.config
        *views, first, second = batch.normalized()
        step = self.student_step(views, batch.masks)
        step.terms["small"] = c.local_weight * step.terms["small"]
        if c.gram_weight:
            with torch.no_grad():
                anchors = self.anchor_patches(torch.cat([first, second]), int(step.patches.shape[1] ** 0.5))
            step.terms["gram"] = c.gram_weight * gram_loss(step.patches, anchors)
        return step.reported()

    def anchor_patches(self, images: Tensor, side: int) -> Tensor:
        """(2B, side * side, D): the anchor's patches, as many as the student's, after DINOv3's bicubic resizing."""
        patches: Tensor = widened(self.anchor.forward_features(images)[:, self.anchor.num_prefix_tokens :])
        rows = images.shape[-2] // self.anchor.patch_embed.patch_size[0]
        if rows == side:
            return patches
        grid = patches.transpose(1, 2).unflatten(2, (rows, rows))
        return F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)

    def momentum(self, context: Context) -> float:
        """Constant."""
        return self.config.momentum

    def after_step(self, context: Context) -> None:
        """As DINOv2's; the anchor becomes the teacher when it is time."""
        super().after_step(context)
        c, done = self.config, context.step + 1
        if c.anchor_every and done % c.anchor_every == 0 and done <= c.anchor_every * c.anchor_updates:
            follow(self.anchor, self.backbone, 0.0)
