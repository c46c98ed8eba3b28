"""Sorting sequences: in which order are four frames of a video shown, up to their reverse (arXiv 1708.01246)?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import factorial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.frames import OfFrames, each_frame
from headrace.models.parts.orders import Orders, PairwiseHead
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, View


@dataclass(frozen=True, kw_only=True)
class SortingConfig:
    """OPN with the authors' values for UCF101 (HsinYingLee/OPN at d0ba14e, UCF_datalayers.py, train_opn.prototxt)."""

    size: int = 80
    """Side of the square patches, in pixels."""
    jitter: int = 5
    """Pixels that the patch of each frame strays from the others' in any direction; 0 turns it off."""
    crop_scale: tuple[float, float] = (90**2 / (320 * 240), 90**2 / (320 * 240))
    """Area of the crop from which the patches of all frames are cut, as a share of the frame: patch and jitter."""
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    """Its width over its height."""
    flip: float = 0.5
    """Probability of a horizontal flip, of all frames; 0 turns it off."""
    split_channels: bool = True
    """Whether each frame shows one of its colours, drawn for it alone, in the place of all three, so that colours do
    not tell what comes next."""
    normalize: Normalize = field(default_factory=lambda: Normalize(mean=(96.5 / 255,) * 3, std=(0.226,) * 3))
    """Mean and deviation that frames are normalised with, alike for all colours."""
    frames: int = 4
    """Of a sequence, 3 to 5."""
    strides: tuple[int, ...] = (5, 10, 15)
    """Distances from a frame to the next, in frames of the video; each is equally likely."""
    frame_dim: int = 1024
    """Width of the layer that each frame has to itself, behind the backbone."""
    pair_dim: int = 512
    """Width of the layer that sees two frames."""
    dropout: float = 0.5
    """Share of both layers' outputs that is dropped; 0 turns it off."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept, which sees single frames."""

    def __post_init__(self) -> None:
        require(3 <= self.frames <= 5, self, "frames", "lie in [3, 5]")
        require(self.jitter >= 0, self, "jitter", "not be negative")
        require(0 <= self.dropout < 1, self, "dropout", "lie in [0, 1)")
        for name in ("frame_dim", "pair_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class Sorting(OfFrames):
    """Frames pass the backbone one by one, and a head compares them two by two. Probes see the backbone's output,
    averaged over the frames of a clip in its colours.

    Followed: HsinYingLee/OPN at d0ba14e, UCF_datalayers.py, train_opn.prototxt and solver_opn.prototxt. The order comes
    with the batch, all equally likely; where patches lie and which colours they show is drawn in training. In
    evaluation mode patches lie in the middle and show green.
    """

    config: SortingConfig
    inputs: ClipSpec

    def __init__(self, config: SortingConfig) -> None:
        super().__init__()
        self.config = config
        view = View(
            size=config.size + 2 * config.jitter,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            normalize=config.normalize,
        )
        # In disorder are all orders but that of time and its reverse.
        disorder = 1 - 2 / factorial(config.frames)
        clip = Clip(frames=config.frames, strides=config.strides, view=view, reverse=0.5, disorder=disorder)
        self.inputs = ClipSpec([clip])
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        self.each = nn.Sequential(
            nn.Linear(self.feature_dim, config.frame_dim),
            nn.BatchNorm1d(config.frame_dim),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )
        self.orders = Orders(config.frames, reversible=True)
        self.head = PairwiseHead(
            config.frame_dim,
            config.frames,
            self.orders.count,
            hidden_dim=config.pair_dim,
            batch_norm=True,
            dropout=config.dropout,
        )

    @property
    def probe_inputs(self) -> ClipSpec:
        """The plain clip, at the size of the patches."""
        (clip,) = self.inputs.plain().clips
        return ClipSpec([replace(clip, view=replace(clip.view, size=self.config.size))])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of the order's number; `"accuracy"`: the share that is right."""
        (clips,) = batch.normalized()
        frames = each_frame(lambda images: self.each(self.backbone(self._patches(images))), clips)
        logits = widened(self.head(frames))
        labels = self.orders(batch.drawn.permutation[:, 0])
        return {
            "loss": F.cross_entropy(logits, labels),
            "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean(),
        }

    def _patches(self, images: Tensor) -> Tensor:
        """(N, 3, size, size) of frames (N, 3, size + 2 jitter, ...)."""
        patches = strayed(images, self.config.jitter, random=self.training)
        return one_channel(patches, random=self.training) if self.config.split_channels else patches


def strayed(images: Tensor, reach: int, *, random: bool) -> Tensor:
    """A window (N, 3, S - 2 reach, S - 2 reach) of images (N, 3, S, S), for each another one, which lies anywhere where
    it is `random`, from torch's default generator, and in the middle else."""
    n, c, height, width = images.shape
    inner = (height - 2 * reach, width - 2 * reach)
    if not random:
        return images[:, :, reach : reach + inner[0], reach : reach + inner[1]]
    down, right = torch.randint(2 * reach + 1, (2, n, 1, 1, 1), device=images.device)
    rows = down + torch.arange(inner[0], device=images.device)[:, None]  # (N, 1, S', 1)
    columns = right + torch.arange(inner[1], device=images.device)  # (N, 1, 1, S')
    kept = images.gather(2, rows.expand(-1, c, -1, width))
    return kept.gather(3, columns.expand(-1, c, inner[0], -1))


def one_channel(images: Tensor, *, random: bool) -> Tensor:
    """Images (N, 3, H, W) each of which has one of its channels three times, any where it is `random`, from torch's
    default generator, and the second else."""
    n, c, height, width = images.shape
    if not random:
        return images[:, 1:2].expand(-1, c, -1, -1)
    chosen = torch.randint(c, (n, 1, 1, 1), device=images.device).expand(-1, 1, height, width)
    return images.gather(1, chosen).expand(-1, c, -1, -1)
