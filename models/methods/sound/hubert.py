"""HuBERT: name the clusters of hidden frames, of cepstra first and then of states (arXiv 2106.07447)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import cluster_loss
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.cepstra import cepstral_basis, with_differences
from headrace.models.parts.clusters import kmeans_centres, nearest_centres
from headrace.models.parts.collectives import from_first, rank
from headrace.models.parts.masked_vit import take
from headrace.models.parts.momentum import slow_copy
from headrace.models.parts.precision import widened
from headrace.models.parts.speech import (
    SpeechNetwork,
    frames_of,
    given_frames,
    hidden_frames,
    normed_frames,
    projected,
    speech_features,
    speech_initialization,
    speech_network,
    transformed,
)
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, FrameSpanMask, Mel, Sound, SoundSpec

_KEY = 0x68756273  # the word "hubs"


def kaldi_mel() -> Mel:
    """What Kaldi makes cepstra of: 23 bands, a Povey window."""
    return Mel(bins=23, taper="povey")


@dataclass(frozen=True, kw_only=True)
class HuBERTConfig:
    """HuBERT base with the authors' values for LibriSpeech, first round (facebookresearch/fairseq at 3d262bb,
    examples/hubert/config/pretrain/hubert_base_librispeech.yaml, simple_kmeans and the code's defaults)."""

    rate: int = 16_000
    """Samples a second; files of another rate are resampled."""
    samples: int = 250_000
    """Of a crop."""
    short: Literal["pad", "loop"] = "loop"
    """A shorter sound starts again, or is followed by silence."""
    target: Literal["cepstra", "layer"] = "cepstra"
    """What is clustered: cepstra with their first and second differences, or, in a second round, the states of a layer
    of the network that `--init` gives the weights of."""
    mel: Mel = field(default_factory=kaldi_mel)
    """Spectrogram that the cepstra are of. A frame of the network begins with every n-th of its frames, n whole."""
    cepstra: int = 13
    """Of a frame, without differences; as many as the spectrogram's bands take all."""
    target_layer: int = 6
    """Block of the network whose states a second round clusters, the first one 1."""
    fresh: bool = True
    """Whether a second round begins with random weights, as the authors', instead of those of the first."""
    clusters: int = 100
    """The authors' second round has 500."""
    cluster_frames: int = 5_000_000
    """Frames of the set that centres are found with, at most."""
    mask_ratio: float = 0.8
    """Frames of all hidden spans, overlaps counted again, as a share of the sound's."""
    mask_span: int = 10
    """Frames of a span."""
    projection_dim: int = 256
    """Of the space in which states and clusters are compared."""
    temperature: float = 0.1
    """That cosines are divided by."""
    penalty: float = 10.0
    """Weight of the mean square of the convolutions' output."""
    gradient_scale: float = 0.1
    """Factor of the gradient into the convolutions."""
    network: SpeechNetwork = field(default_factory=SpeechNetwork)
    """The network that is kept."""

    def __post_init__(self) -> None:
        require(self.target in ("cepstra", "layer"), self, "target", "be 'cepstra' or 'layer'")
        for name in ("clusters", "projection_dim", "cepstra", "cluster_frames"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.cepstra <= self.mel.bins, self, "cepstra", f"be at most {self.mel.bins}, the spectrogram's bands")
        depth = self.network.depth
        if self.target == "layer":
            require(1 <= self.target_layer <= depth, self, "target_layer", f"be 1 to {depth}, the network's blocks")
        require(self.temperature > 0, self, "temperature", "be above 0")
        require(self.penalty >= 0, self, "penalty", "be at least 0")
        require(0 < self.gradient_scale <= 1, self, "gradient_scale", "lie in (0, 1]")


