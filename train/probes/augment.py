"""RandAugment of images and erased rectangles of noise, as fine-tuning has them; the pixels are timm's.

What is drawn for a picture is a function of a seed, the epoch and the picture's position in its set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP
from torch import Tensor

Arguments = Callable[[float, int], tuple[float, ...]]

_RAND_AUGMENT, _ERASING = range(2)  # the first number behind the seed in a key: no two share draws
_ATTEMPTS = 10  # to place a rectangle, as timm's RandomErasing

CHANGES: Mapping[str, Arguments] = {
    "AutoContrast": lambda level, sign: (),
    "Equalize": lambda level, sign: (),
    "Invert": lambda level, sign: (),
    "Rotate": lambda level, sign: (sign * level / 10 * 30.0,),
    "PosterizeIncreasing": lambda level, sign: (4 - int(level / 10 * 4),),
    "SolarizeIncreasing": lambda level, sign: (256 - int(level / 10 * 256),),
    "SolarizeAdd": lambda level, sign: (int(level / 10 * 110),),
    "ColorIncreasing": lambda level, sign: (max(0.1, 1.0 + sign * (level / 10 * 0.9)),),
    "ContrastIncreasing": lambda level, sign: (max(0.1, 1.0 + sign * (level / 10 * 0.9)),),
    "BrightnessIncreasing": lambda level, sign: (max(0.1, 1.0 + sign * (level / 10 * 0.9)),),
    "SharpnessIncreasing": lambda level, sign: (max(0.1, 1.0 + sign * (level / 10 * 0.9)),),
    "ShearX": lambda level, sign: (sign * (level / 10 * 0.3),),
    "ShearY": lambda level, sign: (sign * (level / 10 * 0.3),),
    "TranslateXRel": lambda level, sign: (sign * (level / 10 * 0.45),),
    "TranslateYRel": lambda level, sign: (sign * (level / 10 * 0.45),),
}
"""What timm's functions of these names are given at a level from 0 to 10; those that turn, shift or strengthen go
either way, as `sign` says, -1 or 1."""


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """RandAugment (arXiv 1909.13719) as timm's `rand-m9-mstd0.5-inc1` has it."""

    magnitude: float = 9.0
    """Mean of the levels; 10 is the largest. 0 turns everything off."""
    deviation: float = 0.5
    """Of the levels, which are drawn from a normal distribution and cut off at 0 and 10."""
    operations: int = 2
    """Draws from the fifteen changes, one after the other, with replacement."""
    probability: float = 0.5
    """Of each of them to happen."""

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= 10 or self.deviation < 0:
            raise ValueError("RandAugment.magnitude must lie in [0, 10], and deviation must not be negative")
        if self.operations < 1 or not 0 <= self.probability <= 1:
            raise ValueError("RandAugment wants at least one operation, and a probability")

    def drawn(self, key: tuple[int, ...]) -> list[tuple[str, tuple[float, ...]]]:
        """Names and arguments of the changes of one picture, a function of `key`, non-negative integers."""
        generator = np.random.default_rng(key)
        names = generator.choice(list(CHANGES), self.operations)
        happens = generator.random(self.operations) < self.probability
        levels = generator.normal(self.magnitude, self.deviation, self.operations).clip(0.0, 10.0)
        signs = generator.choice((-1, 1), self.operations)
        every = zip(names, happens, levels, signs, strict=True)
        return [(str(name), CHANGES[name](float(level), int(sign))) for name, takes, level, sign in every if takes]

    def apply(
        self,
        images: Tensor,
        indices: Sequence[int],
        fill: Sequence[int],
        *,
        seed: int,
        epoch: int,
        executor: Executor,
    ) -> Tensor:
        """Changed copies of uint8 levels (B, 3, H, W), on the CPU; `images` itself where the magnitude is 0.

        Args:
            indices: of the samples, B.
            fill: red, green and blue of what comes in at the borders.
            executor: whose threads do it, a picture a task.
        """
        if not self.magnitude:
            return images
        keys = [(seed, _RAND_AUGMENT, epoch, index) for index in indices]
        change = partial(self._changed, fill=(int(fill[0]), int(fill[1]), int(fill[2])))
        pixels = images.permute(0, 2, 3, 1).numpy()
        return torch.from_numpy(np.stack(list(executor.map(change, pixels, keys)))).permute(0, 3, 1, 2)

    def _changed(self, pixels: np.ndarray, key: tuple[int, ...], *, fill: tuple[int, int, int]) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        for name, arguments in self.drawn(key):
            change: Any = NAME_TO_OP[name]
            image = change(image, *arguments, fillcolor=fill, resample=Image.Resampling.BICUBIC)
        return np.asarray(image)


@dataclass(frozen=True, kw_only=True)
class Erasing:
    """A rectangle of normal noise in normalised images (arXiv 1708.04896, timm's mode "pixel")."""

    probability: float = 0.25
    """Of an image to get one; 0 turns it off."""
    area: tuple[float, float] = (0.02, 1 / 3)
    """Share of the image, drawn uniformly."""
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Height over width, drawn log-uniformly."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"Erasing.probability must lie in [0, 1], got {self.probability}")

    def drawn(self, height: int, width: int, key: tuple[int, ...]) -> tuple[slice, slice] | None:
        """Rows and columns of an image's rectangle, a function of `key`. None for none, also where ten tries have found
        none that is lower and narrower than the image."""
        generator = np.random.default_rng(key)
        if generator.random() >= self.probability:
            return None
        for _ in range(_ATTEMPTS):
            area = generator.uniform(*self.area) * height * width
            aspect = math.exp(generator.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if rows < height and columns < width:
                top, left = (int(generator.integers(end + 1)) for end in (height - rows, width - columns))
                return slice(top, top + rows), slice(left, left + columns)
        return None

    def apply(self, images: Tensor, indices: Sequence[int], *, seed: int, epoch: int) -> Tensor:
        """Images (B, C, H, W) with rectangles of their own; `images` itself where the probability is 0. The noise is of
        torch's default generator, one draw for the batch."""
        if not self.probability:
            return images
        noise, hidden = torch.randn_like(images), torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.bool)
        for place, index in enumerate(indices):
            rectangle = self.drawn(images.shape[2], images.shape[3], (seed, _ERASING, epoch, index))
            if rectangle is not None:
                hidden[(place, *rectangle)] = True
        return torch.where(hidden.to(images.device)[:, None], noise, images)
