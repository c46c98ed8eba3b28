"""Inpainting: fill in a part of a picture that was cut out, context encoders (arXiv 1604.07379)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import discriminator_loss, generator_loss, weighted_squared_error
from headrace.models.method import Method, ParameterGroup, kernels_and_vectors
from headrace.models.parts.pixels import unit_pixels
from headrace.models.parts.strided import (
    SLOPE,
    require_halves,
    strided_decoder,
    strided_encoder,
    strided_initialization,
)
from headrace.pipeline import Batch, Normalize, RegionMask, View, ViewSpec
from headrace.pipeline.masks import RegionMasks

SIGNED = Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Levels to -1 to 1, the limits of the generator's tanh."""
FILL = (117, 104, 123)
"""Levels of red, green and blue where something is cut out, as the authors have them."""


@dataclass(frozen=True, kw_only=True)
class InpaintingConfig:
    """Context encoders with the values of the authors' command for ImageNet (pathak22/context-encoder at 68abd11,
    train.lua and README.md)."""

    size: int = 128
    """Side of the square view, in pixels; a multiple of 2 to the number of `widths`."""
    crop_scale: tuple[float, float] = (0.1, 0.13)
    """Area of the random square crop as a share of the image; the authors crop 128 pixels from images whose shorter
    side has 350."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    region: Literal["center", "random"] = "center"
    """What is cut out: the central square, half as high and wide as the view, which alone is drawn; or four rectangles
    anywhere, a quarter of the view at most, and the whole view is drawn."""
    overlap: int = 4
    """Pixels at the border of the central square that are drawn, but are not cut out; 0 for none."""
    overlap_weight: float = 10.0
    """What a pixel of this border counts."""
    adversarial: float = 0.001
    """Weight of being taken for a true picture by a discriminator; what is left of 1 is the reconstruction's. 0 does
    without a discriminator, as the features of the paper were trained."""
    widths: tuple[int, ...] = (64, 64, 128, 256, 512)
    """Channels behind each halving of the encoder; the decoder and the discriminator take them, too."""
    bottleneck: int = 4000
    """Numbers between encoder and decoder, which are the features."""

    def __post_init__(self) -> None:
        require(len(self.widths) >= 2 and min(self.widths) >= 1, self, "widths", "be two widths or more, of at least 1")
        require_halves(self, "size", len(self.widths))
        require(self.size % 4 == 0, self, "size", "be a multiple of 4")
        require(self.region in ("center", "random"), self, "region", "be 'center' or 'random'")
        require(0 <= self.overlap < self.size // 4, self, "overlap", "leave something to cut out")
        require(self.overlap_weight > 0, self, "overlap_weight", "be above 0")
        require(0 <= self.adversarial < 1, self, "adversarial", "lie in [0, 1)")
        require(self.bottleneck >= 1, self, "bottleneck", "be at least 1")


class Inpainting(Method):
    """Probes see the bottleneck of a whole view, of which nothing is cut out.

    Followed: pathak22/context-encoder at 68abd11, train.lua (of rectangles train_random.lua), with the command of its
    README. The discriminator, the player "discriminator", sees what was drawn and no context. It judges the generator
    by its weights before their step.
    """

    config: InpaintingConfig
    inputs: ViewSpec
    fill: Tensor
    """float32 (3, 1, 1), in the units of the view."""
    weight: Tensor
    """float32 (H, W) of what is drawn: what each pixel counts."""

    def __init__(self, config: InpaintingConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = config.bottleneck
        view = View(size=config.size, scale=config.crop_scale, ratio=(1.0, 1.0), flip=config.flip, normalize=SIGNED)
        central = config.region == "center"
        four = RegionMask(size=config.size, place="random", regions=4, scale=(0.03, 0.0625), aspect=(0.5, 2.0))
        self.inputs = ViewSpec([view], [RegionMask(size=config.size) if central else four])
        self.backbone = nn.Sequential(
            strided_encoder(3, config.widths, config.bottleneck, side=config.size, bias=False),
            nn.BatchNorm2d(config.bottleneck),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Flatten(),
        )
        side = config.size // 2 if central else config.size
        widths = config.widths[1:] if central else config.widths  # of pictures of this side
        self.decoder = nn.Sequential(
            strided_decoder(config.bottleneck, widths[::-1], 3, side=side, bias=False), nn.Tanh()
        )
        if config.adversarial:
            self.discriminator = strided_encoder(3, widths, 1, side=side, bias=False)
        strided_initialization(self)
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (SIGNED.mean, SIGNED.std))
        self.register_buffer("fill", (torch.tensor(FILL).view(3, 1, 1) / 255 - mean) / std, persistent=False)
        weight = torch.ones(side, side)
        if central and config.overlap:
            weight.fill_(config.overlap_weight)
            weight[config.overlap : -config.overlap, config.overlap : -config.overlap] = 1.0
        self.register_buffer("weight", weight, persistent=False)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"reconstruction"`: see `headrace.models.losses.weighted_squared_error`; with a discriminator `"adversarial"`
        and `"discriminator"`, see `generator_loss` and `discriminator_loss`, too. `"loss"` is the generator's weighted
        sum of the first two, plus the last one, which moves the discriminator alone."""
        (images,) = batch.normalized()
        drawn, true = self._drawn(self.seen(batch)), self._framed(images)
        reconstruction = weighted_squared_error(drawn, true, self.weight)
        if not self.config.adversarial:
            return {"loss": reconstruction}
        judge = self.discriminator
        # The same judge, which does not move for it, nor its statistics.
        still = {name: weight.detach() for name, weight in judge.named_parameters()}
        still |= {name: buffer.clone() for name, buffer in judge.named_buffers()}
        adversarial = generator_loss(torch.func.functional_call(judge, still, (drawn,)))
        discriminator = discriminator_loss(judge(true), judge(drawn.detach()))
        share = self.config.adversarial
        return {
            "loss": (1 - share) * reconstruction + share * adversarial + discriminator,
            "reconstruction": reconstruction.detach(),
            "adversarial": adversarial.detach(),
            "discriminator": discriminator.detach(),
        }

    def parameter_groups(self) -> list[ParameterGroup]:
        """The generator's, and the discriminator's as a second player's."""
        groups = kernels_and_vectors(self.backbone, self.decoder)
        if self.config.adversarial:
            groups += kernels_and_vectors(self.discriminator, player="discriminator")
        return groups

    def seen(self, batch: Batch) -> Tensor:
        """Views (B, 3, H, W) with a part cut out, what the encoder sees."""
        (images,), (masks,) = batch.normalized(), batch.masks
        assert isinstance(masks, RegionMasks)
        return torch.where(self._cut_out(masks)[:, None], self.fill, images)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A view as it is ("input"), as the encoder sees it ("masked"), and filled in ("reconstruction")."""
        (images,), (masks,) = batch.normalized(), batch.masks
        assert isinstance(masks, RegionMasks)
        seen = self.seen(batch)
        drawn = self._drawn(seen)
        margin = (self.config.size - drawn.shape[-1]) // 2
        whole = F.pad(drawn, (margin, margin, margin, margin))
        shown = {
            "input": images,
            "masked": seen,
            "reconstruction": torch.where(masks.mask[:, None], whole.to(images.dtype), images),
        }
        return {name: unit_pixels(each, SIGNED).float().clamp(0, 1) for name, each in shown.items()}

    def _drawn(self, seen: Tensor) -> Tensor:
        """The central square, or the whole view."""
        drawn: Tensor = self.decoder(self.backbone(seen)[:, :, None, None])
        return drawn

    def _framed(self, images: Tensor) -> Tensor:
        """The part of views that is drawn, as it is."""
        if self.config.region == "random":
            return images
        side = self.config.size // 2
        return images[:, :, side // 2 : side // 2 + side, side // 2 : side // 2 + side]

    def _cut_out(self, masks: RegionMasks) -> Tensor:
        """bool (B, H, W): the regions, of a central one without its border."""
        border = self.config.overlap
        if self.config.region == "random" or not border:
            return masks.mask
        kept = (~masks.mask).float()[:, None]
        return F.max_pool2d(kept, 2 * border + 1, 1, border)[:, 0] == 0
