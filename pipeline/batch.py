"""The one typed batch that every method receives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.clips.clips import DrawnClips
from headrace.pipeline.images.colour import D65, XYZ_OF_RGB
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.view import Normalize
from headrace.pipeline.masks import Masks
from headrace.pipeline.part import Part, map_tensors


class DrawnViews(NamedTuple):
    """How a `ViewSpec`'s views were cut: the labels of pretext tasks. Letters as in `Batch`."""

    crop: Tensor
    """int32 (B, V, 4): top, left, height, width of each view in the stored image, in pixels."""
    flip: Tensor
    """bool (B, V): mirrored left to right."""
    turns: Tensor
    """int64 (B, V): quarter turns counter-clockwise, 0 to 3."""
    arrangement: Tensor
    """int64 (B, A), a column for each of `ViewSpec.arranged`: a `Tiles`' row of its `orders`, or the place of a
    `PatchPair`'s neighbour, 0 to 7. A is 0 for a specification without."""


def drawn_views(plan: Plan) -> DrawnViews:
    """The plan's numbers that methods take for labels."""
    columns = plan.crop, plan.flip, plan.turns.astype(np.int64), plan.arrangement
    return DrawnViews(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))


Drawn = DrawnViews | DrawnClips


@dataclass(frozen=True, kw_only=True)
class Views(Part):
    """Of images or clips. B samples, V views."""

    views: list[Tensor]
    """V tensors of shape (B, 3, H, W), of clips (B, 3, T, H, W), channels-last in memory: uint8 levels, or float32
    already normalised."""
    normalize: tuple[Normalize, ...]
    """One per view: what `normalized` applies to uint8 views."""
    masks: list[Masks] = field(default_factory=list)
    """One for each of the specification's masks, a row a sample."""
    drawn: Drawn | None = None
    """The labels that come with the views: what was drawn for them. None where no loader made them."""

    def normalized(self) -> list[Tensor]:
        """V float32 tensors of the views' shapes, channels-last, on the batch's device."""
        return [
            normalize_images(view, normalize) if view.dtype == torch.uint8 else view
            for view, normalize in zip(self.views, self.normalize, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Others(Part):
    """Of whom a stream is that does not show each sample itself; see `headrace.pipeline.streams`."""

    index: Tensor
    """int64 (B,): the other sample's position in the shard set."""
    labels: Tensor | None
    """int64 (B,): its label, None where the set has none."""
    weight: Tensor
    """float32 (B,): the sample's own share of what is delivered; 0 where it is the other's alone."""


@dataclass(frozen=True, kw_only=True)
class Batch(Part):
    """One batch of one rank. B is the number of samples.

    `batch["image"]` is its part of the stream of that name. Where there is one stream only, the batch has that part's
    `views`, `masks`, `drawn`, `normalize` and `normalized()`, too.
    """

    streams: dict[str, Any]
    """A part for each stream: `Views` of images and clips, `Texts` of texts."""
    index: Tensor
    """int64 (B,): position of each sample in the shard set; of packed texts, of the document that a block begins
    with."""
    labels: Tensor | None
    """int64 (B,): the label field, None where the shard set has none. Methods do not use it; probes do."""
    epoch: int
    """Epoch that the batch belongs to, from 0; with the seed and `index` it draws the same again."""
    others: dict[str, Others] = field(default_factory=dict)
    """For each stream that shows other samples, which."""

    @staticmethod
    def of_views(views: list[Tensor], normalize: Sequence[Normalize], labels: Tensor | None = None) -> Batch:
        """Views of images that no loader made; see `Views`."""
        part = Views(views=views, normalize=tuple(normalize))
        return Batch(streams={"image": part}, index=torch.arange(len(views[0])), labels=labels, epoch=0)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, name: str) -> Any:
        if name not in self.streams:
            raise KeyError(f"the batch has no stream {name!r}; it has {', '.join(self.streams)}")
        return self.streams[name]

    @property
    def lone(self) -> Any:
        """The part of the only stream. ValueError where there are several."""
        if len(self.streams) != 1:
            raise ValueError(f"the batch has several streams, {', '.join(self.streams)}: take one by its name")
        (part,) = self.streams.values()
        return part

    @property
    def views(self) -> list[Tensor]:
        """Of the only stream; see `Views`."""
        views: list[Tensor] = self.lone.views
        return views

    @property
    def normalize(self) -> tuple[Normalize, ...]:
        """Likewise."""
        normalize: tuple[Normalize, ...] = self.lone.normalize
        return normalize

    @property
    def masks(self) -> list[Any]:
        """Likewise, of whatever kind the stream is."""
        masks: list[Any] = self.lone.masks
        return masks

    @property
    def drawn(self) -> Any:
        """Likewise."""
        return self.lone.drawn

    def normalized(self) -> list[Tensor]:
        """Likewise."""
        views: list[Tensor] = self.lone.normalized()
        return views

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`. Copies from pinned memory do not block, and that memory is not used again before
        they are complete."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def tensors(self) -> list[Tensor]:
        """All tensors of the batch."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self._each(note)
        return found

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        changed: Batch = map_tensors(self, change)
        return changed

    def parts(self, number: int) -> list[Batch]:
        """The samples in `number` parts of equal size, in order."""
        if number == 1:
            return [self]
        if len(self) % number:
            raise ValueError(f"a batch of {len(self)} samples cannot be taken in {number} parts of equal size")
        size = len(self) // number
        return [self._each(lambda tensor, at=at: tensor[at : at + size]) for at in range(0, len(self), size)]  # type: ignore[misc]


def normalize_images(images: Tensor, normalize: Normalize) -> Tensor:
    """uint8 (3, H, W), (B, 3, H, W) or (B, 3, T, H, W) to float32, as `normalize` says, each frame by itself."""
    channels = -4 if images.ndim == 5 else -3
    if normalize.per_view:
        return standardize(images)
    if normalize.space == "lab":
        lab = rgb_to_lab(images.movedim(channels, -3)).unbind(-3)
        scaled = [(x - m) * (1 / s) for x, m, s in zip(lab, normalize.mean, normalize.std, strict=True)]
        return torch.stack(scaled, dim=-1).movedim(-1, channels)  # channels-last in memory
    shape = (3,) + (1,) * (-channels - 1)
    # A compiled program holds its own constants.
    constants = _scale_and_shift if torch.compiler.is_compiling() else _kept_scale_and_shift
    scale, shift = constants(tuple(normalize.mean), tuple(normalize.std), images.device)
    return torch.addcmul(shift.view(shape), images, scale.view(shape))


def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What levels are multiplied with and what is added, (3,) each. A device waits for such a copy."""
    with torch.inference_mode(False):
        scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale, shift


_kept_scale_and_shift = lru_cache(maxsize=256)(_scale_and_shift)


def standardize(images: Tensor) -> Tensor:
    """Levels (..., H, W) to float32 of mean 0 and deviation 1 in each channel. See `Normalize.per_view`."""
    deviation, mean = torch.std_mean(images.float(), dim=(-2, -1), correction=0, keepdim=True)
    return (images - mean) / deviation.clamp(min=1.0)


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB levels (..., 3, H, W), 0 to 255, to CIE Lab in float32, white point D65 (2 degrees).

    The constants are `skimage.color.rgb2lab`'s. Nothing here needs a tensor on the device beforehand.
    """
    unit = images.float() / 255
    linear = torch.where(unit > 0.04045, ((unit + 0.055) / 1.055) ** 2.4, unit / 12.92)
    red, green, blue = linear.unbind(-3)
    x, y, z = (
        _lab_curve((row[0] * red + row[1] * green + row[2] * blue) / white)
        for row, white in zip(XYZ_OF_RGB, D65, strict=True)
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def _lab_curve(t: Tensor) -> Tensor:
    # Both branches are calculated: the power must stay finite where it is not taken.
    return torch.where(t > 0.008856, t.clamp(min=0.008856) ** (1 / 3), 7.787 * t + 16 / 116)
