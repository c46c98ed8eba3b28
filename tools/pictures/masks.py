"""What a mask hides of a picture, and how much of it, in words."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from headrace.pipeline import RegionMask
from headrace.pipeline.masks import (
    BlockMasks,
    ContextMasks,
    FrameMasks,
    FrameSpanMask,
    Masks,
    MaskSpec,
    NegativeFrameDraw,
    NegativeFrames,
    PatchMasks,
    PredictedMasks,
    PrefixMasks,
    RegionMasks,
)


def masked(view: NDArray[np.uint8], spec: MaskSpec, mask: Masks, step: int = 0) -> NDArray[np.uint8]:
    """A view with what is hidden dimmed, and what is to be filled in of it in colours, of the same shape.

    Args:
        view: uint8 (H, W, 3), whose rows and columns are the mask's.
        mask: of one sample.
        step: of a mask over frames, which of its steps of time.
    """
    out = view.astype(np.float32)
    if isinstance(mask, RegionMasks):
        return _tinted(out, mask.mask[0].numpy(), _GRAY, 0.8).astype(np.uint8)
    if isinstance(spec, FrameSpanMask):
        return _tinted(out, hidden_rows(spec, mask, len(view))[:, None], _GRAY, 0.8).astype(np.uint8)
    if isinstance(spec, NegativeFrameDraw):
        return view
    assert not isinstance(spec, RegionMask)
    rows, columns = spec.grid
    height, width = view.shape[:2]
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    patch = row[:, None] * columns + column  # (H, W): the patch of each pixel

    def covered(patches: NDArray[Any]) -> NDArray[np.bool_]:
        flags = np.zeros(rows * columns, np.bool_)
        of_step = patches[patches // len(flags) == step]
        flags[of_step % len(flags)] = True
        return flags[patch]

    if isinstance(mask, PatchMasks):
        return _tinted(out, covered(mask.masked[0].numpy()), _GRAY, 0.8).astype(np.uint8)
    if isinstance(mask, BlockMasks):
        return _tinted(out, mask.masked[0].numpy()[patch], _GRAY, 0.8).astype(np.uint8)
    if isinstance(mask, PrefixMasks):
        return _tinted(out, patch >= int(mask.prefix[0]), _GRAY, 0.8).astype(np.uint8)
    if isinstance(mask, PredictedMasks):
        out = _tinted(out, covered(mask.masked[0].numpy()), _GRAY, 0.8)
        wanted = covered(mask.predicted[0].numpy())
        return _tinted(np.where(wanted[..., None], view, out), wanted, _colour(0), 0.45).astype(np.uint8)
    assert isinstance(mask, ContextMasks)  # those of frames are drawn beside sounds
    context = mask.context[0, : mask.context_count[0]].numpy()
    out = _tinted(out, ~covered(context), _GRAY, 0.8)
    for number, count in enumerate(mask.target_count[0].tolist()):
        target = covered(mask.targets[0, number, :count].numpy())
        out = _tinted(np.where(target[..., None], view, out), target, _colour(number), 0.45)
    return out.astype(np.uint8)


def hidden_rows(spec: FrameSpanMask, mask: Masks, rows: int) -> NDArray[np.bool_]:
    """Which of a sound's rows, frames of a spectrogram or samples, one sample's mask hides."""
    assert isinstance(mask, FrameMasks)
    frames = np.zeros(spec.frames, np.bool_)
    frames[mask.masked[0].numpy()] = True
    return frames[np.arange(rows) * spec.frames // rows]


_GRAY = np.array([128.0, 128.0, 128.0])


def _colour(number: int) -> NDArray[np.float64]:
    return 255 * np.array(to_rgb(f"C{number % 10}"))


def _tinted(image: NDArray[Any], where: NDArray[np.bool_], colour: NDArray[Any], share: float) -> NDArray[Any]:
    return np.where(where[..., None], (1 - share) * image + share * colour, image)


def count_in_words(mask: Masks) -> str:
    """What one sample's mask hides, in numbers."""
    if isinstance(mask, PatchMasks):
        return f"{mask.visible.shape[1]} patches visible, {mask.masked.shape[1]} masked"
    if isinstance(mask, BlockMasks):
        return f"{int(mask.masked_count[0])} of {mask.masked.shape[1]} patches masked"
    if isinstance(mask, PrefixMasks):
        return f"{int(mask.prefix[0])} patches come first"
    if isinstance(mask, PredictedMasks):
        return f"{mask.visible.shape[1]} patches visible, {mask.predicted.shape[1]} of {mask.masked.shape[1]} predicted"
    if isinstance(mask, ContextMasks):
        targets = " + ".join(map(str, mask.target_count[0].tolist()))
        return f"context of {int(mask.context_count[0])} patches, targets of {targets}"
    if isinstance(mask, FrameMasks):
        return f"{mask.masked.shape[1]} frames hidden"
    if isinstance(mask, NegativeFrames):
        return f"{mask.negatives.shape[2]} negatives of each of {mask.negatives.shape[1]} frames"
    boxes = [f"{height}x{width} at {top},{left}" for top, left, height, width in mask.boxes[0].tolist()]
    return "\n".join([f"{float(mask.mask.float().mean()):.0%} hidden", *boxes])
