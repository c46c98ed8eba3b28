"""VAE: describe a picture by a cloud of points, from each of which it can be drawn again (arXiv 1312.6114)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import gaussian_kl, pixel_cross_entropy
from headrace.models.method import Method
from headrace.models.parts.autoencoders import Levels, as_pictures, whole_pictures
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """A variational autoencoder with the values of pytorch/examples for MNIST (vae/main.py)."""

    size: int = 28
    """Side of the picture, in pixels."""
    channels: Literal[1, 3] = 1
    """1 sees and draws greys, 3 colours."""
    hidden: int = 400
    """Units of the layer in the encoder, and of that in the decoder."""
    latent: int = 20
    """Numbers that describe a picture."""

    def __post_init__(self) -> None:
        require(self.channels in (1, 3), self, "channels", "be 1 or 3")
        for name in ("size", "hidden", "latent"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class VAE(Method):
    """Probes see the mean of the cloud.

    Followed: the paper's appendix B, with Bernoulli outputs, and the network of pytorch/examples at 0a8329c,
    vae/main.py. In evaluation mode the picture is drawn from the mean, so that a held-out loss does not depend on
    chance.
    """

    config: VAEConfig
    inputs: ViewSpec

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = whole_pictures(config.size)
        self.feature_dim = config.latent
        numbers = config.channels * config.size**2
        self.backbone = nn.Sequential(
            Levels(config.channels),
            nn.Flatten(),
            nn.Linear(numbers, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.latent),
        )
        self.log_variance = nn.Linear(config.hidden, config.latent)
        self.decoder = nn.Sequential(
            nn.Linear(config.latent, config.hidden), nn.ReLU(), nn.Linear(config.hidden, numbers)
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is the sum of `"reconstruction"`, see `headrace.models.losses.pixel_cross_entropy`, and
        `"divergence"`, see `headrace.models.losses.gaussian_kl`: the negative lower bound of the paper."""
        levels = self._levels(batch)
        mean, log_variance = self._cloud(levels)
        point = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        reconstruction = pixel_cross_entropy(self.decoder(point), levels.flatten(1))
        divergence = gaussian_kl(mean, log_variance)
        return {
            "loss": reconstruction + divergence,
            "reconstruction": reconstruction.detach(),
            "divergence": divergence.detach(),
        }

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A picture as it is ("input") and as it is drawn from the mean of its cloud ("reconstruction")."""
        levels = self._levels(batch)
        drawn = self.decoder(self._cloud(levels)[0]).sigmoid().view(levels.shape)
        return {"input": as_pictures(levels), "reconstruction": as_pictures(drawn)}

    def _levels(self, batch: Batch) -> Tensor:
        """(B, C, H, W) from 0 to 1."""
        (images,) = batch.normalized()
        levels: Tensor = self.backbone[0](images)  # type: ignore[index]
        return levels

    def _cloud(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, float32 (B, latent) each."""
        layers: Any = self.backbone
        hidden = layers[1:-1](levels)
        return widened(layers[-1](hidden)), widened(self.log_variance(hidden))
