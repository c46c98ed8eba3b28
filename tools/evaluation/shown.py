"""The raw input where a protocol sees it batch by batch: the pixels that an encoder is shown, at a smaller size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from headrace.models import Method
from headrace.pipeline import Batch, Inputs
from headrace.train.probes import image_views

SIDE = 32
"""To which pictures are averaged down: a linear probe of more pixels fills the memory."""


def shown_pixels(batch: Batch) -> Tensor:
    """Levels of the first view, 0 to 1, float32 (B, 3 side side) with a side of at most `SIDE`."""
    levels = batch.views[0].float() / 255
    return F.adaptive_avg_pool2d(levels, min(SIDE, levels.shape[2])).flatten(1)


class ShownPixels(Method):
    """Encodes what `method` is shown as its pixels."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.inputs = image_views(method)
        self.feature_dim = 3 * min(SIDE, self.inputs.views[0].size) ** 2
        self._shown = method.probe_inputs

    @property
    def probe_inputs(self) -> Inputs:
        return self._shown

    def encode(self, batch: Batch) -> Tensor:
        return shown_pixels(batch)
