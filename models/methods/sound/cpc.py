"""Contrastive predictive coding: tell which frames come next from what was heard so far (arXiv 1807.03748)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import future_info_nce
from headrace.models.method import Method, ParameterGroup
from headrace.models.parts.causal import CausalLayer, ChannelNorm, Recurrent
from headrace.pipeline import Batch, NegativeFrameDraw, Sound, SoundSpec


@dataclass(frozen=True, kw_only=True)
class CPCConfig:
    """CPC with the values of its authors' later code for LibriLight (facebookresearch/CPC_audio at b98a1bd,
    cpc/cpc_default_config.py, cpc/model.py), of arXiv 2002.02848. The first one has 512 channels, batch norm, a GRU and
    linear predictors."""

    rate: int = 16_000
    """Samples a second; files of another rate are resampled."""
    samples: int = 20_480
    """Of a crop."""
    short: Literal["pad", "loop"] = "loop"
    """A shorter sound starts again, or is followed by silence."""
    channels: int = 256
    """Of the convolutions, which are the dimensions of a frame."""
    kernels: tuple[int, ...] = (10, 8, 4, 4, 4)
    """In samples, then in frames of the convolution before."""
    strides: tuple[int, ...] = (5, 4, 2, 2, 2)
    """Likewise; a frame of the last begins every 160 samples."""
    paddings: tuple[int, ...] = (3, 2, 1, 1, 1)
    """Zeros at either end of each."""
    context: Literal["lstm", "gru"] = "lstm"
    """What hears the frames one after the other."""
    context_dim: int = 256
    """Of its states, which probes see."""
    steps: int = 12
    """Frames ahead that are predicted, each of the next ones."""
    negatives: int = 128
    """Frames that stand beside the right one, the same for all steps."""
    predictor: Literal["transformer", "linear"] = "transformer"
    """What turns states into a step's predictions: a causal layer, which needs as many dimensions as a frame has, or a
    matrix."""
    heads: int = 8
    """Attention heads of such a layer."""
    predictor_dim: int = 2048
    """Width inside of it."""
    dropout: float = 0.1
    """Of it; 0 for none."""

    def __post_init__(self) -> None:
        same = len(self.kernels) == len(self.strides) == len(self.paddings)
        require(same and len(self.kernels) > 0, self, "kernels", "be as many as strides and paddings")
        for name in ("channels", "context_dim", "steps", "heads", "predictor_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.context in ("lstm", "gru"), self, "context", "be 'lstm' or 'gru'")
        require(self.predictor in ("transformer", "linear"), self, "predictor", "be 'transformer' or 'linear'")
        require(0 <= self.dropout < 1, self, "dropout", "lie in [0, 1)")
        if self.predictor == "transformer":
            require(self.context_dim == self.channels, self, "context_dim", f"be {self.channels}, the channels, for "
                    "a causal layer")  # fmt: skip
            require(self.channels % self.heads == 0, self, "channels", "be a multiple of heads")
        require(self.frames > self.steps + 1, self, "samples", f"give more than {self.steps + 1} frames")

    @property
    def frames(self) -> int:
        """T of a crop."""
        found = self.samples
        for kernel, stride, padding in zip(self.kernels, self.strides, self.paddings, strict=True):
            found = (found + 2 * padding - kernel) // stride + 1 if found + 2 * padding >= kernel else 0
        return found


class FrameEncoder(nn.Module):
    """Waves (B, samples) to frames (B, T, channels), and to states (B, T, context_dim), of which none knows of frames
    behind its own."""

    def __init__(self, config: CPCConfig) -> None:
        super().__init__()
        dims = (1, *[config.channels] * len(config.kernels))
        layers: list[nn.Module] = []
        for number, shape in enumerate(zip(config.kernels, config.strides, config.paddings, strict=True)):
            kernel, stride, padding = shape
            layers.append(nn.Conv1d(dims[number], dims[number + 1], kernel, stride=stride, padding=padding))
            layers += [ChannelNorm(config.channels), nn.ReLU()]
        self.frames = nn.Sequential(*layers)
        self.context = Recurrent(config.context, config.channels, config.context_dim)

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        frames = self.frames(waves[:, None]).transpose(1, 2)
        return frames, self.context(frames)


class CPC(Method):
    """Probes see the mean over time of the states.

    Followed: facebookresearch/CPC_audio at b98a1bd, cpc/model.py, cpc/criterion/criterion.py, cpc/transformers.py and
    cpc/train.py. Negatives come with the batch.
    """

    config: CPCConfig
    inputs: SoundSpec

    def __init__(self, config: CPCConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.feature_dim = FrameEncoder(config), config.context_dim
        self.predicted = config.frames - config.steps
        """Frames from which is predicted."""
        self.predictors = nn.ModuleList([self._predictor() for _ in range(config.steps)])
        draw = NegativeFrameDraw(frames=self.predicted, among=config.frames, count=config.negatives)
        self.inputs = SoundSpec([Sound(samples=config.samples, rate=config.rate, short=config.short)], [draw])

    def _predictor(self) -> nn.Module:
        c = self.config
        if c.predictor == "linear":
            return nn.Linear(c.context_dim, c.channels, bias=False)
        return CausalLayer(c.channels, self.predicted, heads=c.heads, hidden=c.predictor_dim, dropout=c.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the sum over steps of `headrace.models.losses.future_info_nce`; `"accuracy"`: their mean, and
        `"first_accuracy"` and `"last_accuracy"`, of the next frame and of the farthest."""
        (waves,), (draw,) = batch["sound"].waves, batch["sound"].masks
        frames, states = self.backbone(waves)
        states = states[:, : self.predicted]
        found = [
            future_info_nce(predictor(states), frames, draw.negatives, step=step)
            for step, predictor in enumerate(self.predictors, start=1)
        ]
        accuracies = torch.stack([each["accuracy"] for each in found])
        return {
            "loss": torch.stack([each["loss"] for each in found]).sum(),
            "accuracy": accuracies.mean(),
            "first_accuracy": accuracies[0],
            "last_accuracy": accuracies[-1],
        }

    def encode(self, batch: Batch) -> Tensor:
        """(B, D): see above."""
        (waves,) = batch["sound"].waves
        states: Tensor = self.backbone(waves)[1]
        return states.mean(dim=1)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All alike."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]
