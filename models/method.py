"""What every method is: views it wants, a loss on a batch, features for probes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from headrace.pipeline import Batch, ClipSpec, TextSpec, ViewSpec


class Method(nn.Module):
    """Base of all methods. A subclass sets the four attributes in its constructor and writes `loss`.

    Letters in shapes: B samples of this rank, V views, D feature dimensions.
    """

    config: Any
    """The keyword-only dataclass that configures the method."""
    views: ViewSpec | ClipSpec | TextSpec
    """What `loss` expects of each sample in its batch: V views of an image, clips of a video, or a text."""
    backbone: nn.Module
    """The network that is kept after training. Of images, and so for probes: float32 (B, 3, H, W) to (B, D)."""
    feature_dim: int
    """D."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The training loss of one batch.

        Returns:
            `"loss"`: the scalar to differentiate. Any other entry: a detached scalar to log.
        """
        raise NotImplementedError(f"{type(self).__name__} must write loss()")

    def encode(self, images: Tensor) -> Tensor:
        """Features for probes: float32 (B, 3, H, W), normalised, to (B, D). Call it in evaluation mode.

        Probes show images; they refuse a method whose `views` are of something else.
        """
        features: Tensor = self.backbone(images)
        return features

    def after_step(self, step: int, total_steps: int) -> None:
        """Called after each optimiser step, which was number `step` (from 0) of `total_steps`, without gradients.

        Momentum encoders and queues move here; by default nothing does.
        """