class HuBERT(Method):
    """Probes see the mean over time of the last states of a whole crop.

    Followed: facebookresearch/fairseq at 3d262bb, fairseq/models/hubert/hubert.py, examples/hubert/simple_kmeans and
    fairseq/criterions/hubert_criterion.py. Which frames are hidden comes with the batch, and so does the spectrogram
    of the crop. Centres are found once, before the first epoch, by rank 0; before that a step can be measured, and all
    frames are of the first cluster. A second round is a run with `target` "layer" and `--init` RUN, the first round's.
    """

    config: HuBERTConfig
    inputs: SoundSpec
    centres: Tensor
    """float32 (K, D) of what is clustered."""

    def __init__(self, config: HuBERTConfig) -> None:
        super().__init__()
        self.config = config
        network = config.network
        self.backbone, self.feature_dim = speech_network("hubert", network), network.width
        self.teacher: Any = slow_copy(self.backbone).eval() if config.target == "layer" else None
        self.project = nn.Linear(network.width, config.projection_dim)
        self.clusters = nn.Parameter(torch.empty(config.clusters, config.projection_dim).uniform_())
        dims = 3 * config.cepstra if config.target == "cepstra" else network.width
        self.register_buffer("centres", torch.zeros(config.clusters, dims))
        self.register_buffer("basis", cepstral_basis(config.mel.bins, config.cepstra), persistent=False)
        frames = network.frames(config.samples)
        require(frames > config.mask_span + 2, config, "samples", f"give more than {config.mask_span + 2} frames")
        wave = Sound(samples=config.samples, rate=config.rate, short=config.short)
        sounds = [wave]
        self.every = 1
        """Frames of the spectrogram from one of the network to the next."""
        if config.target == "cepstra":
            sounds.append(Sound(samples=wave.samples, rate=wave.rate, short=wave.short, place="first", mel=config.mel))
            self.every, rest = divmod(network.stride, config.mel.hop)
            enough = config.mel.frames(config.samples) > self.every * (frames - 1)
            require(not rest and enough, config, "mel", f"have a frame for each of the network's {frames}, which begin "
                    f"every {network.stride} samples")  # fmt: skip
        mask = FrameSpanMask(frames=frames, ratio=config.mask_ratio, span=config.mask_span)
        self.frames = frames
        self.inputs = SoundSpec(sounds, [mask])

    def train(self, mode: bool = True) -> HuBERT:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is the sum of `"masked"`, see `headrace.models.losses.cluster_loss`, and, weighted, `"penalty"`: the
        mean square of the convolutions' output. `"accuracy"` at hidden frames, and `"commonest"`: the share of them
        that the cluster which most of them belong to has."""
        c, network = self.config, self.backbone
        (waves,), (mask,) = batch["sound"].waves, batch["sound"].masks
        with torch.no_grad():
            labels = nearest_centres(self.targets(batch), self.centres).gather(1, mask.masked)
        frames = frames_of(network, waves, c.gradient_scale)
        given = given_frames(network, normed_frames(network, frames))
        states = transformed(network, hidden_frames(network, given, mask.masked)).states
        found = cluster_loss(self.project(take(states, mask.masked)), self.clusters, labels, temperature=c.temperature)
        penalty = widened(frames).square().mean()
        shares = nn.functional.one_hot(labels, c.clusters).float().mean(dim=(0, 1))
        return {
            "loss": found["loss"] + c.penalty * penalty,
            "masked": found["loss"].detach(),
            "penalty": penalty.detach(),
            "accuracy": found["accuracy"],
            "commonest": shares.amax(),
        }

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """float32 (B, T, D): what is clustered, a row for each of the network's frames."""
        part = batch["sound"]
        with torch.autocast(part.waves[0].device.type, enabled=False):
            if self.teacher is not None:
                normed = normed_frames(self.teacher, frames_of(self.teacher, part.waves[0], 1.0))
                return transformed(self.teacher, projected(self.teacher, normed), self.config.target_layer).states
            (mels,) = part.mels
            cepstra = mels[:, 0] @ self.basis  # (B, frames of the spectrogram, cepstra)
            return with_differences(cepstra)[:, : self.every * self.frames : self.every]

    def encode(self, batch: Batch) -> Tensor:
        """(B, D): see above."""
        return speech_features(self.backbone, batch["sound"].waves[0])

    def parameter_groups(self) -> list[ParameterGroup]:
        """All alike: the authors decay biases and norms, too."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]

    def on_epoch(self, context: Context) -> None:
        """Before the first epoch: centres, and in a second round new weights.

        Raises:
            ValueError: if the set has fewer frames than clusters, or what is clustered is not finite.
        """
        if context.epoch:
            return
        seeds = np.random.SeedSequence((context.seed, _KEY)).generate_state(2)
        centres = torch.zeros_like(self.centres)
        if rank() == 0:
            points = self._points(context, int(seeds[0]))
            found = kmeans_centres(
                points, self.config.clusters, batch=10_000, restarts=20, iterations=100, seed=int(seeds[0])
            )
            centres.copy_(found)
        self.centres.copy_(from_first(centres))
        if self.teacher is not None and self.config.fresh:
            with seeded(int(seeds[1])):
                speech_initialization(self.backbone)

    def _points(self, context: Context, seed: int) -> Tensor:
        """(N, D) on the CPU: frames of all sounds, as many of each, drawn by chance."""
        assert context.batches is not None
        spec: Any = SoundSpec([sound.plainly() for sound in self.inputs.sounds])
        each = max(1, min(self.frames, self.config.cluster_frames // max(1, context.samples)))
        random = torch.Generator().manual_seed(seed)
        parts = []
        for batch in context.batches(spec):
            some = torch.rand(len(batch), self.frames, generator=random).argsort(dim=1)[:, :each]
            parts.append(take(self.targets(batch).cpu(), some).flatten(0, 1))
        points = torch.cat(parts)
        require(self.config.clusters <= len(points), self.config, "clusters", f"be at most {len(points)}, the frames "
                "that they are found with")  # fmt: skip
        if not points.isfinite().all():
            raise ValueError("HuBERT: what is clustered is not finite, and has no clusters")
        return points
