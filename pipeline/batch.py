"""The one typed batch that every method receives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from headrace.pipeline.clips import DrawnClips
from headrace.pipeline.masks import Masks
from headrace.pipeline.views import Normalize

Drawn = DrawnClips


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch of one rank. B is the number of samples, V the number of views."""

    views: list[Tensor]
    """V tensors of shape (B, 3, H, W), of clips (B, 3, T, H, W), channels-last in memory: uint8 levels, or float32
    already normalised."""
    index: Tensor
    """int64 (B,): position of each sample in the shard set."""
    labels: Tensor | None
    """int64 (B,): the label field, None where the shard set has none. Methods do not use it; probes do."""
    epoch: int
    """Epoch that the batch belongs to, from 0; with the seed and `index` it draws the same views again."""
    normalize: tuple[Normalize, ...]
    """One per view: what `normalized` applies to uint8 views."""
    masks: list[Masks] = field(default_factory=list)
    """One for each of the specification's masks, a row a sample."""
    drawn: Drawn | None = None
    """The labels that come with the views: what was drawn for them. None where a specification has none."""

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; copies from pinned memory do not block."""
        return replace(
            self,
            views=[view.to(device, non_blocking=True) for view in self.views],
            index=self.index.to(device, non_blocking=True),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            masks=[type(mask)(*(part.to(device, non_blocking=True) for part in mask)) for mask in self.masks],
            drawn=None
            if self.drawn is None
            else type(self.drawn)(*(part.to(device, non_blocking=True) for part in self.drawn)),
        )

    def normalized(self) -> list[Tensor]:
        """V float32 tensors of the views' shapes, channels-last, on the batch's device."""
        return [
            normalize_images(view, normalize) if view.dtype == torch.uint8 else view
            for view, normalize in zip(self.views, self.normalize, strict=True)
        ]


def normalize_images(images: Tensor, normalize: Normalize) -> Tensor:
    """uint8 (3, H, W), (B, 3, H, W) or (B, 3, T, H, W) to float32 `(x / 255 - mean) / std`."""
    shape = (3, 1, 1, 1) if images.ndim == 5 else (3, 1, 1)
    scale = torch.tensor([1 / (255 * s) for s in normalize.std], device=images.device).view(shape)
    shift = torch.tensor([-m / s for m, s in zip(normalize.mean, normalize.std, strict=True)], device=images.device)
    return torch.addcmul(shift.view(shape), images, scale)
