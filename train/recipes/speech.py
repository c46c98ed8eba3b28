"""Methods of speech: the settings of published runs, and small ones on words spoken on the telephone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace.models.methods.sound.cpc import CPCConfig
from headrace.models.methods.sound.data2vec_audio import Data2VecAudioConfig
from headrace.models.methods.sound.hubert import HuBERTConfig
from headrace.models.methods.sound.wav2vec2 import Wav2Vec2Config
from headrace.models.parts.speech import SpeechNetwork
from headrace.pipeline import Mel
from headrace.train.config import OptimConfig, RunConfig, ScheduleConfig
from headrace.train.recipes.small import small_run


def fairseq_adam(clip: float = 0.0) -> OptimConfig:
    """Of the three networks of speech; their epsilon of 1e-6 is 1e-8 here."""
    return OptimConfig(lr=5e-4, betas=(0.9, 0.98), weight_decay=0.01, clip=clip)


def wav2vec2_librispeech(*, data: str = "", out: str = "") -> RunConfig:
    """The base network on LibriSpeech's 281,241 sounds, 400,000 steps, as the authors pretrain on 960 hours.

    64 devices with 1.4 million samples each are 358 crops of 250,000 samples, of which 509 epochs have as many steps.
    Adam with learning rate 5e-4, betas 0.9 and 0.98, weight decay 0.01, a warm-up of 32,000 steps and a line down
    (facebookresearch/fairseq at 3d262bb, examples/wav2vec/config/pretraining/wav2vec2_base_librispeech.yaml).
    """
    return _librispeech("wav2vec2", Wav2Vec2Config(), batch_size=358, epochs=509, data=data, out=out)


def hubert_librispeech(*, data: str = "", out: str = "") -> RunConfig:
    """The base network's first round on LibriSpeech, 400,000 steps.

    32 devices with 1.4 million samples each are 179 crops of 250,000 samples, of which 255 epochs have as many steps;
    else as wav2vec 2.0's, with gradients of a norm of 10 at most (facebookresearch/fairseq at 3d262bb,
    examples/hubert/config/pretrain/hubert_base_librispeech.yaml). A second round is this with `--init` of the first,
    `--model.target layer` and `--model.clusters 500`.
    """
    run = _librispeech("hubert", HuBERTConfig(), batch_size=179, epochs=255, data=data, out=out)
    return replace(run, optim=fairseq_adam(clip=10.0))


def data2vec_audio_librispeech(*, data: str = "", out: str = "") -> RunConfig:
    """The base network on LibriSpeech, 400,000 steps.

    16 devices with 3.8 million samples each are 190 crops of 320,000 samples, of which 270 epochs have as many steps.
    The authors' learning rate rises for 3 % of the steps, stays for 90 % and falls for 7 %; here it falls on half a
    cosine (facebookresearch/fairseq at 3d262bb, examples/data2vec/config/audio/pretraining/base_librispeech.yaml).
    """
    run = _librispeech("data2vec_audio", Data2VecAudioConfig(), batch_size=190, epochs=270, data=data, out=out)
    return replace(run, schedule=ScheduleConfig(warmup_epochs=0.03 * 270))


def _librispeech(method: str, model: Any, *, batch_size: int, epochs: int, data: str, out: str) -> RunConfig:
    return RunConfig(
        method=method,
        model=model,
        data=data,
        out=out,
        epochs=epochs,
        batch_size=batch_size,
        optim=fairseq_adam(),
        schedule=ScheduleConfig(shape="linear", warmup_epochs=0.08 * epochs),
    )


def cpc_librispeech(*, data: str = "", out: str = "") -> RunConfig:
    """Causal layers as predictors on crops of 1.28 s, 200 epochs of 64 crops a step, which are 8 on each of 8 devices.

    Adam with learning rate 2e-4, without warm-up or decay (facebookresearch/CPC_audio at b98a1bd,
    cpc/cpc_default_config.py and cpc/train.py).
    """
    return RunConfig(
        method="cpc",
        model=CPCConfig(),
        data=data,
        out=out,
        epochs=200,
        batch_size=64,
        optim=OptimConfig(lr=2e-4, betas=(0.9, 0.999), weight_decay=0.0),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0),
    )


# Small ones: 1.3 s at 8 kHz


def small_network(**changes: Any) -> SpeechNetwork:
    """Four blocks of width 128 over five convolutions of 64 channels: a frame every 160 samples, 20 ms at 8 kHz. No
    drops: some thousand steps do not overfit."""
    sizes: dict[str, Any] = {
        "channels": (64,) * 5, "kernels": (10, 8, 4, 4, 4), "strides": (5, 4, 2, 2, 2),
        "width": 128, "depth": 4, "heads": 4, "position_kernel": 32, "position_groups": 4, "norm_first": True,
        "dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0, "layer_drop": 0.0,
    }  # fmt: skip
    return SpeechNetwork(**{**sizes, **changes})


SMALL_SAMPLES = 10_545
"""64 frames of that network."""


def wav2vec2_small(*, data: str = "", out: str = "") -> RunConfig:
    """64 frames, 50 negatives, 2 x 64 codes. The temperature of their choice falls as fast as some thousand steps
    need."""
    model = Wav2Vec2Config(
        rate=8000, samples=SMALL_SAMPLES, negatives=50, codes=64, code_dim=64, projection_dim=64,
        gumbel=(2.0, 0.5, 0.998), target_dropout=0.0, network=small_network(),
    )  # fmt: skip
    return _small("wav2vec2", model, data=data, out=out)


def hubert_small(*, data: str = "", out: str = "") -> RunConfig:
    """64 frames, 50 clusters of 13 cepstra and their differences; fewer frames are hidden than in the authors' runs."""
    model = HuBERTConfig(
        rate=8000, samples=SMALL_SAMPLES, mel=Mel(bins=23, window=200, hop=80, fft=256, taper="povey"), clusters=50,
        cluster_frames=100_000, target_layer=2, mask_ratio=0.65, projection_dim=64, network=small_network(),
    )  # fmt: skip
    return _small("hubert", model, data=data, out=out)


def data2vec_audio_small(*, data: str = "", out: str = "") -> RunConfig:
    """64 frames, the last two of four blocks as targets, a momentum from 0.99 to 0.999."""
    model = Data2VecAudioConfig(
        rate=8000, samples=SMALL_SAMPLES, target_blocks=2, momentum=0.99, final_momentum=0.999, momentum_steps=1000,
        network=small_network(position_kernel=25, norm_first=False),
    )  # fmt: skip
    return _small("data2vec_audio", model, data=data, out=out)


def cpc_small(*, data: str = "", out: str = "") -> RunConfig:
    """128 frames of 80 samples, a GRU, linear predictions of 8 frames beside 64 negatives."""
    model = CPCConfig(
        rate=8000, samples=10_240, channels=128, kernels=(10, 8, 4, 4), strides=(5, 4, 2, 2), paddings=(3, 2, 1, 1),
        context="gru", context_dim=128, steps=8, negatives=64, predictor="linear",
    )  # fmt: skip
    return _small("cpc", model, data=data, out=out)


def _small(method: str, model: Any, *, data: str, out: str) -> RunConfig:
    optim = OptimConfig(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, clip=10.0)
    return small_run(method, model, optim, data=data, out=out, batch_size=64)
