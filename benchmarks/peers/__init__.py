"""One file per peer: how a competent user would make the same views with it, on the same photographs and cores."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from headrace.pipeline.masks import PatchMasks


@dataclass(frozen=True)
class Views:
    """A batch as contestants deliver it: its views, and nothing that only one peer has."""

    views: list[Tensor]
    """V float32 tensors of shape (B, 3, H, W), of clips (B, 3, T, H, W), of sounds (B, 1, frames, bins), normalised."""
    masks: tuple[PatchMasks, ...] = ()
    """One for each mask that was asked for."""

    def __len__(self) -> int:
        return len(self.views[0])
