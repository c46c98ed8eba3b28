"""Networks of images on the frames of clips."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from headrace.models.method import Method
from headrace.pipeline import Batch


def each_frame(network: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
    """(B, T, D): what a network of images gives for every frame of clips (B, 3, T, H, W), all of them in one batch."""
    frames = clips.transpose(1, 2).flatten(0, 1)  # (B * T, 3, H, W), channels last in memory as the clips are
    return network(frames).unflatten(0, (len(clips), -1))


class OfFrames(Method):
    """Base of methods whose backbone sees one frame at a time. Probes see its output for the frames of the plain clip,
    averaged."""

    def encode(self, batch: Batch) -> Tensor:
        """(B, D)."""
        (clips,) = batch.normalized()
        return each_frame(self.backbone, clips).mean(dim=1)
