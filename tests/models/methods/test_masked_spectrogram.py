"""Masked spectrograms beside `transformers` with the same weights, the decoder's windows beside a loop, and what the
authors' code says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.models import BackboneConfig, build_method
from headrace.models.losses import masked_patch_loss, normalize_patches
from headrace.models.methods.sound.masked_spectrogram import MaskedSpectrogramConfig
from headrace.models.parts.masked_vit import MaskedDecoder, encode_visible, patchify, unpatchify
from headrace.models.parts.positions import sine_cosine
from headrace.models.parts.windowed_decoder import WindowedDecoder
from headrace.pipeline import Batch, Loader, Mel, RandomMask, SoundSpec
from headrace.shards import ShardSet
from headrace.train.optim import peak_lr
from headrace.train.recipes import masked_spectrogram_audioset
from tests.conftest import require_peer
from tests.models.methods.test_mae import converted, hugging
from tests.models.tiny_methods import TINY, tiny

NARROW = BackboneConfig(name="vit_base_patch16_224", options={"embed_dim": 24, "depth": 1, "num_heads": 2})


def batch_of(method: Any, shards: ShardSet, samples: int = 8) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_spectrogram_and_mask() -> None:
    """Ten seconds in 1024 frames of 128 bands; 102 of 512 patches are seen."""
    method: Any = build_method("masked_spectrogram", backbone=NARROW, decoder_dim=32, decoder_depth=2)
    assert isinstance(method.inputs, SoundSpec)
    (sound,) = method.inputs.sounds
    assert (sound.rate, sound.shape, sound.place, sound.short) == (16_000, (1, 1024, 128), "start", "pad")
    assert sound.mel == Mel(bins=128, window=400, hop=160, fft=512, mean=-4.2677393, std=2 * 4.5689974)
    assert sound.samples == 1023 * 160 + 400
    (mask,) = method.inputs.masks
    assert mask == RandomMask(grid=(64, 8), ratio=0.8)
    assert mask.draw(0, 0, np.arange(3), 0).visible.shape == (3, 102)
    assert method.probe_inputs == SoundSpec([replace(sound, gain=(0.0, 0.0))])


def test_the_gain_has_the_deviation_of_the_authors_factor() -> None:
    """Theirs is Beta(10, 10) + 0.5; in dB."""
    random = np.random.Generator(np.random.Philox(0))
    theirs = 20 * np.log10(random.beta(10, 10, 100_000) + 0.5)
    low, high = MaskedSpectrogramConfig().gain
    assert (high - low) / np.sqrt(12) == pytest.approx(theirs.std(), rel=0.02)


def test_the_published_run() -> None:
    config = masked_spectrogram_audioset()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(2e-4 * 512 / 256)
    assert (config.epochs, config.batch_size, config.schedule.warmup_epochs) == (33, 512, 3)
    assert (config.optim.name, config.optim.weight_decay, config.optim.betas) == ("adamw", 1e-4, (0.9, 0.95))
    assert config.model == MaskedSpectrogramConfig()


def test_patches_of_a_spectrogram_come_back() -> None:
    mels = torch.randn(2, 1, 96, 64)
    patches = patchify(mels, 8)
    assert patches.shape == (2, 96, 64)
    assert torch.equal(patches[1, 9], mels[1, 0, 8:16, 8:16].flatten())  # second time, second band
    assert torch.equal(unpatchify(patches, 8, 12), mels)


def test_a_decoder_that_says_zero_is_at_chance() -> None:
    target = normalize_patches(patchify(torch.randn(4, 1, 64, 32), 16))
    loss = masked_patch_loss(torch.zeros_like(target), target, torch.ones(4, 8, dtype=torch.bool))
    assert loss.item() == pytest.approx(255 / 256, abs=1e-5)


def test_hidden_patches_do_not_reach_the_encoder(sounds_webdataset: ShardSet) -> None:
    method: Any = tiny("masked_spectrogram").eval()
    batch = batch_of(method, sounds_webdataset)
    (mels,), (masks,) = batch["sound"].mels, batch.masks
    hidden = torch.ones(8, 16, dtype=torch.bool).scatter(1, masks.visible, False)
    patches = patchify(mels, 4)
    changed = unpatchify(torch.where(hidden[:, :, None], torch.randn_like(patches), patches), 4, 4)
    assert not torch.equal(mels, changed)
    with torch.no_grad():
        first, second = (encode_visible(method.backbone, x, masks.visible) for x in (mels, changed))
    assert torch.equal(first, second)


def test_twice_as_loud_has_the_same_targets(sounds_webdataset: ShardSet) -> None:
    """But where the power lies at the floor."""
    plain: Any = tiny("masked_spectrogram").inputs
    targets = []
    for gain in (0.0, 6.0):
        spec = SoundSpec([replace(plain.sounds[0], gain=(gain, gain))])
        with Loader(sounds_webdataset, spec, 8, threads=1) as loader:
            targets.append(normalize_patches(patchify(next(iter(loader))["sound"].mels[0], 4)))
    torch.testing.assert_close(targets[0], targets[1], atol=2e-2, rtol=0)


@pytest.mark.parametrize("normalize", [True, False])
def test_pictures_are_the_spectrogram_without_and_with_what_was_hidden(
    normalize: bool, sounds_webdataset: ShardSet
) -> None:
    method: Any = build_method("masked_spectrogram", **{**TINY["masked_spectrogram"], "normalize_targets": normalize})
    batch = batch_of(method.eval(), sounds_webdataset)
    (mels,), (masks,) = batch["sound"].mels, batch.masks
    shown = method.pictures(batch)
    assert list(shown) == ["input", "masked", "reconstruction"]
    hidden = torch.ones(8, 16, dtype=torch.bool).scatter(1, masks.visible, False)
    frames = unpatchify(hidden[:, :, None].expand(-1, -1, 16).float(), 4, 4)  # (B, 1, times, bands)
    where = frames.transpose(2, 3).flip(2).expand(-1, 3, -1, -1) == 1
    for picture in shown.values():
        assert picture.shape == (8, 3, 16, 16)
        assert picture.dtype == torch.float32
        assert 0 <= picture.min() <= picture.max() <= 1
    loudest = (
        mels[3, 0].flatten().argmax().item()
    )  # its place in the picture: right by its time, down from the top band
    assert shown["input"][3, :, 15 - loudest % 16, loudest // 16].tolist() == [1, 1, 1]
    assert (shown["masked"][where] == 0.5).all()
    for name in ("masked", "reconstruction"):
        assert torch.equal(shown[name][~where], shown["input"][~where])
    assert not torch.equal(shown["reconstruction"][where], shown["input"][where])


def test_positions_are_of_time_and_band(sounds_webdataset: ShardSet) -> None:
    method: Any = build_method("masked_spectrogram", backbone=NARROW, decoder_dim=32, decoder_depth=1)
    assert torch.equal(method.backbone.pos_embed[0, 1:], sine_cosine(64, 8, 24))
    assert torch.equal(method.decoder.positions, sine_cosine(64, 8, 32))
    assert not method.backbone.pos_embed.requires_grad


def test_with_the_same_weights_it_is_transformers_with_its_gradient(sounds_webdataset: ShardSet) -> None:
    """ViTMAE of one channel, which has attention among all patches."""
    require_peer("transformers")
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    method: Any = build_method(
        "masked_spectrogram", **{**TINY["masked_spectrogram"], "decoder_window": None, "decoder_depth": 1}
    ).train()
    config = hugging(ViTMAEConfig)
    config.num_channels = 1
    judge = ViTMAEForPreTraining(config).train()
    judge.load_state_dict(converted(method))
    batch = batch_of(method, sounds_webdataset)
    (masks,) = batch.masks
    # Noise whose order keeps the visible patches, in their order, and then the others.
    noise = torch.ones(8, 16).scatter(1, masks.visible, torch.linspace(0, 0.5, 4).expand(8, 4))
    theirs = judge(batch["sound"].mels[0], noise=noise).loss
    ours = method.loss(batch)["loss"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    by_name = dict(judge.named_parameters())
    for gradient, name in (
        (method.backbone.patch_embed.proj.weight.grad, "vit.embeddings.patch_embeddings.projection.weight"),
        (method.decoder.mask_token.grad, "decoder.mask_token"),
    ):
        torch.testing.assert_close(gradient, by_name[name].grad, rtol=1e-4, atol=1e-6)


def plain_block(block: Any, grid: Tensor, window: tuple[int, int], shift: int) -> Tensor:
    """One sample's Swin block, patch by patch: (rows, columns, D) to the same."""
    rows, columns, dim = grid.shape
    heads = block.attn.num_heads
    weights, biases = block.attn.qkv.weight, block.attn.qkv.bias
    mixed = torch.empty_like(grid)
    for row in range(rows):
        for column in range(columns):
            # Rows move up by the shift and around; what was moved around does not mix with what was not.
            moved = (row - shift) % rows
            first = moved - moved % window[0]
            around = moved >= rows - shift
            near = [
                ((other + shift) % rows, b, other)
                for other in range(first, first + window[0])
                for b in range(columns)
                if b // window[1] == column // window[1] and (other >= rows - shift) == around
            ]
            parts = []
            for head in range(heads):
                at = slice(head * dim // heads, (head + 1) * dim // heads)
                query, key, value = ((weights[k * dim :][at], biases[k * dim :][at]) for k in range(3))
                asks = query[0] @ grid[row, column] + query[1]
                scores, values = [], []
                for r, b, other in near:
                    answers = key[0] @ grid[r, b] + key[1]
                    cosine = asks @ answers / (asks.norm() * answers.norm())
                    distance = torch.tensor([float(moved - other), float(column - b)], dtype=grid.dtype)
                    bias = block.attn.meta_mlp(distance.sign() * (1 + distance.abs()).log())[head]
                    scores.append(cosine * block.attn.logit_scale[head].exp() + bias)
                    values.append(value[0] @ grid[r, b] + value[1])
                parts.append(torch.stack(scores).softmax(0) @ torch.stack(values))
            mixed[row, column] = block.attn.proj(torch.cat(parts))
    grid = grid + block.norm1(mixed)
    return grid + block.norm2(block.mlp(grid))


@torch.no_grad()
def test_windows_are_those_of_a_slow_loop() -> None:
    """Every other block is shifted by half a window of times, and none by bands."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = WindowedDecoder(6, (8, 4), (4, 2), dim=8, depth=2, heads=2, numbers=5).double().eval()
        for parameter in decoder.parameters():
            parameter.normal_(std=0.5)
        encoded, positions = torch.randn(2, 8, 6).double(), torch.randperm(32)[:7].expand(2, 7)
    found = decoder(encoded, positions)
    whole = decoder.all_tokens(decoder.embed(encoded), positions).reshape(2, 8, 4, 8)
    for row in range(2):
        grid = whole[row]
        for block, shift in zip(decoder.blocks, (0, 2), strict=True):
            grid = plain_block(block, grid, (4, 2), shift)
        expected = decoder.predict(decoder.norm(grid)).flatten(0, 1)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-7)  # timm's distances are float32
    wanted = torch.tensor([[3, 1], [0, 31]])
    torch.testing.assert_close(decoder(encoded, positions, wanted)[1, 1], found[1, 31])


def test_the_decoder_begins_as_the_authors() -> None:
    """16 blocks, temperatures of one, norms of one, dropout in the positions' network alone."""
    method: Any = build_method("masked_spectrogram", backbone=NARROW)
    assert isinstance(method.decoder, WindowedDecoder)
    assert len(method.decoder.blocks) == 16
    for number, block in enumerate(method.decoder.blocks):
        assert (block.window_size, tuple(block.shift_size)) == ((4, 4), (2 * (number % 2), 0))
        assert not block.attn.logit_scale.any()
        assert (block.norm1.weight == 1).all()
        assert {name: layer.p for name, layer in block.named_modules() if getattr(layer, "p", 0)} == {
            "attn.meta_mlp.drop1": 0.1,
            "attn.meta_mlp.drop2": 0.1,
        }


def test_features_are_the_mean_before_the_last_norm_and_normalised(sounds_webdataset: ShardSet) -> None:
    method: Any = tiny("masked_spectrogram").eval()
    with Loader(sounds_webdataset, method.probe_inputs, 4, threads=1) as loader, torch.no_grad():
        batch = next(iter(loader))
        features = method.encode(batch)
        seen: list[Tensor] = []
        method.backbone.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        method.backbone(batch["sound"].mels[0])
    mean = seen[0][:, 1:].mean(dim=1)
    expected = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_the_decoder_among_all_is_maes() -> None:
    method: Any = build_method("masked_spectrogram", **{**TINY["masked_spectrogram"], "decoder_window": None})
    assert type(method.decoder) is MaskedDecoder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder_dim": 15}, "decoder_dim must be a multiple of decoder_heads"),
        ({"frames": 18}, r"frames and mel.bins must be multiples of the backbone's patches of 4, got \(18, 16\)"),
        ({"decoder_window": (3, 2)}, "a grid of 4 x 4 patches has no whole windows of 3 x 2"),
        (
            {"backbone": BackboneConfig(name="mixer_b16_224")},
            "backbone must be a ViT with a class token, mixer_b16_224 is not one",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_method("masked_spectrogram", **{**TINY["masked_spectrogram"], **changes})
