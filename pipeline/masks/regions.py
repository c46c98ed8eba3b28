"""Rectangles of pixels are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.masks.drawn import RegionMasks
from headrace.pipeline.masks.grids import ATTEMPTS, STREAM, block_size
from headrace.pipeline.random import key_word, philox, unit


@dataclass(frozen=True, kw_only=True)
class RegionMask:
    """Regions to inpaint: the centre, or rectangles anywhere. Context encoders (1604.07379).

    By default the paper's centre: half the view high and wide. Its random blocks are smaller ones that may overlap and
    cover up to a quarter together, such as `place="random", regions=4, scale=(0.03, 0.0625)`.
    """

    size: int
    """Side of the view, in pixels."""
    place: Literal["center", "random"] = "center"
    """The centre holds one region."""
    regions: int = 1
    """Rectangles of each sample, all of them at least one pixel and at most the view."""
    scale: tuple[float, float] = (0.25, 0.25)
    """Area of a region as a share of the view, drawn uniformly for each."""
    aspect: tuple[float, float] = (1.0, 1.0)
    """Height over width of a region, drawn log-uniformly for each."""
    overlap: bool = True
    """Whether regions may share pixels. Without, each takes the first of ten places that is free of those before it,
    and the last of the ten where none is."""

    def __post_init__(self) -> None:
        check(self.size >= 1, self, "size", self.size, "at least 1")
        check(self.place in ("center", "random"), self, "place", self.place, "'center' or 'random'")
        check(self.regions >= 1, self, "regions", self.regions, "at least 1")
        if self.place == "center":
            check(self.regions == 1, self, "regions", self.regions, "1 in the centre")
        check(0.0 < self.scale[0] <= self.scale[1] <= 1.0, self, "scale", self.scale, "0 < low <= high <= 1")
        check(0.0 < self.aspect[0] <= self.aspect[1], self, "aspect", self.aspect, "0 < low <= high")

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> RegionMasks:
        """See `draw_masks`."""
        boxes = np.empty((len(sample_ids), self.regions, 4), np.int64)
        mask = np.zeros((len(sample_ids), self.size, self.size), np.bool_)
        low, high = (float(np.log(side)) for side in self.aspect)
        settings = (*map(float, self.scale), low, high)
        rules = self.place == "center", self.overlap
        _draw_regions(key_word(seed), key_word(epoch), sample_ids, key_word(number), settings, rules, boxes, mask)
        return RegionMasks(torch.from_numpy(boxes), torch.from_numpy(mask))


@kernel
def _draw_regions(seed, epoch, sample_ids, number, settings, rules, boxes, mask):
    scale_low, scale_high, log_low, log_high = settings
    centred, overlap = rules
    size = mask.shape[1]
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        for region in range(boxes.shape[1]):
            counter = np.uint64(region) << np.uint64(16) | number
            words = philox(seed, STREAM, counter, np.uint64(6), sample, epoch)
            area = size * size * (scale_low + (scale_high - scale_low) * unit(words[0]))
            aspect = np.exp(log_low + (log_high - log_low) * unit(words[1]))
            height, width = block_size(area, aspect, size, size)
            top, left = (size - height) // 2, (size - width) // 2
            if not centred:
                top = np.int64(unit(words[2]) * (size - height + 1))
                left = np.int64(unit(words[3]) * (size - width + 1))
                tries = 1 if overlap else ATTEMPTS
                for attempt in range(1, tries):
                    if not mask[i, top : top + height, left : left + width].any():
                        break
                    counter = np.uint64(region * ATTEMPTS + attempt) << np.uint64(16) | number
                    words = philox(seed, STREAM, counter, np.uint64(7), sample, epoch)
                    top = np.int64(unit(words[0]) * (size - height + 1))
                    left = np.int64(unit(words[1]) * (size - width + 1))
            boxes[i, region, 0] = top
            boxes[i, region, 1] = left
            boxes[i, region, 2] = height
            boxes[i, region, 3] = width
            mask[i, top : top + height, left : left + width] = True
