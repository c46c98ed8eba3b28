"""DINOv2: class tokens as in DINO, hidden patches as in iBOT, and samples that keep apart (arXiv 2304.07193)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import centred_targets, crossed_views, koleo_loss, masked_distillation, sinkhorn
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.collectives import total
from headrace.models.parts.distillation import DistillationConfig, at_rate, student_groups, teacher_of
from headrace.models.parts.heads import DINOHead
from headrace.models.parts.masked_vit import MaskTokenViT, build_vit, take, uniform_drop_path
from headrace.models.parts.meters import target_meters
from headrace.models.parts.momentum import follow, follow_means, slow_copy
from headrace.models.parts.precision import widened
from headrace.models.parts.schedules import cosine, warmed_up
from headrace.pipeline import Batch, BlockMask, ViewSpec
from headrace.pipeline.masks import BlockMasks

_SINKHORN_ITERATIONS = 3


def vit_large() -> BackboneConfig:
    """ViT-L/16 for crops of any size, with LayerScale."""
    return BackboneConfig(name="vit_large_patch16_224", options={"dynamic_img_size": True, "init_values": 1e-5})


@dataclass(frozen=True, kw_only=True)
class DINOv2Config(DistillationConfig):
    """DINOv2 with the values of the authors' run on ImageNet-1k (dinov2/configs/train/vitl16_short.yaml)."""

    crop_scale: tuple[float, float] = (0.32, 1.0)
    """Area of the large crops as a share of the image."""
    local_scale: tuple[float, float] = (0.05, 0.32)
    """Area of the small crops."""
    blur: tuple[float, float] = (0.0, 0.9)
    """Probability of a Gaussian blur of the first and the second large view; 0 turns it off. Meant were 1 and 0.1, as
    in DINO: their class takes the probability of no blur, and their published networks were trained so."""
    blur_kernel: int = 9
    """Taps of all blurs, odd; small views take no more than fit."""
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    """Share of the patches that is hidden in one of the two large views, drawn for each sample."""
    patch_prototypes: int = 0
    """Outputs of a head that patches have for themselves, 131,072 in the authors' largest runs; 0 lets them share the
    class tokens' head."""
    patch_bottleneck_dim: int = 256
    """Width in front of these; not used with a shared head."""
    teacher_temperature: float = 0.07
    """Of the teacher's outputs after the warm-up."""
    warmup_teacher_epochs: int = 30
    """Epochs on a line between the temperatures, ends included, with a step each step. The authors' epochs have 1,250
    steps of 2,048 samples, about two passes over ImageNet."""
    momentum: float = 0.992
    """Of the teacher at the beginning; it rises to 1 on a cosine."""
    assignment: Literal["center", "sinkhorn"] = "center"
    """What keeps the teacher's outputs from one prototype: a moving centre, as in DINO, or Sinkhorn's iteration over a
    batch, which the authors' largest runs take."""
    koleo_weight: float = 0.1
    """Of the KoLeo loss of each large view; 0 turns it off."""
    koleo_over_ranks: bool = False
    """Whether the nearest sample is sought over all ranks. The authors seek it on each rank by itself, so that the loss
    depends on how many samples a rank has."""
    patch_weight: float = 1.0
    """Of the loss of hidden patches; 0 turns it off."""
    drop_path: float = 0.3
    """Of all of the student's blocks; 0 turns it off."""
    patch_embed_lr: float = 0.2
    """Learning rate of the patches' projection, as a factor."""
    backbone: BackboneConfig = field(default_factory=vit_large)
    """The network that is kept, a timm ViT with a class token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patch_prototypes", "koleo_weight", "patch_weight", "patch_embed_lr"):
            require(getattr(self, name) >= 0, self, name, "not be negative")
        require(self.patch_bottleneck_dim >= 1, self, "patch_bottleneck_dim", "be at least 1")
        require(self.assignment in ("center", "sinkhorn"), self, "assignment", "be 'center' or 'sinkhorn'")
        require(0 <= self.drop_path < 1, self, "drop_path", "lie in [0, 1)")

    def views(self) -> ViewSpec:
        """The large views first. facebookresearch/dinov2 at b8931f7, dinov2/data/augmentations.py."""
        views = super().views().views
        return ViewSpec([replace(view, blur_kernel=min(self.blur_kernel, view.size - 1 | 1)) for view in views])


@dataclass(kw_only=True)
class StudentStep:
    """What a student has to say of a batch."""

    terms: dict[str, Tensor]
    """The addends of its loss."""
    patches: Tensor
    """Behind its backbone, of the large views (2B, L, D)."""
    meters: dict[str, Tensor]
    """Of the teacher's class tokens (`target_meters`); none where the step is not metered."""

    def reported(self) -> dict[str, Tensor]:
        """What a method's `loss` returns: the sum of the addends, each of them, detached, and meters."""
        loss = torch.stack(list(self.terms.values())).sum()
        return {"loss": loss, **{name: term.detach() for name, term in self.terms.items()}, **self.meters}


