"""The networks of wav2vec 2.0, HuBERT and data2vec: convolutions over a wave, and a transformer over their frames.

They are `transformers`' models, which therefore load what is trained here, taken apart so that masks come from outside
and nothing is read back from the device. Letters: B sounds, T frames, C channels of the convolutions, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from headrace.models.checks import require

Kind = Literal["wav2vec2", "hubert", "data2vec"]


@dataclass(frozen=True, kw_only=True)
class SpeechNetwork:
    """Sizes and drops, with those of the base networks (facebookresearch/fairseq at 3d262bb,
    fairseq/models/wav2vec/wav2vec2.py)."""

    channels: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    """Of each convolution."""
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """In samples, then in frames of the convolution before."""
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Likewise; a frame of the last begins every 320 samples."""
    width: int = 768
    """Of the states; four times as wide inside."""
    depth: int = 12
    """Blocks of the transformer."""
    heads: int = 12
    """Attention heads of a block."""
    position_kernel: int = 128
    """Frames that the convolution which stands for positions sees; of data2vec's five in a row together 95."""
    position_groups: int = 16
    """Its groups."""
    norm_first: bool = False
    """Whether norms stand in front of attention and layers, as in the large models, instead of behind them."""
    dropout: float = 0.1
    """Of states; 0 for none."""
    attention_dropout: float = 0.1
    """Of attention; 0 for none."""
    input_dropout: float = 0.1
    """Of what the transformer is given; 0 for none."""
    layer_drop: float = 0.05
    """Probability that a block is left out of a step; 0 for none."""

    def __post_init__(self) -> None:
        same = len(self.channels) == len(self.kernels) == len(self.strides)
        require(same and len(self.channels) > 0, self, "channels", "be as many as kernels and strides")
        for name in ("channels", "kernels", "strides"):
            require(min(getattr(self, name)) >= 1, self, name, "be at least 1")
        for name in ("width", "depth", "heads", "position_kernel", "position_groups"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.width % self.heads == 0, self, "width", "be a multiple of heads")
        require(self.width % self.position_groups == 0, self, "width", "be a multiple of position_groups")
        for name in ("dropout", "attention_dropout", "input_dropout", "layer_drop"):
            require(0 <= getattr(self, name) < 1, self, name, "lie in [0, 1)")

    @property
    def stride(self) -> int:
        """Samples from a frame to the next."""
        return math.prod(self.strides)

    def frames(self, samples: int) -> int:
        """T of a wave; 0 of one that is too short."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples


def speech_network(kind: Kind, config: SpeechNetwork) -> Any:
    """`transformers`' Wav2Vec2Model, HubertModel or Data2VecAudioModel, with the authors' first weights.

    Raises:
        ImportError: if the library is missing.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"networks of speech need the library transformers: pip install headrace[text] ({error})"
        ) from error
    shared: dict[str, Any] = {
        "conv_dim": list(config.channels),
        "conv_kernel": list(config.kernels),
        "conv_stride": list(config.strides),
        "conv_bias": False,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": 0.0,
        "feat_proj_dropout": config.input_dropout,
        "layerdrop": config.layer_drop,
        "num_conv_pos_embedding_groups": config.position_groups,
        "attn_implementation": "sdpa",
    }
    network: Any
    if kind == "data2vec":
        require(not config.norm_first, config, "norm_first", "be off in data2vec's network")
        kernel = max(3, config.position_kernel // DATA2VEC_POSITIONS)
        network = transformers.Data2VecAudioModel(
            transformers.Data2VecAudioConfig(
                **shared, conv_pos_kernel_size=kernel, num_conv_pos_embeddings=DATA2VEC_POSITIONS
            )
        )
    else:
        shared |= {
            "num_conv_pos_embeddings": config.position_kernel,
            "do_stable_layer_norm": config.norm_first,
            "feat_extract_norm": "group",
        }
        network = (
            transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**shared))
            if kind == "wav2vec2"
            else transformers.HubertModel(transformers.HubertConfig(**shared))
        )
    speech_initialization(network)
    return network


DATA2VEC_POSITIONS = 5
"""Convolutions in a row that stand for positions in data2vec's network."""


