"""ReSSL: to earlier samples, a view is as similar as a slow network says of a weaker one (arXiv 2107.09282)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import relation_loss
from headrace.models.losses.precision import widened
from headrace.models.method import Context, Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.norms import split_batch_norms
from headrace.models.parts.queue import Queue
from headrace.models.parts.shuffling import shuffled, unshuffled
from headrace.models.parts.views import MoCoViews
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class ReSSLConfig(MoCoViews):
    """ReSSL with the authors' values for ImageNet; the student's view is MoCo v2's."""

    student_temperature: float = 0.1
    """Of the student's similarities."""
    teacher_temperature: float = 0.04
    """Of the teacher's, sharper."""
    momentum: float = 0.999
    """Of the slow network, constant."""
    queue: int = 131072
    """Keys of earlier batches, a multiple of the global batch."""
    hidden_dim: int = 4096
    """Width of the projector's hidden layer."""
    projection_dim: int = 512
    """Its output dimension."""
    batch_norm_splits: int = 1
    """Parts of a rank's batch that batch norms take statistics of, each by itself, as in MoCo."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.student_temperature > 0, self, "student_temperature", "be above 0")
        require(self.teacher_temperature > 0, self, "teacher_temperature", "be above 0")
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")
        for name in ("queue", "hidden_dim", "projection_dim", "batch_norm_splits"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")

    def views(self) -> ViewSpec:
        """The student's, and the teacher's: a crop and a flip."""
        strong = self.view()
        return ViewSpec([strong, replace(strong, jitter=0.0, grayscale=0.0, blur=0.0)])


class ReSSL(Method):
    """Probes see the backbone's output, without the projector.

    Followed: KyleZheng1997/ReSSL at 4d67daa, main.py and models/ressl.py. The queue is the same on all ranks. A step of
    theirs moves the slow network before it makes keys, here the step before does after the optimiser: the same weights.
    """

    config: ReSSLConfig
    inputs: ViewSpec

    def __init__(self, config: ReSSLConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        backbone, self.feature_dim = build_backbone(config.backbone)
        self.backbone = split_batch_norms(backbone, config.batch_norm_splits)
        self.projector = nn.Sequential(
            nn.Linear(self.feature_dim, config.hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden_dim, config.projection_dim),
        )
        self.slow_backbone, self.slow_projector = slow_copy(self.backbone), slow_copy(self.projector)
        self.queue = Queue(config.queue, config.projection_dim, noise=True)
        self.new_keys: list[Tensor] = []  # of the step under way

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.relation_loss`."""
        strong, weak = batch.normalized()
        query = self.projector(self.backbone(strong))
        with torch.no_grad():
            images, order = shuffled(weak)
            key = unshuffled(self.slow_projector(self.slow_backbone(images)), order)
            self.new_keys.append(F.normalize(widened(key), dim=1))
        c = self.config
        return {"loss": relation_loss(query, key, self.queue.rows, c.student_temperature, c.teacher_temperature)}

    def after_step(self, context: Context) -> None:
        """The keys of this step enter the queue, and the slow network moves."""
        for keys in self.new_keys:
            self.queue.put(keys)
        self.new_keys = []
        follow(self.slow_backbone, self.backbone, self.config.momentum)
        follow(self.slow_projector, self.projector, self.config.momentum)
