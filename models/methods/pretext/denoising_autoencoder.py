"""Denoising autoencoder: draw a picture again of which a share of the pixels was lost (ICML 2008)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.models.checks import require
from headrace.models.methods.pretext.autoencoder import Autoencoder, AutoencoderConfig
from headrace.models.parts.autoencoders import as_pictures, whole_picture
from headrace.pipeline import Batch, RandomMask, ViewSpec
from headrace.pipeline.masks import PatchMasks


@dataclass(frozen=True, kw_only=True)
class DenoisingAutoencoderConfig(AutoencoderConfig):
    """The denoising autoencoder of the authors' laboratory with its values for MNIST (lisa-lab/DeepLearningTutorials at
    11c4651, code/dA.py)."""

    corruption: float = 0.3
    """Share of the inputs, channels of pixels, that are set to 0. For none there is the method `autoencoder`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.corruption < 1, self, "corruption", "lie between 0 and 1")


class DenoisingAutoencoder(Autoencoder):
    """An autoencoder that sees a part of the inputs and draws all of them. What it sees is not scaled up, as dropout
    would. Probes see the hidden numbers of the whole picture.

    Followed: lisa-lab/DeepLearningTutorials at 11c4651, code/dA.py. Which inputs are lost comes with the batch: a fixed
    number of each picture, as in the paper, where the code draws for each input by itself.
    """

    config: DenoisingAutoencoderConfig

    def __init__(self, config: DenoisingAutoencoderConfig) -> None:
        super().__init__(config)
        rows = config.channels * config.size  # a channel below the other
        self.inputs = ViewSpec(
            [whole_picture(config.size)], [RandomMask(grid=(rows, config.size), ratio=config.corruption)]
        )

    def seen(self, levels: Tensor, batch: Batch) -> Tensor:
        """Levels with 0 in the place of those that are lost."""
        (masks,) = batch.masks
        assert isinstance(masks, PatchMasks)
        return levels.flatten(1).scatter(1, masks.masked, 0.0).view(levels.shape)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A picture as it is ("input"), as the network sees it ("corrupted"), and as it is drawn ("reconstruction")."""
        shown = super().pictures(batch)
        return {
            "input": shown["input"],
            "corrupted": as_pictures(self.seen(self._levels(batch), batch)),
            "reconstruction": shown["reconstruction"],
        }
