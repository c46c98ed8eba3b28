"""Networks of speech: taken apart they are `transformers`' models, and they begin as fairseq's."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from headrace.models.parts.speech import (
    SpeechNetwork,
    frames_of,
    given_frames,
    hidden_frames,
    normed_frames,
    projected,
    speech_features,
    speech_network,
    transformed,
)
from headrace.models.seeding import seeded
from tests.models.tiny_methods import SPEECH

pytestmark = pytest.mark.peer("transformers")
KINDS = ["wav2vec2", "hubert", "data2vec"]
CONFIGS = {kind: replace(SPEECH, position_kernel=15) if kind == "data2vec" else SPEECH for kind in KINDS}
STABLE = replace(SPEECH, norm_first=True)


def network_of(kind: Any, config: SpeechNetwork) -> Any:
    with seeded(0):
        network = speech_network(kind, config).eval()
        for parameter in network.parameters():  # norms that do something
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    return network


def waves(samples: int = 1610) -> torch.Tensor:
    return torch.randn(3, samples, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "config"), [*CONFIGS.items(), ("wav2vec2", STABLE), ("hubert", STABLE)], ids=lambda x: str(x)[:8]
)
def test_taken_apart_it_is_transformers(kind: Any, config: SpeechNetwork) -> None:
    network = network_of(kind, config)
    x = waves()
    masked = torch.tensor([[1, 2, 5], [0, 7, 8], [3, 30, 38]])
    flags = torch.zeros(3, 40, dtype=torch.bool).scatter(1, masked, True)
    with torch.no_grad():
        normed = normed_frames(network, frames_of(network, x, 0.1))
        states = transformed(network, hidden_frames(network, projected(network, normed), masked)).states
        theirs = network(input_values=x, mask_time_indices=flags).last_hidden_state
        plain = network(input_values=x).last_hidden_state
    assert states.shape == (3, 40, 16)
    torch.testing.assert_close(states, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(speech_features(network, x), plain.mean(dim=1), rtol=1e-5, atol=1e-5)


def test_some_of_the_blocks_are_the_states_behind_them() -> None:
    network = network_of("hubert", SPEECH)
    x = waves()
    with torch.no_grad():
        given = projected(network, normed_frames(network, frames_of(network, x, 1.0)))
        theirs = network(input_values=x, output_hidden_states=True).hidden_states
        torch.testing.assert_close(transformed(network, given, 1).states, theirs[1], rtol=1e-5, atol=1e-5)


def test_what_a_block_adds_is_its_last_layers_output() -> None:
    """0 where that layer is 0: data2vec's targets are no outputs of blocks."""
    network = network_of("data2vec", CONFIGS["data2vec"])
    layer = network.encoder.layers[1].feed_forward.output_dense
    layer.weight.data.zero_()
    layer.bias.data.zero_()
    with torch.no_grad():
        given = projected(network, normed_frames(network, frames_of(network, waves(), 1.0)))
        first, second = transformed(network, given).inner
    assert first.any()
    assert not second.any()


def test_hidden_frames_do_not_reach_the_transformer() -> None:
    network = network_of("wav2vec2", SPEECH)
    masked = torch.tensor([[1, 2, 5]] * 3)
    first, second = torch.randn(3, 40, 16), torch.randn(3, 40, 16)
    second[:] = first
    second[:, masked[0]] += 1.0
    assert torch.equal(hidden_frames(network, first, masked), hidden_frames(network, second, masked))
    assert not torch.equal(hidden_frames(network, first, masked), first)


def test_the_gradient_into_the_convolutions_is_scaled_and_values_are_not() -> None:
    network = network_of("wav2vec2", SPEECH)
    weight = network.feature_extractor.conv_layers[0].conv.weight
    whole, scaled = (frames_of(network, waves(), scale) for scale in (1.0, 0.1))
    assert torch.equal(whole, scaled)
    (a,), (b,) = (torch.autograd.grad(each.square().sum(), weight) for each in (whole, scaled))
    torch.testing.assert_close(0.1 * a, b)


