"""One file per peer: how a competent user would make the same views with it, on the same photographs and cores."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Views:
    """A batch as contestants deliver it: its views, and nothing that only one peer has."""

    views: list[Tensor]
    """V float32 tensors of shape (B, 3, H, W), normalised."""

    def __len__(self) -> int:
        return len(self.views[0])
