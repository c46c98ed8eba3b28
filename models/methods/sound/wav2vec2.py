"""wav2vec 2.0: tell what a hidden frame sounds like from other hidden frames of the sound (arXiv 2006.11477)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import frame_info_nce
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.masked_vit import take
from headrace.models.parts.precision import widened
from headrace.models.parts.quantizer import GumbelQuantizer
from headrace.models.parts.speech import (
    SpeechNetwork,
    frames_of,
    given_frames,
    hidden_frames,
    normed_frames,
    speech_features,
    speech_network,
    transformed,
)
from headrace.pipeline import Batch, FrameSpanMask, NegativeFrameDraw, Sound, SoundSpec


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config:
    """wav2vec 2.0 base with the authors' values for LibriSpeech (facebookresearch/fairseq at 3d262bb,
    examples/wav2vec/config/pretraining/wav2vec2_base_librispeech.yaml and the code's defaults)."""

    rate: int = 16_000
    """Samples a second; files of another rate are resampled."""
    samples: int = 250_000
    """Of a crop."""
    short: Literal["pad", "loop"] = "loop"
    """A shorter sound starts again, or is followed by silence."""
    mask_ratio: float = 0.65
    """Frames of all hidden spans, overlaps counted again, as a share of the sound's."""
    mask_span: int = 10
    """Frames of a span."""
    negatives: int = 100
    """Of each hidden frame, from the others of the same sound."""
    groups: int = 2
    """Of the quantiser."""
    codes: int = 320
    """Of each group."""
    code_dim: int = 256
    """Of a quantised frame, all groups together."""
    projection_dim: int = 256
    """Of the space in which frames are compared."""
    temperature: float = 0.1
    """That cosines are divided by."""
    gumbel: tuple[float, float, float] = (2.0, 0.5, 0.999995)
    """Temperature of the choice of codes: at first, at last, and its factor from step to step."""
    diversity: float = 0.1
    """Weight of the codes that are not used."""
    penalty: float = 10.0
    """Weight of the mean square of the convolutions' output."""
    target_dropout: float = 0.1
    """Of the frames that are quantised; 0 for none."""
    gradient_scale: float = 0.1
    """Factor of the gradient into the convolutions."""
    network: SpeechNetwork = field(default_factory=SpeechNetwork)
    """The network that is kept."""

    def __post_init__(self) -> None:
        for name in ("groups", "codes", "code_dim", "projection_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.code_dim % self.groups == 0, self, "code_dim", "be a multiple of groups")
        require(self.temperature > 0, self, "temperature", "be above 0")
        first, last, factor = self.gumbel
        require(0 < last <= first and 0 < factor <= 1, self, "gumbel", "be 0 < last <= first and 0 < factor <= 1")
        for name in ("diversity", "penalty"):
            require(getattr(self, name) >= 0, self, name, "be at least 0")
        require(0 <= self.target_dropout < 1, self, "target_dropout", "lie in [0, 1)")
        require(0 < self.gradient_scale <= 1, self, "gradient_scale", "lie in (0, 1]")


def masked_frames(config: Wav2Vec2Config) -> FrameSpanMask:
    """The mask of a crop's frames.

    Raises:
        ValueError: if the crop is too short for it.
    """
    frames = config.network.frames(config.samples)
    require(frames > config.mask_span + 2, config, "samples", f"give more than {config.mask_span + 2} frames")
    return FrameSpanMask(frames=frames, ratio=config.mask_ratio, span=config.mask_span)


class Wav2Vec2(Method):
    """Probes see the mean over time of the last states of a whole crop.

    Followed: facebookresearch/fairseq at 3d262bb, fairseq/models/wav2vec/wav2vec2.py,
    fairseq/modules/gumbel_vector_quantizer.py and fairseq/criterions/wav2vec_criterion.py. Which frames are hidden, and
    their negatives, come with the batch.
    """

    config: Wav2Vec2Config
    inputs: SoundSpec

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.feature_dim = speech_network("wav2vec2", config.network), config.network.width
        self.quantizer = GumbelQuantizer(
            config.network.channels[-1],
            groups=config.groups,
            codes=config.codes,
            out_dim=config.code_dim,
            temperature=config.gumbel[0],
        )
        self.target_dropout = nn.Dropout(config.target_dropout)
        self.project_targets = nn.Linear(config.code_dim, config.projection_dim)
        self.project_states = nn.Linear(config.network.width, config.projection_dim)
        mask = masked_frames(config)
        sound = Sound(samples=config.samples, rate=config.rate, short=config.short)
        draw = NegativeFrameDraw(frames=mask.masked, among=mask.masked, count=config.negatives)
        self.inputs = SoundSpec([sound], [mask, draw])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is the sum of `"contrastive"`, see `headrace.models.losses.frame_info_nce`, and, weighted,
        `"diversity"`: the share of the codes' number that their perplexity lacks, and `"penalty"`: the mean square of
        the convolutions' output. `"accuracy"`, and `"perplexity"` of the likeliest codes, all groups added."""
        c = self.config
        network: Any = self.backbone
        (waves,), (mask, draw) = batch["sound"].waves, batch["sound"].masks
        frames = frames_of(network, waves, c.gradient_scale)
        normed = normed_frames(network, frames)
        states = transformed(network, hidden_frames(network, given_frames(network, normed), mask.masked)).states
        predictions = self.project_states(take(states, mask.masked))
        quantized = self.quantizer(self.target_dropout(take(normed, mask.masked)))
        targets = self.project_targets(quantized.vectors)
        same = (quantized.codes[:, :, None] == quantized.codes[:, None]).all(dim=3)
        found = frame_info_nce(predictions, targets, draw.negatives, same, temperature=c.temperature)
        codes = c.groups * c.codes
        diversity = (codes - quantized.perplexity) / codes
        penalty = widened(frames).square().mean()
        return {
            "loss": found["loss"] + c.diversity * diversity + c.penalty * penalty,
            "contrastive": found["loss"].detach(),
            "diversity": diversity.detach(),
            "penalty": penalty.detach(),
            "accuracy": found["accuracy"],
            "perplexity": quantized.code_perplexity,
        }

    def encode(self, batch: Batch) -> Tensor:
        """(B, D): see above."""
        (waves,) = batch["sound"].waves
        return speech_features(self.backbone, waves)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All alike: the authors decay biases and norms, too."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]

    def before_step(self, context: Context) -> None:
        """The temperature of the choice of codes falls."""
        first, last, factor = self.config.gumbel
        self.quantizer.temperature.fill_(max(last, first * factor**context.step))
