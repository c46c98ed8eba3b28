"""What DINO and its successors share: a student and a slow teacher whose outputs are shares of prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from headrace.models.checks import require
from headrace.models.method import ParameterGroup, kernels_and_vectors
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import DINOHead
from headrace.models.parts.views import MultiCropViews


def vit_small() -> BackboneConfig:
    """ViT-S/16 for crops of any size, with the drop path of DINO's and iBOT's authors."""
    options = {"dynamic_img_size": True, "drop_path_rate": 0.1}
    return BackboneConfig(name="vit_small_patch16_224", options=options)


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(MultiCropViews):
    """Heads, temperatures and the teacher's pace, with DINO's values."""

    prototypes: int = 65536
    """K, outputs of the head."""
    hidden_dim: int = 2048
    """Width of the head's hidden layers."""
    bottleneck_dim: int = 256
    """Width in front of the prototypes."""
    head_batch_norm: bool = False
    """Batch norms in the head's hidden layers, for short runs of small networks."""
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

    def head(self, in_dim: int, *, norm_last_layer: bool) -> DINOHead:
        """A head for features of width `in_dim`, with random weights."""
        return DINOHead(
            in_dim,
            self.prototypes,
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            norm_last_layer=norm_last_layer,
            batch_norm=self.head_batch_norm,
        )


def teacher_of(student: nn.Module, config: BackboneConfig) -> nn.Module:
    """The network of the student, which `config` describes, with its weights, without its drop path and without
    gradient."""
    options = {name: value for name, value in config.options.items() if name != "drop_path_rate"}
    teacher, _ = build_backbone(replace(config, options=options))
    teacher.load_state_dict(student.state_dict())
    return teacher.requires_grad_(False)


def student_groups(student: nn.Module, heads: Sequence[DINOHead], frozen_epochs: int) -> list[ParameterGroup]:
    """Biases and vectors do not decay; position embeddings, class tokens and prototypes do. The heads' last layers wait
    for `frozen_epochs` to pass."""
    last = [p for head in heads for p in head.last_layer.parameters() if p.requires_grad]
    return [
        *kernels_and_vectors(student, *(head.mlp for head in heads)),
        ParameterGroup(params=last, frozen_epochs=frozen_epochs),
    ]


def at_rate(groups: Sequence[ParameterGroup], module: nn.Module, factor: float) -> list[ParameterGroup]:
    """`groups`, in which the learning rate of a module's parameters is multiplied by `factor`."""
    inside = {id(p) for p in module.parameters()}
    result = []
    for group in groups:
        for by, wanted in ((1.0, False), (factor, True)):
            params = [p for p in group.params if (id(p) in inside) == wanted]
            if params:
                result.append(replace(group, params=params, lr_scale=group.lr_scale * by))
    return result
