"""DINO: a student's view of a crop matches a slow teacher's view of another, larger crop (arXiv 2104.14294)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import dino_loss
from headrace.models.losses.precision import widened
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.collectives import mean_over_ranks
from headrace.models.parts.heads import DINOHead
from headrace.models.parts.meters import share_used, target_entropies
from headrace.models.parts.momentum import follow
from headrace.models.parts.multi_crop import by_resolution
from headrace.models.parts.schedules import cosine, linear
from headrace.models.parts.views import BYOLViews
from headrace.pipeline import Batch, View, ViewSpec


def vit_small() -> BackboneConfig:
    """ViT-S/16 for crops of any size, with the authors' drop path."""
    options = {"dynamic_img_size": True, "drop_path_rate": 0.1}
    return BackboneConfig(name="vit_small_patch16_224", options=options)


@dataclass(frozen=True, kw_only=True)
class DINOConfig(BYOLViews):
    """DINO with the defaults of the authors' code for ImageNet; its large views are BYOL's."""

    crop_scale: tuple[float, float] = (0.4, 1.0)
    """Area of the large crops as a share of the image."""
    local_views: int = 8
    """Small views, which the teacher does not see."""
    local_size: int = 96
    """Their side, in pixels."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Area of their crops."""
    local_blur: float = 0.5
    """Probability of their Gaussian blur; 0 turns it off."""
    prototypes: int = 65536
    """K, outputs of the head."""
    hidden_dim: int = 2048
    """Width of the head's hidden layers."""
    bottleneck_dim: int = 256
    """Width in front of the prototypes."""
    norm_last_layer: bool = True
    """Keep prototypes at length 1; the authors turn it off for their longest runs of ViT-S."""
    student_temperature: float = 0.1
    """Of the student's outputs."""
    teacher_temperature: float = 0.04
    """Of the teacher's after the warm-up; published ViTs take 0.07."""
    warmup_teacher_temperature: float = 0.04
    """Of the teacher's at the beginning."""
    warmup_teacher_epochs: int = 0
    """Epochs on a line between the two, ends included; published ViTs take 30."""
    momentum: float = 0.996
    """Of the teacher at the beginning; it rises to 1 on a cosine. The authors advise 0.9995 for batches of 256."""
    center_momentum: float = 0.9
    """Of the centre."""
    frozen_epochs: int = 1
    """Epochs at the beginning in which the last layer is not trained."""
    backbone: BackboneConfig = field(default_factory=vit_small)
    """The network that is kept. The teacher's has no drop path."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("student_temperature", "teacher_temperature", "warmup_teacher_temperature"):
            require(getattr(self, name) > 0, self, name, "be above 0")
        for name in ("momentum", "center_momentum"):
            require(0 <= getattr(self, name) <= 1, self, name, "lie in [0, 1]")
        for name in ("prototypes", "hidden_dim", "bottleneck_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        for name in ("local_views", "warmup_teacher_epochs", "frozen_epochs"):
            require(getattr(self, name) >= 0, self, name, "not be negative")

    def views(self) -> ViewSpec:
        """Two large views and some small ones. facebookresearch/dino at 7c446df, main_dino.py, DataAugmentationDINO."""
        large = super().views().views
        # PIL's blur has no limit: thirteen taps hold one of 2 pixels to three deviations.
        taps = min(13, self.local_size - 1 | 1)
        small: View = replace(
            large[0],
            size=self.local_size,
            scale=self.local_scale,
            blur=self.local_blur,
            blur_kernel=taps,
            solarize=0.0,
        )
        return ViewSpec([*large, *[small] * self.local_views])


def without_drop_path(config: BackboneConfig) -> BackboneConfig:
    """The same network with all its layers in every pass."""
    return replace(config, options={name: x for name, x in config.options.items() if name != "drop_path_rate"})


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
        self.student_head = self._head()
        self.backbone, _ = build_backbone(without_drop_path(config.backbone))
        self.backbone.load_state_dict(self.student.state_dict())
        self.backbone.requires_grad_(False)
        self.head = self._head()
        self.head.load_state_dict(self.student_head.state_dict())
        self.head.requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, config.prototypes))
        self.register_buffer("teacher_temperature", torch.tensor(config.warmup_teacher_temperature), persistent=False)
        self.new_centers: list[Tensor] = []  # of the step under way

    def _head(self) -> DINOHead:
        return DINOHead(
            self.feature_dim,
            self.config.prototypes,
            hidden_dim=self.config.hidden_dim,
            bottleneck_dim=self.config.bottleneck_dim,
            norm_last_layer=self.config.norm_last_layer,
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, see `headrace.models.losses.dino_loss`; metered, what the teacher says: the entropies of
        `headrace.models.parts.meters`, and `"prototypes_used"`, the share that is some view's largest."""
        views = batch.normalized()
        student = self.student_head(by_resolution(self.student, views)).chunk(len(views))
        with torch.no_grad():
            teacher = self.head(by_resolution(self.backbone, views[:2]))
            self.new_centers.append(widened(teacher).mean(dim=0, keepdim=True))
        loss = dino_loss(
            student, teacher.chunk(2), self.center, self.config.student_temperature, self.teacher_temperature
        )
        return {"loss": loss, **(self._meters(teacher) if self.metered else {})}

    @torch.no_grad()
    def _meters(self, teacher: Tensor) -> dict[str, Tensor]:
        """Of the teacher's outputs (N, K)."""
        targets = F.softmax((widened(teacher) - self.center) / self.teacher_temperature, dim=1)
        return {**target_entropies(targets), "prototypes_used": share_used(targets)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Biases and vectors do not decay; position embeddings, class tokens and prototypes do. The last layer waits
        for its first epochs to pass."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        last = [p for name, p in named if name.startswith("student_head.last_layer.")]
        others = [(name, p) for name, p in named if not name.startswith("student_head.last_layer.")]
        return [
            ParameterGroup(params=[p for _, p in others if p.ndim > 1]),
            ParameterGroup(params=[p for _, p in others if p.ndim <= 1], decay_scale=0.0, adapt=False),
            ParameterGroup(params=last, frozen_epochs=self.config.frozen_epochs),
        ]

    def before_step(self, context: Context) -> None:
        """The teacher's temperature is one of the epoch; the last one of the warm-up has the final one already."""
        c = self.config
        warming = context.epoch < c.warmup_teacher_epochs
        progress = context.epoch / max(1, c.warmup_teacher_epochs - 1) if warming else 1.0
        self.teacher_temperature.fill_(linear(c.warmup_teacher_temperature, c.teacher_temperature, progress))

    def after_step(self, context: Context) -> None:
        """The teacher follows the student, and the centre the teacher's outputs."""
        momentum = cosine(self.config.momentum, 1.0, context.progress)
        follow(self.backbone, self.student, momentum)
        follow(self.head, self.student_head, momentum)
        center = mean_over_ranks(torch.stack(self.new_centers).mean(dim=0))
        self.center.lerp_(center, 1 - self.config.center_momentum)
        self.new_centers = []