class DINOv2(Method):
    """Probes see the class token of the teacher's backbone.

    Followed: facebookresearch/dinov2 at b8931f7, dinov2/train/ssl_meta_arch.py, loss, layers/dino_head.py,
    data/augmentations.py, collate.py and masking.py, utils/param_groups.py, configs.

    One of the two large views of each sample has hidden patches, so that just half of any batch's have. Only hidden
    patches pass the heads: those of a sample first, and behind them as many others as make up the largest number that
    can be hidden, which weigh nothing.
    """

    config: DINOv2Config
    inputs: ViewSpec
    center: Tensor
    """(1, K): mean of the teacher's outputs for class tokens over the last batches."""
    patch_center: Tensor
    """(1, K) with as many prototypes as patches have: likewise of hidden patches."""
    teacher_temperature: Tensor
    """Scalar, of this step."""

    def __init__(self, config: DINOv2Config) -> None:
        super().__init__()
        self.config = c = config
        vit, backbone, grid = build_vit(config)
        self.feature_dim: int = vit.embed_dim
        self.backbone = teacher_of(vit, backbone)
        uniform_drop_path(vit, c.drop_path)
        self.student = MaskTokenViT(vit)
        self.student_head = c.head(self.feature_dim, norm_last_layer=False)
        self.head = slow_copy(self.student_head)
        self.student_patch_head: DINOHead | None = None
        self.patch_head: DINOHead | None = None
        if c.patch_prototypes:
            own = replace(c, prototypes=c.patch_prototypes, bottleneck_dim=c.patch_bottleneck_dim)
            self.student_patch_head = own.head(self.feature_dim, norm_last_layer=False)
            self.patch_head = slow_copy(self.student_patch_head)
        self.register_buffer("center", torch.zeros(1, c.prototypes))
        self.register_buffer("patch_center", torch.zeros(1, c.patch_prototypes or c.prototypes))
        self.register_buffer("teacher_temperature", torch.tensor(c.warmup_teacher_temperature), persistent=False)
        self.new_centers: list[Tensor] = []  # of the step under way
        self.patch_sums: list[Tensor] = []  # likewise (K + 1,): the sum of the outputs, and of how many
        first = BlockMask(grid=grid, ratio=c.mask_ratio, probability=0.5)
        self.most = first.largest
        self.inputs = ViewSpec(c.views().views, [first, replace(first, instead_of=0)])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` and its addends: `"large"` and `"small"` of class tokens, see
        `headrace.models.losses.crossed_views`, `"patch"` of hidden patches, `"koleo"` of large views. The authors log
        half of the last two. Metered, what the teacher says of class tokens (`target_meters`)."""
        return self.student_step(batch.normalized(), batch.masks).reported()

    def student_step(self, views: list[Tensor], masks: list[BlockMasks]) -> StudentStep:
        """Of views, large ones first, and the masks of these."""
        c = self.config
        large = torch.cat(views[:2])
        first, second = (mask.masked for mask in masks)
        backbone: Any = self.backbone
        prefix: int = backbone.num_prefix_tokens
        in_second = second.any(dim=1)
        hidden = first | second  # (B, L) of the view that has any
        numbers = hidden.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : self.most]
        counted = hidden.gather(1, numbers)  # (B, M)

        def chosen(tokens: Tensor) -> Tensor:
            one, other = tokens[:, prefix:].chunk(2)
            return take(torch.where(in_second[:, None, None], other, one), numbers)

        with torch.no_grad():
            seen = backbone.forward_features(large)
            teacher, teacher_patches = self.head(seen[:, 0]), (self.patch_head or self.head)(chosen(seen))
            targets, patch_targets = self._targets(widened(teacher), widened(teacher_patches), counted)
        tokens = self.student(large, torch.cat([first, second]))
        classes = [tokens[:, 0]]
        if c.local_views:
            classes.append(self.student(torch.cat(views[2:]))[:, 0])
        student = self.student_head(torch.cat(classes)).chunk(len(views))
        patches = (self.student_patch_head or self.student_head)(chosen(tokens))
        of_large, of_small = crossed_views(student, targets.chunk(2), c.student_temperature)
        # The other large view of each sample adds nothing.
        of_patches = 0.5 * masked_distillation(patches, patch_targets, counted, c.student_temperature)
        terms = {"large": of_large, "small": of_small, "patch": c.patch_weight * of_patches}
        if c.koleo_weight:
            spread = [koleo_loss(each, over_ranks=c.koleo_over_ranks) for each in tokens[:, 0].chunk(2)]
            terms["koleo"] = c.koleo_weight * (spread[0] + spread[1])
        meters = target_meters(targets) if self.metered else {}
        return StudentStep(terms=terms, patches=tokens[:, prefix:], meters=meters)

    def _targets(self, teacher: Tensor, patches: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Of class tokens (2B, K) and of patches (B, M, K), of which some count."""
        temperature = self.teacher_temperature
        if self.config.assignment == "sinkhorn":
            of_patches = sinkhorn(
                patches.flatten(0, 1), temperature, _SINKHORN_ITERATIONS, counted.flatten(), slack=0.0
            )
            return sinkhorn(teacher, temperature, _SINKHORN_ITERATIONS, slack=0.0), of_patches.view_as(patches)
        self.new_centers.append(teacher.mean(dim=0, keepdim=True))
        weights = counted[:, :, None].to(patches.dtype)
        self.patch_sums.append(torch.cat([(patches * weights).sum(dim=(0, 1)), weights.sum(dim=(0, 1))]))
        of_patches = centred_targets(patches, self.patch_center, temperature)
        return centred_targets(teacher, self.center, temperature), of_patches

    def cluster_scores(self, batch: Batch) -> Tensor:
        """The teacher's outputs for class tokens, above the centre."""
        outputs: Tensor = self.head(self.encode(batch)) - self.center
        return outputs

    @property
    def layered(self) -> nn.Module:
        """The student."""
        return self.student

    def parameter_groups(self) -> list[ParameterGroup]:
        """See `student_groups`; the patches' projection has a rate of its own. Lengths of prototypes are learnt."""
        heads = [head for head in (self.student_head, self.student_patch_head) if head is not None]
        groups = student_groups(self.student, heads, self.config.frozen_epochs)
        return at_rate(groups, self.student.vit.patch_embed, self.config.patch_embed_lr)

    def before_step(self, context: Context) -> None:
        """The teacher's temperature is one of the step."""
        c = self.config
        ends = c.warmup_teacher_temperature, c.teacher_temperature
        length = c.warmup_teacher_epochs * context.steps_per_epoch
        self.teacher_temperature.fill_(warmed_up(*ends, context.step, length))

    def momentum(self, context: Context) -> float:
        """Of the teacher, in this step."""
        return cosine(self.config.momentum, 1.0, context.progress)

    def after_step(self, context: Context) -> None:
        """The teacher follows the student, and the centres the teacher's outputs."""
        c = self.config
        momentum = self.momentum(context)
        follow(self.backbone, self.student.vit, momentum)
        follow(self.head, self.student_head, momentum)
        if self.patch_head is not None and self.student_patch_head is not None:
            follow(self.patch_head, self.student_patch_head, momentum)
        if c.assignment == "center":
            follow_means(self.center, self.new_centers, c.center_momentum)
            sums = total(torch.stack(self.patch_sums).sum(dim=0))
            self.patch_center.lerp_(sums[None, :-1] / sums[-1], 1 - c.center_momentum)
            self.patch_sums = []
