"""Methods of sounds: the settings of a published run, and small ones."""

from __future__ import annotations

from headrace.models.methods.sound.byol_a import BYOLAConfig
from headrace.models.methods.sound.masked_spectrogram import MaskedSpectrogramConfig
from headrace.models.parts.backbones import tiny_vit
from headrace.pipeline import Mel
from headrace.train.config import OptimConfig, RunConfig, ScheduleConfig
from headrace.train.recipes.small import small_run


def masked_spectrogram_audioset(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-B on ten seconds of sound, batch 512, 33 epochs, as the authors pretrain on AudioSet-2M.

    AdamW with learning rate 2e-4 x batch / 256, betas 0.9 and 0.95, weight decay 1e-4, three epochs of warm-up
    (facebookresearch/AudioMAE at bd60e29, submit_pretrain_audioset2M.sh: 8 nodes of 8 devices, 8 samples each). Their
    fine-tuned encoder reaches a mean average precision of 47.3 on AudioSet-2M; a probe of frozen features is not that.
    """
    return RunConfig(
        method="masked_spectrogram",
        model=MaskedSpectrogramConfig(),
        data=data,
        out=out,
        epochs=33,
        batch_size=512,
        optim=OptimConfig(lr=2e-4, scale_lr=True, weight_decay=1e-4, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(warmup_epochs=3),
    )


def masked_spectrogram_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on a second of sound at 8 kHz, 96 frames of 64 bands in 96 patches of 8 x 8, of which 38 are seen, and
    a decoder of one block with attention among all. The mean and twice the deviation are those of words spoken on
    the telephone.

    Patches are compared as they are, as in MAE's small recipe, and in small batches: normalised ones taught features
    that a linear classifier read worse than those of an untrained network.
    """
    model = MaskedSpectrogramConfig(
        rate=8000,
        frames=96,
        mel=Mel(bins=64, window=200, hop=80, fft=512, low=50.0, mean=-4.7, std=8.6),
        place="random",
        short="loop",
        mask_ratio=0.6,
        normalize_targets=False,
        decoder_dim=64,
        decoder_depth=1,
        decoder_heads=4,
        decoder_window=None,
        backbone=tiny_vit(patch=8),
    )
    optim = OptimConfig(lr=4e-3, weight_decay=0.05, betas=(0.9, 0.95))
    return small_run("masked_spectrogram", model, optim, data=data, out=out, batch_size=64)


def byol_a_audioset(*, data: str = "", out: str = "") -> RunConfig:
    """Views of 0.95 s, batch 256, 100 epochs, Adam with a constant learning rate of 3e-4, as the authors pretrain on
    AudioSet and FSD50K (nttcslab/byol-a at 3e65c92, config.yaml and train.py)."""
    return RunConfig(
        method="byol_a",
        model=BYOLAConfig(),
        data=data,
        out=out,
        epochs=100,
        batch_size=256,
        optim=OptimConfig(lr=3e-4, betas=(0.9, 0.999), weight_decay=0.0),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0),
    )


def byol_a_small(*, data: str = "", out: str = "") -> RunConfig:
    """Views of a second at 8 kHz, 96 frames of 64 bands, 32 channels, 512 features. The mean and deviation are those
    of words spoken on the telephone."""
    model = BYOLAConfig(
        rate=8000,
        mel=Mel(
            definition="librosa", bins=64, window=256, hop=80, fft=512, low=50.0, scale="slaney", mean=-7.8, std=4.2
        ),
        short="loop",
        channels=32,
        feature_dim=512,
        hidden_dim=512,
        projection_dim=128,
    )
    optim = OptimConfig(lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    return small_run("byol_a", model, optim, data=data, out=out, batch_size=64)
