"""data2vec for sounds: targets, the slow transformer, and what fairseq's code says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.models import build_method
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, FrameSpanMask, Loader
from headrace.shards import ShardSet
from headrace.train.recipes import data2vec_audio_librispeech
from tests.models.methods.speech_contexts import context
from tests.models.tiny_methods import SPEECH, TINY

pytestmark = pytest.mark.peer("transformers", "soundfile")
PLAIN = replace(SPEECH, position_kernel=15, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0)


def data2vec(**changes: Any) -> Any:
    return build_method("data2vec_audio", **{**TINY["data2vec_audio"], "network": PLAIN, **changes})


@pytest.fixture(scope="module")
def batch(sounds_webdataset: ShardSet) -> Batch:
    with Loader(sounds_webdataset, data2vec().inputs, 4, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_crops_and_masks() -> None:
    network = replace(PLAIN, channels=(8,) * 7, kernels=(10, 3, 3, 3, 3, 2, 2), strides=(5, 2, 2, 2, 2, 2, 2), depth=8)
    method: Any = build_method("data2vec_audio", network=network)
    assert method.inputs.sounds[0].samples == 320_000
    assert method.inputs.masks == (FrameSpanMask(frames=999, ratio=0.65, span=10, smallest=1),)
    config = method.config
    assert (config.target_blocks, config.momentum, config.final_momentum) == (8, 0.999, 0.9999)


def test_the_published_run() -> None:
    config = data2vec_audio_librispeech()
    assert config.epochs * (281_241 // config.batch_size) == pytest.approx(400_000, rel=0.003)


def test_the_loss_is_that_of_transformers_states(batch: Batch) -> None:
    """Student: transformers' Data2VecAudioModel with the mask. Targets: its last blocks' second layers on the whole
    sound, caught with hooks, normalised and averaged."""
    method = data2vec(target_blocks=2).eval()  # else transformers hides frames of its own
    network = method.backbone
    (waves,), (mask,) = batch["sound"].waves, batch["sound"].masks
    normal = F.layer_norm(waves, waves.shape[1:])
    caught: list[torch.Tensor] = []
    handles = [
        block.feed_forward.output_dense.register_forward_hook(lambda _, given, made: caught.append(made))
        for block in network.encoder.layers
    ]
    with torch.no_grad():
        network(input_values=normal)
        for handle in handles:
            handle.remove()
        flags = torch.zeros(4, 40, dtype=torch.bool).scatter(1, mask.masked, True)
        states = network(input_values=normal, mask_time_indices=flags).last_hidden_state
        targets = sum(F.instance_norm(x.transpose(1, 2)).transpose(1, 2) for x in caught) / 2
        predictions = method.predict(states)
        expected = ((predictions - targets) ** 2).sum(dim=2)[flags].mean() / 16**0.5
        terms = method.loss(batch)
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-4, atol=1e-5)
    spread = (targets[flags].var(dim=0) + 1e-6).sqrt().mean()
    torch.testing.assert_close(terms["target_spread"], spread, rtol=1e-4, atol=1e-5)


def test_the_slow_transformer_never_sees_the_mask_nor_drops(batch: Batch) -> None:
    drops = replace(PLAIN, dropout=0.5, attention_dropout=0.5, input_dropout=0.5)
    method = data2vec(network=drops, target_blocks=2).train()
    assert method.training
    assert not any(module.training for module in method.slow.modules())
    seen: list[torch.Tensor] = []
    method.slow.encoder.pos_conv_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for seed in range(2):
        with seeded(seed):
            method.loss(batch)
    method.backbone.masked_spec_embed.data.add_(3.0)
    with seeded(0):
        method.loss(batch)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_the_slow_transformer_has_no_gradient_and_follows() -> None:
    method = data2vec(momentum=0.9, final_momentum=0.99, momentum_steps=10)
    assert not any(parameter.requires_grad for parameter in method.slow.parameters())
    assert not hasattr(method.slow, "feature_extractor")
    network = method.backbone
    for parameter in network.parameters():
        parameter.data.add_(1.0)
    before = {name: x.clone() for name, x in method.slow.encoder.named_parameters()}
    with torch.no_grad():
        method.after_step(context(4))
    momentum = 0.9 + 0.09 * 5 / 10
    for name, slow in method.slow.encoder.named_parameters():
        fast = network.encoder.get_parameter(name)
        if name.startswith("pos_conv_embed"):
            assert torch.equal(slow, fast), name
        else:
            torch.testing.assert_close(slow, momentum * before[name] + (1 - momentum) * fast)
    with torch.no_grad():
        before = {name: x.clone() for name, x in method.slow.encoder.named_parameters()}
        for parameter in network.parameters():
            parameter.add_(1.0)
        method.after_step(context(50))
    name = "layers.0.feed_forward.output_dense.weight"
    fast, slow = network.encoder.get_parameter(name), method.slow.encoder.get_parameter(name)
    torch.testing.assert_close(slow, 0.99 * before[name] + 0.01 * fast)


def test_features_are_of_normalised_waves(batch: Batch) -> None:
    """Louder sounds are no others."""
    method = data2vec().eval()
    (waves,) = batch["sound"].waves
    louder = replace(batch["sound"], waves=[3 * waves + 0.1])
    with torch.no_grad():
        features = method.encode(batch)
        again = method.encode(replace(batch, streams={"sound": louder}))
        expected = method.backbone(input_values=F.layer_norm(waves, waves.shape[1:])).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(features, again, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_blocks": 3}, "target_blocks must be 1 to 2, the network's blocks, got 3"),
        ({"momentum": 1.5}, r"momentum must lie in \[0, 1\], got 1.5"),
        ({"samples": 100}, "samples must give more than 4 frames, got 100"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        data2vec(**changes)
