"""BYOL-A: predict what a slow copy says of the same second of sound in another mixture (arXiv 2103.06695)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import cosine_regression
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.collectives import total, world_size
from headrace.models.parts.heads import mlp
from headrace.models.parts.momentum import follow, slow_copy
from headrace.pipeline import Batch, LogMixup, Mel, ResizeCrop, Sound, SoundSpec


def audio_mel() -> Mel:
    """The authors' spectrogram, as librosa makes it, which they pretrained with. The mean and deviation are those of
    their README's example, of triangles of another height; each set has its own."""
    return Mel(
        definition="librosa", bins=64, window=1024, hop=160, fft=1024, low=60.0, high=7800.0, scale="slaney",
        mean=-5.4919195, std=5.0389895,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BYOLAConfig:
    """BYOL-A with the authors' values (nttcslab/byol-a at 3e65c92, config.yaml, train.py, byol_a)."""

    rate: int = 16_000
    """Samples a second; files of another rate are resampled."""
    frames: int = 96
    """Of a spectrogram, at least 8."""
    mel: Mel = field(default_factory=audio_mel)
    """The spectrogram, normalised by the mean and deviation of the set; at least 8 bins."""
    short: Literal["pad", "loop"] = "pad"
    """A shorter sound is followed by silence, or starts again."""
    mixup: float = 0.4
    """Largest share of another sound in a view; 0 for none."""
    part: bool = True
    """Whether views are random parts of the spectrogram, resized."""
    channels: int = 64
    """Of the three convolutions."""
    feature_dim: int = 2048
    """Of the features."""
    dropout: float = 0.3
    """Between the two layers that make them; 0 for none."""
    hidden_dim: int = 4096
    """Width of the hidden layers of projector and predictor."""
    projection_dim: int = 256
    """Their output dimension."""
    momentum: float = 0.99
    """Of the slow network, constant."""

    def __post_init__(self) -> None:
        require(self.frames >= 8, self, "frames", "be at least 8")
        require(self.mel.bins >= 8, self, "mel", "have at least 8 bins")
        require(0 <= self.mixup <= 1, self, "mixup", "lie in [0, 1]")
        for name in ("channels", "feature_dim", "hidden_dim", "projection_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(0 <= self.dropout < 1, self, "dropout", "lie in [0, 1)")
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")


class AudioNetwork(nn.Module):
    """Spectrograms (B, 1, frames, bins) to features (B, D): three convolutions that halve both sides, two layers on
    each moment, and the sum of their largest and their mean values over time. Weights have the names of the authors'.

    Source: nttcslab/byol-a at 3e65c92, byol_a/models.py, AudioNTT2020.
    """

    def __init__(self, bins: int, *, channels: int, dim: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into in (1, channels, channels):
            layers += [nn.Conv2d(into, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Sequential(
            nn.Linear(channels * (bins // 8), dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.ReLU()
        )

    def forward(self, mels: Tensor) -> Tensor:
        maps = self.features(mels.transpose(2, 3))  # (B, channels, bins / 8, frames / 8), as the authors' weights are
        moments = self.fc(maps.permute(0, 3, 2, 1).flatten(2))  # (B, frames / 8, D)
        return moments.amax(dim=1) + moments.mean(dim=1)


class BYOLA(Method):
    """Probes see the features of the second in the middle of a sound, in its own loudness.

    Followed: nttcslab/byol-a at 3e65c92. Both views are of one crop: mixed with other sounds of the set, and cut and
    resized at random, by the loader; a batch's views are then normalised together. Each view passes alone, so that
    batch norm's statistics are of one view, and the slow network runs in training mode with statistics of its own.
    """

    config: BYOLAConfig
    inputs: SoundSpec

    def __init__(self, config: BYOLAConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = AudioNetwork(
            config.mel.bins, channels=config.channels, dim=config.feature_dim, dropout=config.dropout
        )
        self.feature_dim = config.feature_dim
        hidden, out = config.hidden_dim, config.projection_dim
        self.projector = mlp((self.feature_dim, hidden, out), bias=True, last_bias=True, last_norm="none")
        self.predictor = mlp((out, hidden, out), bias=True, last_bias=True, last_norm="none")
        self.slow_backbone, self.slow_projector = slow_copy(self.backbone), slow_copy(self.projector)
        view = Sound(
            samples=config.mel.samples(config.frames),
            rate=config.rate,
            short=config.short,
            mel=config.mel,
            mixup=LogMixup(ratio=config.mixup) if config.mixup else None,
            part=ResizeCrop() if config.part else None,
        )
        self.inputs = SoundSpec([view, replace(view, place="first")])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: both directions of `headrace.models.losses.cosine_regression`, added; `"spread"`: the deviation of
        features, averaged over dimensions."""
        views = normalized_together(batch["sound"].mels)
        features = [self.backbone(view) for view in views]
        first, second = (self.predictor(self.projector(each)) for each in features)
        with torch.no_grad():
            targets = [self.slow_projector(self.slow_backbone(view)) for view in views]
        return {
            "loss": cosine_regression(first, targets[1]) + cosine_regression(second, targets[0]),
            "spread": features[0].detach().float().std(dim=0).mean(),
        }

    def encode(self, batch: Batch) -> Tensor:
        """(B, D): see above."""
        (mels,) = batch["sound"].mels
        features: Tensor = self.backbone(mels)
        return features

    def parameter_groups(self) -> list[ParameterGroup]:
        """All alike."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]

    def after_step(self, context: Context) -> None:
        """The slow network moves towards the new weights."""
        follow(self.slow_backbone, self.backbone, self.config.momentum)
        follow(self.slow_projector, self.projector, self.config.momentum)


def normalized_together(views: list[Tensor]) -> list[Tensor]:
    """Views (B, 1, frames, bins) with mean 0 and deviation 1 over all of them and all ranks.

    Source: nttcslab/byol-a at 3e65c92, byol_a/augmentations.py, NormalizeBatch.
    """
    numbers = torch.stack(views).double()
    count = numbers.numel() * world_size()
    mean = total(numbers.sum()) / count
    deviation = (total((numbers - mean).square().sum()) / (count - 1)).sqrt()
    scale = 1 / deviation.clamp(min=torch.finfo(torch.float32).eps)
    return [((view - mean) * scale).float() for view in views]