@torch.no_grad()
def speech_initialization(network: Any) -> None:
    """The authors' first weights, drawn from torch's default generator: those of the transformer's linear layers from a
    normal distribution of deviation 0.02, with biases of 0; Kaiming's for the convolutions of the wave; for one
    convolution of positions a normal distribution as well; PyTorch's own for data2vec's, and for the projection.

    Source: facebookresearch/fairseq at 3d262bb, fairseq/models/wav2vec/wav2vec2.py (ConvFeatureExtractionModel,
    make_conv_pos, TransformerEncoder) and fairseq/modules/transformer_sentence_encoder.py (init_bert_params).
    """
    for layer in network.feature_extractor.conv_layers:
        nn.init.kaiming_normal_(layer.conv.weight)
    for module in network.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and module.weight is not None:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    network.feature_projection.projection.reset_parameters()
    positions = network.encoder.pos_conv_embed
    if hasattr(positions, "layers"):
        for layer in positions.layers:
            layer.conv.reset_parameters()
    else:
        conv = positions.conv
        length, direction = conv.parametrizations.weight.original0, conv.parametrizations.weight.original1
        deviation = math.sqrt(4 / (conv.kernel_size[0] * conv.in_channels))
        nn.init.normal_(direction, std=deviation)
        length.copy_(direction.norm(dim=(0, 1), keepdim=True))
        nn.init.zeros_(conv.bias)
    for layer in network.encoder.layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
    nn.init.uniform_(network.masked_spec_embed)


def frames_of(network: Any, waves: Tensor, gradient_scale: float) -> Tensor:
    """(B, T, C): what the convolutions make of waves (B, samples), whose gradient is multiplied by `gradient_scale` on
    its way into them."""
    states = waves[:, None]
    for layer in network.feature_extractor.conv_layers:
        states = layer(states)
    if gradient_scale != 1:
        stopped = states.detach()
        states = stopped + (states - stopped) * gradient_scale  # the same values: the difference is 0
    return states.transpose(1, 2)


def normed_frames(network: Any, frames: Tensor) -> Tensor:
    """(B, T, C): behind the norm over channels; the targets of wav2vec 2.0."""
    normed: Tensor = network.feature_projection.layer_norm(frames)
    return normed


def projected(network: Any, normed: Tensor) -> Tensor:
    """(B, T, D): in the transformer's width."""
    states: Tensor = network.feature_projection.projection(normed)
    return states


def given_frames(network: Any, normed: Tensor) -> Tensor:
    """(B, T, D): the same behind the dropout of what the transformer is given."""
    states: Tensor = network.feature_projection.dropout(projected(network, normed))
    return states


def hidden_frames(network: Any, states: Tensor, masked: Tensor) -> Tensor:
    """(B, T, D) with the learned vector in the place of the frames `masked`, int64 (B, M)."""
    flags = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device).scatter(1, masked, True)
    return torch.where(flags[:, :, None], network.masked_spec_embed.to(states.dtype), states)


class Transformed(NamedTuple):
    """What the transformer makes of frames."""

    states: Tensor
    """(B, T, D): the last block's, behind the last norm where norms stand first."""
    inner: list[Tensor]
    """(B, T, D) of each block: what its two layers add to the states, data2vec's targets."""


def transformed(network: Any, states: Tensor, blocks: int | None = None) -> Transformed:
    """The transformer on frames (B, T, D): positions, and all its blocks, or the first `blocks` without a norm behind
    them."""
    encoder = network.encoder
    first = bool(getattr(network.config, "do_stable_layer_norm", False))
    states = states + encoder.pos_conv_embed(states)
    if not first:
        states = encoder.layer_norm(states)
    states = encoder.dropout(states)
    drop = float(network.config.layerdrop) if network.training else 0.0
    inner = []
    for block in encoder.layers[:blocks]:
        made, added = _block(block, states, first)
        # A dropped block is computed all the same: to ask whether it is would wait for the device.
        states = torch.where(torch.rand((), device=states.device) >= drop, made, states) if drop else made
        inner.append(added)
    if first and blocks is None:
        states = encoder.layer_norm(states)
    return Transformed(states, inner)


def _block(block: Any, states: Tensor, first: bool) -> tuple[Tensor, Tensor]:
    """The states behind a block, and what its layers add."""
    if first:
        states = states + block.dropout(block.attention(block.layer_norm(states))[0])
        added = block.feed_forward(block.final_layer_norm(states))
        return states + added, added
    states = block.layer_norm(states + block.dropout(block.attention(states)[0]))
    added = block.feed_forward(states)
    return block.final_layer_norm(states + added), added


def speech_features(network: Any, waves: Tensor) -> Tensor:
    """(B, D): the mean over time of the last states of whole waves. The network is in evaluation mode."""
    normed = normed_frames(network, frames_of(network, waves, 1.0))
    return transformed(network, projected(network, normed)).states.mean(dim=1)


def normalized_waves(waves: Tensor) -> Tensor:
    """(B, samples): each of mean 0 and variance 1, as fairseq's `normalize`, which does so before it crops."""
    return nn.functional.layer_norm(waves, waves.shape[1:])
