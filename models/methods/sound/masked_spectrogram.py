"""Masked spectrograms: see a fifth of a sound's patches, fill in the others, Audio-MAE (arXiv 2207.06405)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import masked_patch_loss, normalize_patches, with_statistics_of
from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.masked_vit import (
    MaskedDecoder,
    encode_visible,
    filled_in,
    fixed_positions,
    hidden_of,
    mae_initialization,
    patchify,
    unpatchify,
)
from headrace.models.parts.positions import sine_cosine
from headrace.models.parts.windowed_decoder import WindowedDecoder
from headrace.pipeline import Batch, Mel, RandomMask, Sound, SoundSpec


@dataclass(frozen=True, kw_only=True)
class MaskedSpectrogramConfig:
    """Audio-MAE with the authors' values for AudioSet (facebookresearch/AudioMAE at bd60e29, dataset.py,
    main_pretrain.py and submit_pretrain_audioset2M.sh)."""

    rate: int = 16_000
    """Samples a second; files of another rate are resampled."""
    frames: int = 1024
    """Of a spectrogram; a multiple of the backbone's patches."""
    mel: Mel = field(default_factory=lambda: Mel(mean=-4.2677393, std=2 * 4.5689974))
    """The spectrogram: Kaldi's, normalised with AudioSet's mean and twice its deviation. Its bins are a multiple of the
    backbone's patches."""
    place: Literal["random", "center", "start"] = "start"
    """Where the crop lies in a longer sound."""
    gain: tuple[float, float] = (-1.65, 1.65)
    """Amplification in dB, drawn uniformly; (0, 0) turns it off. The authors' factor is Beta(10, 10) + 0.5, of the same
    deviation."""
    short: Literal["pad", "loop"] = "pad"
    """A shorter sound is followed by frames of zeros, which are to be filled in like all others, or starts again."""
    mask_ratio: float = 0.8
    """Share of the patches that is hidden."""
    normalize_targets: bool = True
    """Whether each patch is normalised before it is compared."""
    decoder_dim: int = 512
    """Width of the decoder."""
    decoder_depth: int = 16
    """Its blocks."""
    decoder_heads: int = 16
    """Its attention heads."""
    decoder_window: tuple[int, int] | None = (4, 4)
    """Rows and columns of patches that the decoder's attention stays in; None for attention among all, as MAE's."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="vit_base_patch16_224"))
    """The encoder, a timm ViT with a class token; its positions become sines and cosines."""

    def __post_init__(self) -> None:
        for name in ("frames", "decoder_dim", "decoder_depth", "decoder_heads"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.decoder_dim % self.decoder_heads == 0, self, "decoder_dim", "be a multiple of decoder_heads")


class MaskedSpectrogram(Method):
    """Probes see the mean of the patches' tokens of a whole spectrogram.

    Rows of patches are times, columns are bands. Which patches are hidden comes with the batch.
    """

    config: MaskedSpectrogramConfig
    inputs: SoundSpec

    def __init__(self, config: MaskedSpectrogramConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.frames, config.mel.bins)
        options = {"in_chans": 1, "img_size": shape, **config.backbone.options}
        self.backbone, self.feature_dim = build_backbone(BackboneConfig(name=config.backbone.name, options=options))
        vit: Any = self.backbone
        if getattr(vit, "num_prefix_tokens", 0) != 1 or not hasattr(vit, "blocks"):
            raise ValueError(
                f"MaskedSpectrogramConfig.backbone must be a ViT with a class token, {config.backbone.name} is not one"
            )
        self.patch = int(vit.patch_embed.patch_size[0])
        if any(side % self.patch for side in shape):
            raise ValueError(
                "MaskedSpectrogramConfig.frames and mel.bins must be multiples of the backbone's patches of "
                f"{self.patch}, got {shape}"
            )
        fixed_positions(vit)
        grid = vit.patch_embed.grid_size
        sizes = {"depth": config.decoder_depth, "heads": config.decoder_heads, "numbers": self.patch**2}
        self.decoder: MaskedDecoder = (
            MaskedDecoder(
                self.feature_dim,
                sine_cosine(grid[0], grid[1], config.decoder_dim),
                **sizes,
                prefix=1,
                embed_bias=True,
                attention=Attention,
            )
            if config.decoder_window is None
            else WindowedDecoder(self.feature_dim, grid, config.decoder_window, dim=config.decoder_dim, **sizes)
        )
        mae_initialization(vit, self.decoder)
        nn.init.xavier_uniform_(vit.patch_embed.proj.weight.data.flatten(1))
        for token in (vit.cls_token, self.decoder.mask_token):
            nn.init.normal_(token, std=0.02)
        sound = Sound(
            samples=config.mel.samples(config.frames),
            rate=config.rate,
            place=config.place,
            gain=config.gain,
            short=config.short,
            mel=config.mel,
        )
        self.inputs = SoundSpec([sound], [RandomMask(grid=grid, ratio=config.mask_ratio)])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.masked_patch_loss`."""
        target, prediction, hidden = self._patches(batch)
        if self.config.normalize_targets:
            target = normalize_patches(target)
        return {"loss": masked_patch_loss(prediction, target, hidden)}

    def encode(self, batch: Batch) -> Tensor:
        """(B, D): the mean of the patches' tokens behind the last block, then normalised, as the authors' fine-tuning
        begins (models_vit.py, global_pool): it drops the last norm and puts a new one behind the mean."""
        (mels,) = batch["sound"].mels
        vit: Any = self.backbone
        (tokens,) = vit.forward_intermediates(mels, indices=1, norm=False, output_fmt="NLC", intermediates_only=True)
        return F.layer_norm(tokens.mean(dim=1), (self.feature_dim,), eps=1e-6)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A spectrogram as it is ("input"), as the encoder sees it ("masked"), and filled in ("reconstruction"): time
        runs to the right, pitch upwards, grey from its least value to its largest. Where targets are normalised,
        predictions get the mean and deviation of the true patches, so that they look better than they are."""
        patches, prediction, hidden = self._patches(batch)
        if self.config.normalize_targets:
            prediction = with_statistics_of(prediction, patches, channels=1)
        low, high = (extreme(patches, dim=(1, 2), keepdim=True) for extreme in (torch.amin, torch.amax))
        span = (high - low).clamp(min=1e-6)
        shown = filled_in((patches - low) / span, (prediction - low) / span, hidden)
        rows = self.config.frames // self.patch
        mels = {name: unpatchify(each, self.patch, rows).float().clamp(0, 1) for name, each in shown.items()}
        return {name: each.transpose(2, 3).flip(2).expand(-1, 3, -1, -1) for name, each in mels.items()}

    def _patches(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Patches as they are and as the decoder predicts them, (B, L, N) each, and which were hidden, bool (B, L)."""
        (mels,), (masks,) = batch["sound"].mels, batch["sound"].masks
        prediction = self.decoder(encode_visible(self.backbone, mels, masks.visible), masks.visible)
        patches = patchify(mels, self.patch)
        return patches, prediction, hidden_of(masks.visible, patches.shape[1])
