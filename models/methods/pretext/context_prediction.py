"""Context prediction: on which side of a patch does another one lie (arXiv 1505.05192)?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.precision import widened
from headrace.models.parts.puzzles import laid_out, levels_of, require_any_size
from headrace.pipeline import Batch, Normalize, PatchPair, View, ViewSpec, center_view

NEIGHBOURS = 8
LEVELS = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""From 0 to 1: what becomes of them does not depend on a mean or on a deviation that all channels share."""


@dataclass(frozen=True, kw_only=True)
class ContextPredictionConfig:
    """Context prediction with the authors' values for ImageNet (cdoersch/deepcontext at 5307282, train.py)."""

    size: int = 96
    """Side of a patch, in pixels."""
    scale: tuple[float, float] = (0.17, 0.29)
    """Side of a patch as a share of the image's shorter side, drawn uniformly: 96 pixels of images of 150 to 450
    thousand."""
    gap: float = 0.5
    """Pixels between two patches as a share of a patch's side."""
    jitter: float = 7 / 96
    """How far each patch strays up, down, left and right, as a share of its side; 0 turns it off."""
    pairs: int = 4
    """Pairs of patches of each image, as many as the authors take grids. Both orders of each are asked for."""
    drop_channels: float = 1.0
    """Probability that two of a patch's three colours become noise, against chromatic aberration; 0 turns it off."""
    project: float = 0.0
    """Probability that a patch loses green against magenta, the paper's other remedy; 0 turns it off."""
    lose_resolution: float = 0.33
    """Probability that a patch is shrunk and enlarged again; 0 turns it off."""
    smallest: int = 10
    """Least side, in pixels, that it is shrunk to; its area is drawn uniformly."""
    patch_dim: int = 4096
    """Width of the layer that each patch has to itself, behind the backbone."""
    hidden_dim: int = 4096
    """Width of the two layers that see both patches."""
    probe_size: int = 224
    """Side of the whole picture that probes see, in pixels."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        for name in ("pairs", "patch_dim", "hidden_dim", "probe_size"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(0 <= self.lose_resolution <= 1, self, "lose_resolution", "lie in [0, 1]")
        if self.lose_resolution > 0:
            require(1 <= self.smallest < self.size, self, "smallest", f"lie in [1, {self.size - 1}], below the size")
        context_views(self)  # its fields' limits are PatchPair's


def context_views(config: ContextPredictionConfig) -> ViewSpec:
    """Pairs of neighbours, each patch with colours of its own. cdoersch/deepcontext at 5307282, train.py."""
    view = View(
        size=config.size, flip=0.0, project=config.project, drop_channels=config.drop_channels, normalize=LEVELS
    )
    pair = PatchPair(view=view, scale=config.scale, gap=config.gap, jitter=config.jitter)
    return ViewSpec([pair] * config.pairs)


class ContextPrediction(Method):
    """Patches pass the backbone one by one, and a head that sees two of them says where the second lies. Probes see the
    backbone's output for the whole picture, of which nothing is dropped.

    Followed: cdoersch/deepcontext at 5307282, train.py and solver_mko.prototxt. Places come with the batch; which
    patches lose their resolution is drawn in training, and none does else.
    """

    config: ContextPredictionConfig
    inputs: ViewSpec
    resampling: Tensor
    """float32 (R, S, S): rows of a patch, shrunk to each of R sides and enlarged again."""

    def __init__(self, config: ContextPredictionConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = context_views(config)
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        require_any_size(self.backbone, config)
        self.each = _layer(self.feature_dim, config.patch_dim, norm=True)
        self.both = nn.Sequential(
            _layer(2 * config.patch_dim, config.hidden_dim, norm=True),
            _layer(config.hidden_dim, config.hidden_dim, norm=False),
            _filled(nn.Linear(config.hidden_dim, NEIGHBOURS)),
        )
        sides = range(config.smallest, config.size) if config.lose_resolution > 0 else ()
        self.register_buffer("resampling", resampling(config.size, sides), persistent=False)

    @property
    def probe_inputs(self) -> ViewSpec:
        """The whole picture."""
        return center_view(self.config.probe_size, LEVELS)

    def encode(self, batch: Batch) -> Tensor:
        """(B, D)."""
        (view,) = batch.normalized()
        features: Tensor = self.backbone(unit_rms(view))
        return features

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of the place, mean over both orders of all pairs; `"accuracy"`: the share that is
        right."""
        logits, labels = self._logits(batch)
        return {
            "loss": F.cross_entropy(logits, labels),
            "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean(),
        }

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The first pair of each sample: side by side ("patches"), and its second patch around the first as the network
        would put it ("solved") and where it lies ("true")."""
        levels = levels_of(batch)
        assert levels is not None
        levels, (logits, labels) = levels[:, :2], self._logits(batch)
        found = {"solved": logits.argmax(dim=1)[: len(levels)], "true": labels[: len(levels)]}
        around = {
            name: torch.stack([torch.full_like(label, 4), label + (label >= 4)], dim=1) for name, label in found.items()
        }
        slots = torch.arange(2, device=labels.device).expand(len(levels), 2)
        pictures = {name: laid_out(levels, places, 3, 3) for name, places in around.items()}
        return {"patches": laid_out(levels, slots, 1, 2), **pictures}

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(2 A B, 8), and places (2 A B,): of the A pairs, pair by pair, each of B samples, and of the same the other
        way round."""
        patches = [unit_rms(self._with_resolution_lost(view)) for view in batch.normalized()]
        features = self.each(self.backbone(torch.cat(patches)))
        first, second = features.unflatten(0, (self.config.pairs, 2, -1)).unbind(1)  # (A, B, D)
        couples = torch.cat([torch.cat([first, second], dim=2), torch.cat([second, first], dim=2)])
        places = batch.drawn.arrangement.T.flatten()
        logits = widened(self.both(couples.flatten(0, 1)))
        return logits, torch.cat([places, opposite(places)])

    def _with_resolution_lost(self, patches: Tensor) -> Tensor:
        """Some of the patches (B, 3, S, S) shrunk and enlarged again."""
        if not self.training or not self.config.lose_resolution:
            return patches
        least, most = self.config.smallest, self.config.size - 1
        chosen, area = torch.rand(2, len(patches), device=patches.device)
        side = torch.sqrt(least**2 + area * (most**2 - least**2)).long().clamp(least, most)
        with torch.autocast(patches.device.type, enabled=False):
            rows = self.resampling[side - least][:, None]  # (B, 1, S, S)
            coarse = rows @ patches @ rows.transpose(2, 3)
        return torch.where((chosen < self.config.lose_resolution)[:, None, None, None], coarse, patches)


