"""Autoencoder: describe a picture by a few numbers from which it can be drawn again (ICML 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import pixel_cross_entropy
from headrace.models.method import Method
from headrace.models.parts.autoencoders import Levels, TiedLayer, as_pictures, whole_pictures
from headrace.models.parts.strided import require_halves, strided_decoder, strided_encoder, strided_initialization
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The autoencoder of the authors' laboratory with its values for MNIST (lisa-lab/DeepLearningTutorials at 11c4651,
    code/dA.py), or a convolutional one, which is a variant of Headrace's own."""

    size: int = 28
    """Side of the picture, in pixels."""
    channels: Literal[1, 3] = 1
    """1 sees and draws greys, 3 colours."""
    network: Literal["tied", "convolutional"] = "tied"
    """"tied": one logistic layer, whose transposed weights lead back. "convolutional": convolutions that halve the side
    of the picture, and as many that double it."""
    hidden: int = 500
    """Numbers that describe a picture: logistic units where tied, linear ones where convolutional."""
    widths: tuple[int, ...] = (32, 64)
    """Channels behind each halving of a convolutional network; a tied one has none."""

    def __post_init__(self) -> None:
        require(self.size >= 1, self, "size", "be at least 1")
        require(self.channels in (1, 3), self, "channels", "be 1 or 3")
        require(self.network in ("tied", "convolutional"), self, "network", "be 'tied' or 'convolutional'")
        require(self.hidden >= 1, self, "hidden", "be at least 1")
        if self.network == "convolutional":
            require(len(self.widths) > 0 and min(self.widths) >= 1, self, "widths", "be widths of at least 1")
            require_halves(self, "size", len(self.widths))


class Autoencoder(Method):
    """Probes see the hidden numbers of the whole picture.

    Followed: lisa-lab/DeepLearningTutorials at 11c4651, code/dA.py, without corruption.
    """

    config: AutoencoderConfig
    inputs: ViewSpec

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = whole_pictures(config.size)
        self.feature_dim = config.hidden
        layers: list[nn.Module] = [Levels(config.channels)]
        if config.network == "tied":
            layers.append(TiedLayer(config.channels * config.size**2, config.hidden))
        else:
            sizes: dict[str, Any] = {"side": config.size, "bias": True}
            encoder = strided_encoder(config.channels, config.widths, config.hidden, **sizes)
            self.decoder = strided_decoder(config.hidden, config.widths[::-1], config.channels, **sizes)
            strided_initialization(encoder, self.decoder)
            layers += [encoder, nn.Flatten()]
        self.backbone = nn.Sequential(*layers)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: see `headrace.models.losses.pixel_cross_entropy`, against the picture as it is."""
        levels = self._levels(batch)
        return {"loss": pixel_cross_entropy(self._drawn(self.seen(levels, batch)), levels)}

    def seen(self, levels: Tensor, batch: Batch) -> Tensor:
        """What the network sees of a picture (B, C, H, W)."""
        return levels

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A picture as it is ("input") and as it is drawn again ("reconstruction")."""
        levels = self._levels(batch)
        drawn = self._drawn(self.seen(levels, batch)).sigmoid()
        return {"input": as_pictures(levels), "reconstruction": as_pictures(drawn)}

    def _levels(self, batch: Batch) -> Tensor:
        """(B, C, H, W) from 0 to 1."""
        (images,) = batch.normalized()
        levels: Tensor = self.backbone[0](images)  # type: ignore[index]
        return levels

    def _drawn(self, seen: Tensor) -> Tensor:
        """Logits of the levels, (B, C, H, W), from what the network sees."""
        hidden: Tensor = self.backbone[1:](seen)  # type: ignore[index]
        if self.config.network == "convolutional":
            drawn: Tensor = self.decoder(hidden[:, :, None, None])
            return drawn
        layer: Any = self.backbone[1]  # type: ignore[index]
        flat: Tensor = layer.down(hidden)
        return flat.view(seen.shape)
