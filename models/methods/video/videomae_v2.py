"""VideoMAE V2: fill in half of what is hidden of a clip, other places in every frame (arXiv 2303.16727)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import masked_patch_loss, normalize_channels
from headrace.models.methods.video.videomae import VideoMAE, VideoMAEConfig, tubes_of
from headrace.models.parts.masked_vit import encode_visible, hidden_of, take
from headrace.pipeline import Batch, ClipSpec, RunningCellMask
from headrace.pipeline.masks import PatchMasks


@dataclass(frozen=True, kw_only=True)
class VideoMAEV2Config(VideoMAEConfig):
    """VideoMAE V2 with the authors' values for ViT-B (OpenGVLab/VideoMAEv2 at 29eab1e, scripts/pretrain)."""

    decoder_mask_ratio: float = 0.5
    """Share of each frame's places that the decoder leaves out: 0.25, 0.5 or 0.75."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.decoder_mask_ratio in (0.25, 0.5, 0.75), self, "decoder_mask_ratio", "be 0.25, 0.5 or 0.75")


class VideoMAEV2(VideoMAE):
    """VideoMAE with a second mask, of the decoder, which comes with the batch as well. Its pictures fill in all places.

    Followed: OpenGVLab/VideoMAEv2 at 29eab1e, engine_for_pretraining.py, models/modeling_pretrain.py and
    dataset/masking_generator.py. Where the time steps are no multiple of 4, samples have different numbers of places
    that count, and the loss is the mean over those of a rank's batch, as theirs is.
    """

    config: VideoMAEV2Config

    def __init__(self, config: VideoMAEV2Config) -> None:
        super().__init__(config)
        (tubes,) = self.inputs.masks
        cells = RunningCellMask(grid=tubes.grid, frames=tubes.frames, ratio=config.decoder_mask_ratio)  # type: ignore[union-attr]
        self.inputs = ClipSpec(self.inputs.clips, [tubes, cells])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: the mean squared error over cubes that were hidden from the encoder and are asked of the
        decoder."""
        (clips,), tubes, asked = batch.normalized(), tubes_of(batch), _asked(batch)
        prediction = self.decoder.at(encode_visible(self.backbone, clips, tubes.visible), tubes.visible, asked)
        cubes = self.cubes(clips)
        target = take(cubes, asked)
        if self.config.normalize_targets:
            target = normalize_channels(target, channels=3)
        hidden = hidden_of(tubes.visible, cubes.shape[1]).gather(1, asked)
        return {"loss": masked_patch_loss(prediction, target, hidden)}


def _asked(batch: Batch) -> Tensor:
    """int64 (B, K): places that the decoder is given."""
    masks = batch.masks[1]
    assert isinstance(masks, PatchMasks)
    return masks.visible