def test_dropped_blocks_leave_states_as_they_are() -> None:
    network = network_of("wav2vec2", replace(SPEECH, layer_drop=0.999999, dropout=0.0, attention_dropout=0.0)).train()
    given = torch.randn(3, 40, 16)
    encoder = network.encoder
    expected = encoder.layer_norm(given + encoder.pos_conv_embed(given))
    with seeded(0):
        torch.testing.assert_close(transformed(network, given).states, expected)
    drops = replace(SPEECH, layer_drop=0.5, dropout=0.0, attention_dropout=0.0, depth=1)
    network = network_of("wav2vec2", drops).train()
    with torch.no_grad():
        whole = transformed(network.eval(), given).states
        network.train()
        kept = 0
        with seeded(3):
            for _ in range(200):
                kept += torch.equal(transformed(network, given).states, whole)
    assert 70 < kept < 130


def test_input_dropout_is_of_what_the_transformer_is_given() -> None:
    network = network_of("wav2vec2", replace(SPEECH, input_dropout=0.5)).train()
    normed = torch.randn(3, 40, 8)
    with seeded(0):
        given = given_frames(network, normed)
    assert 0.4 < (given == 0).float().mean() < 0.6
    kept = given != 0
    torch.testing.assert_close(given[kept], 2 * projected(network, normed)[kept])


def test_weights_begin_as_the_authors() -> None:
    config = SpeechNetwork(channels=(64, 96), kernels=(10, 3), strides=(5, 2), width=128, depth=2, heads=2,
                           position_kernel=16, position_groups=4)  # fmt: skip
    with seeded(0):
        network = speech_network("wav2vec2", config)
        other = speech_network("data2vec", replace(config, position_kernel=95))
    convs = [layer.conv.weight for layer in network.feature_extractor.conv_layers]
    for conv in convs:  # Kaiming's normal: deviation sqrt(2 / inputs)
        assert conv.std().item() == pytest.approx(math.sqrt(2 / conv[0].numel()), rel=0.1)
    positions = network.encoder.pos_conv_embed.conv
    assert positions.weight.std().item() == pytest.approx(math.sqrt(4 / (16 * 128)), rel=0.05)
    assert not positions.bias.any()
    block = network.encoder.layers[1]
    for linear in (block.attention.q_proj, block.attention.out_proj, block.feed_forward.intermediate_dense):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not linear.bias.any()
    projection = network.feature_projection.projection.weight
    assert projection.abs().max().item() == pytest.approx(1 / math.sqrt(96), rel=0.01)
    mask = network.masked_spec_embed
    assert 0 <= mask.min() < mask.max() <= 1
    assert mask.mean().item() == pytest.approx(0.5, abs=0.1)
    assert len(other.encoder.pos_conv_embed.layers) == 5
    assert other.encoder.pos_conv_embed.layers[0].conv.kernel_size == (19,)
    assert other.feature_extractor.conv_layers[1].layer_norm.weight.shape == (96,)


def test_frames_are_counted_as_the_convolutions_make_them() -> None:
    config = SpeechNetwork()
    assert config.stride == 320
    assert config.frames(250_000) == 781
    assert config.frames(400) == 1
    assert config.frames(399) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strides": (5,)}, "channels must be as many as kernels and strides"),
        ({"width": 30}, "width must be a multiple of heads"),
        ({"heads": 16, "position_groups": 5}, "width must be a multiple of position_groups"),
        ({"layer_drop": 1.0}, r"layer_drop must lie in \[0, 1\), got 1.0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SpeechNetwork(), **changes)


def test_data2vecs_network_has_no_norms_first() -> None:
    with pytest.raises(ValueError, match="norm_first must be off in data2vec's network"):
        speech_network("data2vec", replace(CONFIGS["data2vec"], norm_first=True))
