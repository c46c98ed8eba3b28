"""DINO: a student's view of a crop matches a slow teacher's view of another, larger crop (arXiv 2104.14294)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from headrace.models.losses import centred_targets, dino_loss
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.distillation import DistillationConfig, student_groups, teacher_of, vit_small
from headrace.models.parts.meters import target_meters
from headrace.models.parts.momentum import follow, follow_means, slow_copy
from headrace.models.parts.multi_crop import by_resolution
from headrace.models.parts.precision import widened
from headrace.models.parts.schedules import cosine, warmed_up
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class DINOConfig(DistillationConfig):
    """DINO with the defaults of the authors' code for ImageNet; its large views are BYOL's."""

    norm_last_layer: bool = True
    """Keep prototypes at length 1; the authors turn it off for their longest runs of ViT-S."""
    backbone: BackboneConfig = field(default_factory=vit_small)
    """The network that is kept. The teacher's has no drop path."""


class DINO(Method):
    """Probes see the teacher's backbone, as the authors' do.

    Followed: facebookresearch/dino at 7c446df, main_dino.py, utils.py (MultiCropWrapper) and vision_transformer.py.
    Views of one size pass the backbone together, and all of them the head.
    """

    config: DINOConfig
    inputs: ViewSpec
    center: Tensor
    """(1, K): mean of the teacher's outputs over the last batches."""
    teacher_temperature: Tensor
    """Scalar, of this step."""

    def __init__(self, config: DINOConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.student, self.feature_dim = build_backbone(config.backbone)
        self.student_head = config.head(self.feature_dim, norm_last_layer=config.norm_last_layer)
        self.backbone = teacher_of(self.student, config.backbone)
        self.head = slow_copy(self.student_head)
        self.register_buffer("center", torch.zeros(1, config.prototypes))
        self.register_buffer("teacher_temperature", torch.tensor(config.warmup_teacher_temperature), persistent=False)
        self.new_centers: list[Tensor] = []  # of the step under way

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, see `headrace.models.losses.dino_loss`; metered, what the teacher says (`target_meters`)."""
        views = batch.normalized()
        student = self.student_head(by_resolution(self.student, views)).chunk(len(views))
        with torch.no_grad():
            teacher = self.head(by_resolution(self.backbone, views[:2]))
            self.new_centers.append(widened(teacher).mean(dim=0, keepdim=True))
        loss = dino_loss(
            student, teacher.chunk(2), self.center, self.config.student_temperature, self.teacher_temperature
        )
        if not self.metered:
            return {"loss": loss}
        return {"loss": loss, **target_meters(centred_targets(teacher, self.center, self.teacher_temperature))}

    def cluster_scores(self, batch: Batch) -> Tensor:
        """The teacher's outputs, above the centre."""
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
        """The teacher's temperature is one of the epoch; the last one of the warm-up has the final one already."""
        c = self.config
        ends = c.warmup_teacher_temperature, c.teacher_temperature
        self.teacher_temperature.fill_(warmed_up(*ends, context.epoch, c.warmup_teacher_epochs))

    def after_step(self, context: Context) -> None:
        """The teacher follows the student, and the centre the teacher's outputs."""
        momentum = cosine(self.config.momentum, 1.0, context.progress)
        follow(self.backbone, self.student, momentum)
        follow(self.head, self.student_head, momentum)
        follow_means(self.center, self.new_centers, self.config.center_momentum)
