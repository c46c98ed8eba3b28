"""What masks are once they are drawn. Letters: B samples, N patches of a grid, R regions."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PatchMasks(NamedTuple):
    """Patches that the encoder sees and patches that it has to fill in."""

    visible: Tensor
    """int64 (B, N - M), ascending."""
    masked: Tensor
    """int64 (B, M), ascending."""


class BlockMasks(NamedTuple):
    """Patches that are replaced by a mask token."""

    masked: Tensor
    """bool (B, N)."""
    masked_count: Tensor
    """int64 (B,): masked patches of each sample; 0 for a sample that goes without."""


class ContextMasks(NamedTuple):
    """The patches of a context and of the targets to predict from it. What lies behind a count is -1."""

    context: Tensor
    """int64 (B, C), ascending; C is the largest that a context can have."""
    context_count: Tensor
    """int64 (B,)."""
    targets: Tensor
    """int64 (B, T, K), ascending; K is the largest that a target can have."""
    target_count: Tensor
    """int64 (B, T)."""


class PredictedMasks(NamedTuple):
    """As `PatchMasks`, of whose masked patches a few are to be filled in."""

    visible: Tensor
    """int64 (B, N - M), ascending."""
    masked: Tensor
    """int64 (B, M), ascending."""
    predicted: Tensor
    """int64 (B, P), ascending: some of `masked`."""


class PrefixMasks(NamedTuple):
    """Patches that are seen from the beginning, before those that are to be foretold one after the other."""

    prefix: Tensor
    """int64 (B,): how many, from 1 to N - 1."""


class RegionMasks(NamedTuple):
    """Rectangles of pixels to fill in. The views stay whole: the method hides what it has the network fill in."""

    boxes: Tensor
    """int64 (B, R, 4): top, left, height, width of each region, in pixels of the view."""
    mask: Tensor
    """bool (B, H, W): True inside any region."""


class FrameMasks(NamedTuple):
    """Frames of a sound that are hidden."""

    masked: Tensor
    """int64 (B, M), ascending."""


class NegativeFrames(NamedTuple):
    """For each of F frames of a sound others that stand beside it. Nothing is hidden."""

    negatives: Tensor
    """int64 (B, F, K): numbers of frames, none of them the frame's own."""


Masks = (
    PatchMasks | BlockMasks | PredictedMasks | PrefixMasks | ContextMasks | RegionMasks | FrameMasks | NegativeFrames
)
