"""Colourisation: which colours has a grey picture (arXiv 1603.08511)?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import colour_regression, soft_bin_loss
from headrace.models.method import Context, Method
from headrace.models.parts.lab import (
    SoftBins,
    annealed_mean,
    colour_bins,
    lab_to_rgb,
    rarity_weights,
    soft_bins,
    spread,
)
from headrace.pipeline import Batch, Normalize, View, ViewSpec

LAB = Normalize.lab(mean=(50.0, 0.0, 0.0))
"""L - 50, a and b."""
STRIDE = 8
"""Pixels of the view from one place of the features to the next."""
TARGET_STRIDE = 4
"""Pixels of the view from one place that gets a colour to the next."""
LARGEST = 110.0
"""Unit of a and b that are regressed."""


@dataclass(frozen=True, kw_only=True)
class ColorizationConfig:
    """Colourisation with the authors' values for ImageNet (richzhang/colorization at 4aa459f,
    models/colorization_train_val_v2.prototxt and resources/caffe_traininglayers.py)."""

    size: int = 176
    """Side of the square view, in pixels; a multiple of 8."""
    crop_scale: tuple[float, float] = ((176 / 256) ** 2, (176 / 256) ** 2)
    """Area of the random square crop as a share of the image; the authors crop 176 of 256 pixels."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    predict: Literal["bins", "ab"] = "bins"
    """"bins" asks for a distribution over 313 colours, whose rare ones count more; "ab" for the colour itself, under
    the squared distance: the paper's regression, whose colours are pale."""
    neighbours: int = 10
    """Bins that a true colour belongs to."""
    deviation: float = 5.0
    """Of the Gaussian by which it does, in units of a and b."""
    uniform: float = 0.5
    """Share of the uniform distribution that is mixed into that of the set's colours; 1 makes all colours alike."""
    rarity: float = 1.0
    """Power of the inverse of this mixture by which colours are weighed; 0 turns it off."""
    grey: float = 5.0
    """Pictures of which neither a nor b exceeds this in any place have no gradient; below 0 all have one."""
    temperature: float = 0.38
    """Of the distribution whose mean is shown in pictures."""
    width: int = 64
    """Channels of the first layers; features have eight times as many."""
    depth: int = 3
    """Convolutions of each stage from the third on."""

    def __post_init__(self) -> None:
        require(self.size >= STRIDE and self.size % STRIDE == 0, self, "size", f"be a multiple of {STRIDE}")
        require(self.predict in ("bins", "ab"), self, "predict", "be 'bins' or 'ab'")
        require(1 <= self.neighbours <= len(colour_bins()), self, "neighbours", f"lie in [1, {len(colour_bins())}]")
        require(0 <= self.uniform <= 1, self, "uniform", "lie in [0, 1]")
        for name in ("deviation", "temperature"):
            require(getattr(self, name) > 0, self, name, "be above 0")
        for name in ("width", "depth"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class Trunk(nn.Module):
    """A Lab view (B, 3, H, W), of which only L is looked at, to features (B, 8 `width`): the mean over places.

    3 x 3 convolutions, a ReLU behind each and a batch norm without affine behind each stage, strides instead of pooling
    in the first three stages and dilation in the fifth and sixth.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        stages = [
            _stage(1, width, 2, stride=2),
            _stage(width, 2 * width, 2, stride=2),
            _stage(2 * width, 4 * width, depth, stride=2),
            _stage(4 * width, 8 * width, depth),
            _stage(8 * width, 8 * width, depth, dilation=2),
            _stage(8 * width, 8 * width, depth, dilation=2),
            _stage(8 * width, 8 * width, depth),
        ]
        self.stages = nn.Sequential(*stages)

    def forward(self, lab: Tensor) -> Tensor:
        """(B, 8 width)."""
        return self.map(lab).mean(dim=(2, 3))

    def map(self, lab: Tensor) -> Tensor:
        """(B, 8 width, H / 8, W / 8)."""
        features: Tensor = self.stages(lab[:, :1])
        return features


def _stage(inputs: int, width: int, convolutions: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """The last convolution has the stride."""
    layers: list[nn.Module] = []
    for number in range(convolutions):
        last = number == convolutions - 1
        convolution = nn.Conv2d(inputs if number == 0 else width, width, 3, stride if last else 1, dilation, dilation)
        layers += [convolution, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.BatchNorm2d(width, affine=False))


class Colorization(Method):
    """Probes see the mean over places of the seventh stage, from the lightness alone.

    Followed: richzhang/colorization at 4aa459f, models/colorization_train_val_v2.prototxt, train/solver.prototxt and
    resources/caffe_traininglayers.py; weights begin as He et al. draw them. How frequent each colour is, is found out
    once, before the first step, from the whole pictures of the set; before that all colours weigh alike, so that a step
    can be measured.
    """

    config: ColorizationConfig
    inputs: ViewSpec
    backbone: Trunk
    bins: Tensor
    """float32 (313, 2): a and b of each."""
    prior: Tensor
    """float32 (313,): how frequent each is in the training set; 0 before the first epoch."""
    weights: Tensor
    """float32 (313,): what a place of each counts."""

    def __init__(self, config: ColorizationConfig) -> None:
        super().__init__()
        self.config = config
        view = View(size=config.size, scale=config.crop_scale, ratio=(1.0, 1.0), flip=config.flip, normalize=LAB)
        self.inputs = ViewSpec([view])
        self.backbone = Trunk(config.width, config.depth)
        self.feature_dim = 8 * config.width
        self.register_buffer("bins", colour_bins(), persistent=False)
        self.register_buffer("prior", torch.zeros(len(self.bins)))
        self.register_buffer("weights", torch.ones(len(self.bins)))
        narrow = 4 * config.width
        layers: list[nn.Module] = [nn.ConvTranspose2d(self.feature_dim, narrow, 4, 2, 1), nn.ReLU(inplace=True)]
        for _ in range(config.depth - 1):
            layers += [nn.Conv2d(narrow, narrow, 3, 1, 1), nn.ReLU(inplace=True)]
        last = nn.Conv2d(narrow, len(self.bins) if config.predict == "bins" else 2, 1)
        self.head = nn.Sequential(*layers, last)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        nn.init.normal_(last.weight, std=0.01)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone, see `headrace.models.losses.soft_bin_loss`, or `colour_regression`. What rare colours count
        more is in its gradient, not in its value."""
        (lab,) = batch.normalized()
        found, target = self.head(self.backbone.map(lab)), self._target(lab)
        if self.config.predict == "ab":
            return {"loss": colour_regression(found, target / LARGEST)}
        soft = self._soft(target)
        coloured = (target.abs() > self.config.grey).flatten(1).any(dim=1)
        weight = self.weights[soft.nearest[..., 0]] * coloured[:, None, None]
        return {"loss": soft_bin_loss(found, *soft, weight)}

    def on_epoch(self, context: Context) -> None:
        """How frequent each colour is, before the first epoch."""
        if context.epoch > 0 or self.config.predict == "ab" or not self.config.rarity:
            return
        assert context.batches is not None
        assert isinstance(self.probe_inputs, ViewSpec)
        total, places = torch.zeros_like(self.prior, dtype=torch.float64), 0
        for batch in context.batches(self.probe_inputs):
            soft = self._soft(self._target(batch.normalized()[0]))
            total += spread(soft, len(self.bins)).flatten(0, -2).sum(dim=0)
            places += soft.share[..., 0].numel()
        self.prior.copy_(total / places)
        self.weights.copy_(rarity_weights(self.prior, uniform=self.config.uniform, power=self.config.rarity))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A view as it is ("original"), its lightness ("input"), and this with the colours that are found for it
        ("colorization"): the annealed mean of the bins, or the regressed colours."""
        (lab,) = batch.normalized()
        found = self.head(self.backbone.map(lab)).float()
        bins = self.config.predict == "bins"
        colours = annealed_mean(found, self.bins, self.config.temperature) if bins else found * LARGEST
        colours = F.interpolate(colours, size=lab.shape[-2:], mode="bilinear")
        lightness = lab[:, :1].float() + LAB.mean[0]
        return {
            "original": lab_to_rgb(torch.cat([lightness, lab[:, 1:].float()], dim=1)),
            "input": lab_to_rgb(torch.cat([lightness, torch.zeros_like(colours)], dim=1)),
            "colorization": lab_to_rgb(torch.cat([lightness, colours], dim=1)),
        }

    @staticmethod
    def _target(lab: Tensor) -> Tensor:
        """a and b of every fourth pixel, float32 (B, 2, H / 4, W / 4)."""
        return lab[:, 1:, ::TARGET_STRIDE, ::TARGET_STRIDE].float()

    def _soft(self, target: Tensor) -> SoftBins:
        """(B, H / 4, W / 4, K)."""
        config = self.config
        return soft_bins(target.movedim(1, -1), self.bins, neighbours=config.neighbours, deviation=config.deviation)
