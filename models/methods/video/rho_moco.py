"""Rho-MoCo: each clip finds the other clips of its video among those of earlier batches (arXiv 2104.14558)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import queue_info_nce
from headrace.models.method import Context, Method
from headrace.models.parts.clip_backbones import build_clip_backbone
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.precision import widened
from headrace.models.parts.schedules import cosine
from headrace.models.parts.several_clips import SeveralClipsConfig, plain_mlp
from headrace.models.parts.shuffling import shuffled, unshuffled
from headrace.models.parts.slow_keys import KeyQueue
from headrace.pipeline import Batch, ClipSpec


@dataclass(frozen=True, kw_only=True)
class RhoMoCoConfig(SeveralClipsConfig):
    """Rho-MoCo with the authors' values for Kinetics-400 (MoCo_SlowR50_8x8.yaml)."""

    clips: int = 4
    """Rho: clips of a video, at least 2, drawn independently, so that they may overlap."""
    temperature: float = 0.1
    """Temperature of the loss."""
    momentum: float = 0.994
    """Of the slow network at the beginning; it rises to 1 on a cosine."""
    queue: int = 65536
    """Keys of earlier batches, a multiple of the global batch times the number of clips."""
    hidden_dim: int = 2048
    """Width of the projector's two hidden layers."""
    projection_dim: int = 128
    """Its output dimension."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, self, "temperature", "be above 0")
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")
        for name in ("queue", "hidden_dim", "projection_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class RhoMoCo(Method):
    """Every clip asks, and the slow network's keys of the others answer. Probes see the backbone's output for one clip.

    Followed: facebookresearch/SlowFast at 287ec00, slowfast/models/contrastive.py and contrastive_forward. Queries pass
    clip by clip, keys together and shuffled over ranks. The slow network, whose running statistics are its own, moves
    behind the optimiser's step, which is in front of the next step's keys.
    """

    config: RhoMoCoConfig
    inputs: ClipSpec

    def __init__(self, config: RhoMoCoConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.spec()
        self.backbone, self.feature_dim = build_clip_backbone(config.backbone)
        self.projector = plain_mlp((self.feature_dim, config.hidden_dim, config.hidden_dim, config.projection_dim))
        self.slow_backbone, self.slow_projector = slow_copy(self.backbone), slow_copy(self.projector)
        self.queue = KeyQueue(config.queue, config.projection_dim)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: the sum over clips of the mean over the other clips of
        `headrace.models.losses.queue_info_nce`."""
        clips = batch.normalized()
        queries = [self.projector(self.backbone(each)) for each in clips]
        keys = self._keys(clips)
        self.queue.put_later(torch.cat(keys))
        terms = [
            torch.stack([self._term(query, key) for j, key in enumerate(keys) if i != j]).mean()
            for i, query in enumerate(queries)
        ]
        return {"loss": torch.stack(terms).sum()}

    def _term(self, query: Tensor, key: Tensor) -> Tensor:
        return queue_info_nce(query, key, self.queue.rows, self.config.temperature)

    @torch.no_grad()
    def _keys(self, clips: list[Tensor]) -> list[Tensor]:
        """(B, D) of each clip, of length 1. Clips of one length pass together."""
        found: list[Tensor] = []
        stills = self.config.stills
        for group in (clips[: len(clips) - stills], clips[len(clips) - stills :]):
            if group:
                together, order = shuffled(torch.cat(group))
                keys = unshuffled(self.slow_projector(self.slow_backbone(together)), order)
                found += F.normalize(widened(keys), dim=1).chunk(len(group))
        return found

    def after_step(self, context: Context) -> None:
        """The keys of this step enter the queue, and the slow network moves."""
        self.queue.advance()
        momentum = cosine(self.config.momentum, 1.0, (context.step + 1) / context.total_steps)
        follow(self.slow_backbone, self.backbone, momentum)
        follow(self.slow_projector, self.projector, momentum)
