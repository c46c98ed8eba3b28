"""ReSSL: to earlier samples, a view is as similar as a slow network says of a weaker one (arXiv 2107.09282)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import relation_loss
from headrace.models.parts.heads import two_layers
from headrace.models.parts.precision import widened
from headrace.models.parts.slow_keys import SlowKeys, SlowKeysConfig
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class ReSSLConfig(SlowKeysConfig):
    """ReSSL with the authors' values for ImageNet; the student's view is MoCo v2's."""

    student_temperature: float = 0.1
    """Of the student's similarities."""
    teacher_temperature: float = 0.04
    """Of the teacher's, sharper."""
    queue: int = 131072
    """Keys of earlier batches, a multiple of the global batch."""
    hidden_dim: int = 4096
    """Width of the projector's hidden layer."""
    projection_dim: int = 512
    """Output dimension of the projector."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.student_temperature > 0, self, "student_temperature", "be above 0")
        require(self.teacher_temperature > 0, self, "teacher_temperature", "be above 0")
        require(self.hidden_dim >= 1, self, "hidden_dim", "be at least 1")

    def views(self) -> ViewSpec:
        """The student's, and the teacher's: a crop and a flip."""
        strong = self.view()
        return ViewSpec([strong, replace(strong, jitter=0.0, grayscale=0.0, blur=0.0)])


class ReSSL(SlowKeys):
    """Probes see the backbone's output, without the projector.

    Followed: KyleZheng1997/ReSSL at 4d67daa, main.py and models/ressl.py.
    """

    config: ReSSLConfig

    def make_projector(self) -> nn.Module:
        """Two layers, without norms."""
        return two_layers(self.feature_dim, self.config.hidden_dim, self.config.projection_dim)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.relation_loss`."""
        strong, weak = batch.normalized()
        query = self.projector(self.backbone(strong))
        (key,) = self.slow_keys(weak)
        self.queue.put_later(F.normalize(widened(key), dim=1))
        c = self.config
        return {"loss": relation_loss(query, key, self.queue.rows, c.student_temperature, c.teacher_temperature)}