def opposite(places: Tensor) -> Tensor:
    """Where the first patch lies, seen from the second."""
    return NEIGHBOURS - 1 - places


def unit_rms(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) whose channels have mean 0, and all three together a root mean square of 1. The authors scale
    it to 50 levels, about a deviation of ImageNet's. One below one level counts as one."""
    images = images - images[:, :, :1, :1]  # nothing is left of a constant, no rounding either
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    return centred / centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1 / 255)


def resampling(size: int, sides: range | tuple[()]) -> Tensor:
    """float32 (R, size, size): what a column of `size` numbers becomes that is interpolated linearly, without
    antialiasing, to each of R sides and back."""
    identity = torch.eye(size)[None]
    there = [F.interpolate(identity, side, mode="linear") for side in sides]
    back = [F.interpolate(shrunk, size, mode="linear") for shrunk in there]
    return torch.cat(back).transpose(1, 2).contiguous() if back else identity[:0]


def _layer(in_dim: int, out_dim: int, *, norm: bool) -> nn.Sequential:
    """As in the authors' network: norms scale and shift nothing."""
    linear = _filled(nn.Linear(in_dim, out_dim))
    return nn.Sequential(linear, *[nn.BatchNorm1d(out_dim, affine=False)] * norm, nn.ReLU(inplace=True))


def _filled(layer: nn.Linear) -> nn.Linear:
    """Caffe's "xavier", which goes by the inputs alone."""
    bound = math.sqrt(3 / layer.in_features)
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer
