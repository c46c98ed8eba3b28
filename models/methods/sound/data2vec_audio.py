"""data2vec for sounds: predict what a slow copy makes of hidden frames in the whole sound (arXiv 2202.03555)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import frame_regression, normalized_layers
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.masked_vit import take
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.precision import widened
from headrace.models.parts.schedules import linear
from headrace.models.parts.speech import (
    SpeechNetwork,
    frames_of,
    hidden_frames,
    normed_frames,
    projected,
    speech_features,
    speech_network,
    transformed,
)
from headrace.pipeline import Batch, FrameSpanMask, Sound, SoundSpec


def data2vec_network() -> SpeechNetwork:
    """The authors' base network: five convolutions for positions, that see 95 frames together."""
    return SpeechNetwork(position_kernel=95, input_dropout=0.0)


@dataclass(frozen=True, kw_only=True)
class Data2VecAudioConfig:
    """data2vec for sounds with the authors' values for LibriSpeech (facebookresearch/fairseq at 3d262bb,
    examples/data2vec/config/audio/pretraining/base_librispeech.yaml and the code's defaults)."""

    rate: int = 16_000
    """Samples a second; files of another rate are resampled."""
    samples: int = 320_000
    """Of a crop."""
    short: Literal["pad", "loop"] = "loop"
    """A shorter sound starts again, or is followed by silence."""
    mask_ratio: float = 0.65
    """Frames of all hidden spans, overlaps counted again, as a share of the sound's."""
    mask_span: int = 10
    """Frames of a span."""
    target_blocks: int = 8
    """The last blocks of the slow network, whose layers' outputs are averaged."""
    momentum: float = 0.999
    """Of the slow network at the beginning."""
    final_momentum: float = 0.9999
    """Of the slow network from step `momentum_steps` on."""
    momentum_steps: int = 30_000
    """Steps in which the momentum rises on a line; 0 for none."""
    gradient_scale: float = 1.0
    """Factor of the gradient into the convolutions."""
    network: SpeechNetwork = field(default_factory=data2vec_network)
    """The network that is kept; its convolutions have a norm each."""

    def __post_init__(self) -> None:
        depth = self.network.depth
        require(1 <= self.target_blocks <= depth, self, "target_blocks", f"be 1 to {depth}, the network's blocks")
        for name in ("momentum", "final_momentum"):
            require(0 <= getattr(self, name) <= 1, self, name, "lie in [0, 1]")
        require(self.momentum_steps >= 0, self, "momentum_steps", "be at least 0")
        require(0 < self.gradient_scale <= 1, self, "gradient_scale", "lie in (0, 1]")


class Data2VecAudio(Method):
    """Probes see the mean over time of the last states of a whole crop.

    Followed: facebookresearch/fairseq at 3d262bb, examples/data2vec/models/data2vec_audio.py and
    fairseq/modules/ema_module.py. The slow network is a transformer only: it is given what the convolutions in training
    make of the whole sound, and its positions are always those of the network in training. Which frames are hidden
    comes with the batch.
    """

    config: Data2VecAudioConfig
    inputs: SoundSpec

    def __init__(self, config: Data2VecAudioConfig) -> None:
        super().__init__()
        self.config = config
        network: Any = speech_network("data2vec", config.network)
        self.backbone, self.feature_dim = network, config.network.width
        self.predict = nn.Linear(self.feature_dim, self.feature_dim)
        self.slow = SlowTransformer(network)
        frames = config.network.frames(config.samples)
        require(frames > config.mask_span + 1, config, "samples", f"give more than {config.mask_span + 1} frames")
        mask = FrameSpanMask(frames=frames, ratio=config.mask_ratio, span=config.mask_span, smallest=1)
        sound = Sound(samples=config.samples, rate=config.rate, short=config.short, normalize=True)
        self.inputs = SoundSpec([sound], [mask])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: see `headrace.models.losses.frame_regression`; `"target_spread"` and `"spread"`: the deviation of
        targets and of predictions over hidden frames. The authors end a run where they fall below 0.1 and 0.01 after
        5,000 steps."""
        network = self.backbone
        (waves,), (mask,) = batch["sound"].waves, batch["sound"].masks
        frames = projected(network, normed_frames(network, frames_of(network, waves, self.config.gradient_scale)))
        with torch.no_grad():
            inner = transformed(self.slow, frames.detach()).inner[-self.config.target_blocks :]
            targets = take(normalized_layers(inner), mask.masked)
        given = network.feature_projection.dropout(frames)  # type: ignore[operator, union-attr]
        states = transformed(network, hidden_frames(network, given, mask.masked)).states
        predictions = self.predict(take(states, mask.masked))
        return {
            "loss": frame_regression(predictions, targets),
            "spread": _spread(predictions.detach()),
            "target_spread": _spread(targets),
        }

    def encode(self, batch: Batch) -> Tensor:
        """(B, D): see above."""
        (waves,) = batch["sound"].waves
        return speech_features(self.backbone, waves)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All alike: the authors decay biases and norms, too."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]

    def after_step(self, context: Context) -> None:
        """The slow transformer moves, and takes the new positions."""
        c, network = self.config, self.backbone
        done = (context.step + 1) / c.momentum_steps if c.momentum_steps else 1.0
        momentum = linear(c.momentum, c.final_momentum, done)
        follow(self.slow.encoder, network.encoder, momentum)  # type: ignore[arg-type]
        follow(self.slow.encoder.pos_conv_embed, network.encoder.pos_conv_embed, 0.0)  # type: ignore[arg-type, union-attr]


class SlowTransformer(nn.Module):
    """The transformer of a network of speech, in evaluation mode for good, without gradient."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder: Any = slow_copy(network.encoder)
        self.config = network.config
        self.eval()

    def train(self, mode: bool = True) -> SlowTransformer:
        """It drops nothing."""
        return super().train(False)


def _spread(frames: Tensor) -> Tensor:
    return (widened(frames).flatten(0, 1).var(dim=0) + 1e-6).sqrt().mean()
