"""iBOT: DINO whose student also says of hidden patches what the teacher says that sees them (arXiv 2111.07832)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import centred_targets, dino_loss, masked_distillation
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.distillation import DistillationConfig, student_groups, teacher_of, vit_small
from headrace.models.parts.masked_vit import MaskTokenViT, build_vit
from headrace.models.parts.meters import target_meters
from headrace.models.parts.momentum import follow, follow_means, slow_copy
from headrace.models.parts.precision import widened
from headrace.models.parts.schedules import cosine, warmed_up
from headrace.pipeline import Batch, BlockMask, ViewSpec


@dataclass(frozen=True, kw_only=True)
class IBOTConfig(DistillationConfig):
    """iBOT with the values of the authors' command for ViT-S/16 on ImageNet; its large views are BYOL's."""

    crop_scale: tuple[float, float] = (0.25, 1.0)
    """Area of the large crops as a share of the image."""
    local_views: int = 10
    """Small views, which the teacher does not see; no patch of them is hidden."""
    local_scale: tuple[float, float] = (0.05, 0.25)
    """Area of their crops."""
    mask_probability: float = 0.5
    """Share of the large views in which patches are hidden."""
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    """Share of their patches that is hidden, drawn for each."""
    prototypes: int = 8192
    """K, outputs of the head, which class tokens and patches share."""
    norm_last_layer: bool = False
    """Keep prototypes at length 1, as the authors advise for ViT-B."""
    teacher_temperature: float = 0.07
    """Of the teacher's class tokens after the warm-up."""
    warmup_teacher_epochs: int = 30
    """Epochs on a line between temperatures at the beginning and behind the warm-up, ends included."""
    patch_teacher_temperature: float = 0.07
    """Of the teacher's patches after the warm-up."""
    warmup_patch_teacher_temperature: float = 0.04
    """Of the teacher's patches at the beginning."""
    patch_weight: float = 1.0
    """Of the loss of hidden patches; 0 turns it off, and leaves DINO with masks."""
    backbone: BackboneConfig = field(default_factory=vit_small)
    """The network that is kept, a timm ViT with a class token. The teacher's has no drop path."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patch_teacher_temperature", "warmup_patch_teacher_temperature"):
            require(getattr(self, name) > 0, self, name, "be above 0")
        require(self.patch_weight >= 0, self, "patch_weight", "not be negative")


class IBOT(Method):
    """Probes see the class token of the teacher's backbone.

    Followed: bytedance/ibot at da316d8, main_ibot.py, loader.py, models/head.py and models/vision_transformer.py, with
    one head for class tokens and patches, as in all published runs. All patches of large views pass the heads; those
    that are not hidden weigh nothing in the loss, and count in the teacher's centre.
    """

    config: IBOTConfig
    inputs: ViewSpec
    center: Tensor
    """(1, K): mean of the teacher's outputs for class tokens over the last batches."""
    patch_center: Tensor
    """(1, K): likewise of patches, hidden or not."""
    teacher_temperature: Tensor
    """Scalar, of this step."""
    patch_teacher_temperature: Tensor
    """Scalar, of this step."""

    def __init__(self, config: IBOTConfig) -> None:
        super().__init__()
        self.config = config
        vit, backbone, grid = build_vit(config)
        self.feature_dim = vit.embed_dim
        self.student = MaskTokenViT(vit)
        self.student_head = config.head(self.feature_dim, norm_last_layer=config.norm_last_layer)
        self.backbone = teacher_of(vit, backbone)
        self.head = slow_copy(self.student_head)
        self.register_buffer("center", torch.zeros(1, config.prototypes))
        self.register_buffer("patch_center", torch.zeros(1, config.prototypes))
        self.register_buffer("teacher_temperature", torch.tensor(config.warmup_teacher_temperature), persistent=False)
        patches = torch.tensor(config.warmup_patch_teacher_temperature)
        self.register_buffer("patch_teacher_temperature", patches, persistent=False)
        self.new_centers: list[Tensor] = []  # of the step under way
        self.new_patch_centers: list[Tensor] = []
        smallest = max(1, min(grid) // 3) ** 2
        mask = BlockMask(grid=grid, ratio=config.mask_ratio, probability=config.mask_probability, smallest=smallest)
        self.inputs = ViewSpec(config.views().views, [mask, mask])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, and its two addends: `"class"`, see `headrace.models.losses.dino_loss`, and `"patch"`, see
        `headrace.models.losses.masked_distillation`, of each large view and itself; metered, what the teacher says of
        class tokens (`target_meters`)."""
        c = self.config
        views = batch.normalized()
        large, masked = torch.cat(views[:2]), torch.cat([masks.masked for masks in batch.masks])
        backbone: Any = self.backbone
        prefix: int = backbone.num_prefix_tokens
        with torch.no_grad():
            seen = backbone.forward_features(large)
            teacher, teacher_patches = self.head(seen[:, 0]), self.head(seen[:, prefix:])
            self.new_centers.append(widened(teacher).mean(dim=0, keepdim=True))
            self.new_patch_centers.append(widened(teacher_patches).mean(dim=(0, 1))[None])
        tokens = self.student(large, masked)
        classes = [tokens[:, 0]]
        if c.local_views:
            classes.append(self.student(torch.cat(views[2:]))[:, 0])
        student, patches = self.student_head(torch.cat(classes)), self.student_head(tokens[:, prefix:])
        of_class = dino_loss(
            student.chunk(len(views)), teacher.chunk(2), self.center, c.student_temperature, self.teacher_temperature
        )
        targets = centred_targets(teacher_patches, self.patch_center, self.patch_teacher_temperature)
        of_patches = masked_distillation(patches, targets, masked, c.student_temperature)
        terms = {
            "loss": of_class + c.patch_weight * of_patches,
            "class": of_class.detach(),
            "patch": of_patches.detach(),
        }
        if not self.metered:
            return terms
        return {**terms, **target_meters(centred_targets(teacher, self.center, self.teacher_temperature))}

    def cluster_scores(self, batch: Batch) -> Tensor:
        """The teacher's outputs for class tokens, above the centre."""
        outputs: Tensor = self.head(self.encode(batch)) - self.center
        return outputs

    @property
    def layered(self) -> nn.Module:
        """The student."""
        return self.student

    def parameter_groups(self) -> list[ParameterGroup]:
        """See `student_groups`."""
        return student_groups(self.student, [self.student_head], self.config.frozen_epochs)

    def before_step(self, context: Context) -> None:
        """The teacher's temperatures are those of the epoch; the last one of the warm-up has the final ones already."""
        c = self.config
        done = context.epoch, c.warmup_teacher_epochs
        self.teacher_temperature.fill_(warmed_up(c.warmup_teacher_temperature, c.teacher_temperature, *done))
        ends = c.warmup_patch_teacher_temperature, c.patch_teacher_temperature
        self.patch_teacher_temperature.fill_(warmed_up(*ends, *done))

    def after_step(self, context: Context) -> None:
        """The teacher follows the student, and the centres the teacher's outputs."""
        momentum = cosine(self.config.momentum, 1.0, context.progress)
        follow(self.backbone, self.student.vit, momentum)
        follow(self.head, self.student_head, momentum)
        follow_means(self.center, self.new_centers, self.config.center_momentum)
        follow_means(self.patch_center, self.new_patch_centers, self.config.center_momentum)
