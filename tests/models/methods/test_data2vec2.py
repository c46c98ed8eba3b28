"""data2vec 2.0: blocks beside torch's, targets, what stands for hidden patches, and what the encoder may know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headrace.models import BackboneConfig, Context, build_method
from headrace.models.methods.masked.data2vec2 import ConvolutionalDecoder, Data2Vec2Config
from headrace.models.parts.masked_vit import patchify, unpatchify
from headrace.models.parts.positions import sine_cosine
from headrace.models.parts.post_norm_vit import PostNormBlock
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, InverseBlockMask, Loader, Normalize
from headrace.pipeline.masks import draw_masks
from headrace.shards import ShardSet
from headrace.tools.catalogue import inputs_of
from headrace.train.recipes import data2vec2_imagenet
from tests.models.authors_views import in_torchvisions_words, plain
from tests.models.tiny_methods import TINY, tiny


@pytest.fixture(scope="module")
def batch(digits_webdataset: ShardSet) -> Batch:
    with Loader(digits_webdataset, tiny("data2vec2").inputs, 8, threads=1) as loader:
        return next(iter(loader))


@pytest.mark.parametrize(
    ("settings", "mask", "visible"),
    [
        ({}, InverseBlockMask(grid=(14, 14), ratio=0.8, adjust=0.07, side=3), 39),
        ({"mask_ratio": 0.75, "mask_adjust": 0.1}, InverseBlockMask(grid=(14, 14), ratio=0.75, adjust=0.1, side=3), 49),
    ],
    ids=["base", "large"],
)
def test_it_asks_for_the_authors_view_and_masks(settings: Any, mask: InverseBlockMask, visible: int) -> None:
    inputs: Any = inputs_of("data2vec2", Data2Vec2Config(**settings))
    assert in_torchvisions_words(inputs.views) == [plain(224, 0.2)]
    assert inputs.views[0].interpolation == "bicubic"
    assert inputs.masks == (mask,) * 16
    drawn: Any = draw_masks(inputs.masks, 0, 0, np.arange(20))
    assert all(each.visible.shape == (20, visible) for each in drawn)
    assert not torch.equal(drawn[0].visible, drawn[1].visible)


def test_the_defaults_are_the_authors() -> None:
    config, run = Data2Vec2Config(), data2vec2_imagenet()
    decoder = config.decoder_dim, config.decoder_depth, config.decoder_kernel, config.decoder_groups
    assert decoder == (768, 6, 3, 16)
    assert (config.top_layers, config.mask_noise, config.momentum, config.final_momentum) == (10, 0.01, 0.9998, 0.99999)
    assert config.class_weight == pytest.approx(0.01 * 16 * 16)
    steps = run.epochs * (1_281_167 // run.batch_size)
    assert steps == 375_300
    assert config.annealed * steps == pytest.approx(100_000)
    assert run.schedule.warmup_epochs * (1_281_167 // run.batch_size) == 50_040
    assert (run.optim.betas, run.optim.clip) == ((0.9, 0.95), 4.0)


def test_a_block_is_torchs_with_norms_behind_the_sums() -> None:
    with seeded(0):
        block = PostNormBlock(16, 2, qkv_bias=True).eval()
        judge = nn.TransformerEncoderLayer(16, 2, 64, 0.0, F.gelu, 1e-6, batch_first=True, norm_first=False).eval()
        x = torch.randn(3, 5, 16)
    pairs = {
        "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2.",
    }  # fmt: skip
    state = block.state_dict()
    judge.load_state_dict({a + kind: state[b + kind] for a, b in pairs.items() for kind in ("weight", "bias")})
    found, added = block.parts(x)
    torch.testing.assert_close(found, judge(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(block(x), found)
    middle = block.norm1(x + block.attn(x))
    torch.testing.assert_close(added, block.mlp(middle))
    torch.testing.assert_close(found, block.norm2(middle + added))


def test_norms_stand_in_front_of_the_first_block_and_not_behind_the_last(batch: Batch) -> None:
    vit: Any = tiny("data2vec2").backbone
    assert isinstance(vit.norm_pre, nn.LayerNorm)
    assert isinstance(vit.norm, nn.Identity)
    assert isinstance(vit.fc_norm, nn.Identity)
    assert all(isinstance(block, PostNormBlock) for block in vit.blocks)
    assert vit.patch_embed.proj.bias is not None


def test_it_begins_as_the_authors() -> None:
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 192, "depth": 2, "num_heads": 2}
    backbone = BackboneConfig(name="vit_tiny_patch16_224", options=options)
    method: Any = build_method("data2vec2", **{**TINY["data2vec2"], "backbone": backbone})
    vit = method.backbone
    for block in vit.blocks:
        for weight in (block.attn.qkv.weight, block.attn.proj.weight, block.mlp.fc1.weight, block.mlp.fc2.weight):
            assert weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert weight.abs().max() > 0.04  # not truncated at two deviations
        assert not block.attn.qkv.bias.any()
    assert vit.cls_token.std().item() == pytest.approx(1.0, rel=0.2)
    bound = (6 / (192 + 48)) ** 0.5
    assert 0.95 * bound < vit.patch_embed.proj.weight.abs().max().item() <= bound
    torch.testing.assert_close(vit.pos_embed[0, 1:], sine_cosine(4, 4, 192))
    assert not vit.pos_embed[0, 0].any()
    assert not vit.pos_embed.requires_grad
    kernels, _ = method.parameter_groups()
    assert any(p is vit.cls_token for p in kernels.params)


def test_targets_are_of_the_whole_view_with_mean_zero_and_variance_one(batch: Batch) -> None:
    method: Any = tiny("data2vec2")
    (images,) = batch.normalized()
    found = method.targets(images)
    assert found.shape == (8, 16, 24)
    torch.testing.assert_close(found.mean(dim=-1), torch.zeros(8, 16), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var(dim=-1, correction=0), torch.ones(8, 16), rtol=0, atol=1e-3)


def test_targets_come_from_the_last_blocks_mlps(batch: Batch) -> None:
    """Scaled and shifted by channel as instances are normalised, without the class token."""
    method: Any = tiny("data2vec2").eval()
    outputs: list[torch.Tensor] = []
    method.slow.blocks[-1].mlp.register_forward_hook(lambda module, given, made: outputs.append(made[:, 1:]))
    (images,) = batch.normalized()
    found = method.targets(images)
    (made,) = outputs
    deviation, mean = torch.std_mean(made, dim=1, keepdim=True, correction=0)
    normal = (made - mean) / (deviation.square() + 1e-5).sqrt()
    torch.testing.assert_close(found, F.layer_norm(normal, (24,)), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        method.slow.blocks[-1].mlp.fc2.bias[3] += 5.0
        torch.testing.assert_close(method.targets(images), found, rtol=1e-3, atol=1e-3)


def test_the_encoder_knows_the_visible_patches_alone(batch: Batch) -> None:
    method: Any = tiny("data2vec2").eval()
    (images,) = batch.normalized()
    images = images.contiguous()
    visible = torch.stack([mask.visible for mask in batch.masks], dim=1)
    assert visible.shape == (8, 3, 4)
    tokens = method.see(images, visible)
    assert tokens.shape == (24, 5, 24)
    for version in range(3):
        hidden = torch.ones(8, 16, dtype=torch.bool).scatter(1, visible[:, version], False)
        patches = patchify(images, 4)
        changed = unpatchify(torch.where(hidden[:, :, None], torch.randn_like(patches), patches), 4, 4)
        found = method.see(changed, visible[:, version : version + 1])
        torch.testing.assert_close(found, tokens.unflatten(0, (8, 3))[:, version], rtol=1e-5, atol=1e-6)


def test_noise_stands_for_hidden_patches_in_training() -> None:
    method: Any = build_method("data2vec2", **{**TINY["data2vec2"], "mask_noise": 0.3}).train()
    tokens, visible = torch.randn(64, 4, 24), torch.tensor([[0, 3, 7, 15]]).expand(64, -1)
    with seeded(0):
        whole = method.with_noise(tokens, visible)
    assert torch.equal(whole[:, [0, 3, 7, 15]], tokens)
    others = [place for place in range(16) if place not in (0, 3, 7, 15)]
    assert whole[:, others].std().item() == pytest.approx(0.3, rel=0.02)
    assert not method.eval().with_noise(tokens, visible)[:, others].any()


def test_the_decoder_adds_what_it_was_given_where_widths_agree() -> None:
    for width in (24, 16):
        with seeded(0):
            decoder = ConvolutionalDecoder(24, (4, 4), dim=width, depth=2, kernel=3, groups=4).eval()
            tokens = torch.randn(2, 16, 24)
        x = tokens.transpose(1, 2).reshape(2, 24, 4, 4)
        for number, convolution in enumerate(decoder.convolutions):
            y = convolution(x)
            deviation, mean = torch.std_mean(y, dim=1, keepdim=True, correction=0)
            y = F.gelu((y - mean) / (deviation.square() + 1e-5).sqrt())
            x = y if number == 0 and width != 24 else x + y
        expected = decoder.predict(x.flatten(2).transpose(1, 2))
        torch.testing.assert_close(decoder(tokens), expected, rtol=1e-4, atol=1e-5)
    names = {name.split(".")[0] for name, _ in decoder.named_parameters()}
    assert names == {"convolutions", "predict"}  # norms have no weights, and nothing stands for a place


def test_the_loss_is_that_of_hidden_patches_and_of_the_class_token(batch: Batch) -> None:
    method: Any = tiny("data2vec2").eval()
    (images,) = batch.normalized()
    with torch.no_grad():
        targets = method.targets(images)
        patches, tokens = [], []
        for mask in batch.masks:
            seen = method.see(images, mask.visible[:, None])
            decoded = method.decoder(method.with_noise(seen[:, 1:], mask.visible))
            for row in range(8):
                patches += [
                    float((decoded[row, patch] - targets[row, patch]).square().sum()) / 24**0.5
                    for patch in mask.masked[row].tolist()
                ]
                tokens.append(float((seen[row, 0] - targets[row].mean(dim=0)).square().sum()) / 24**0.5)
        terms = method.loss(batch)
    assert terms["patches"].item() == pytest.approx(np.mean(patches), rel=1e-4)
    assert terms["class"].item() == pytest.approx(np.mean(tokens), rel=1e-4)
    assert terms["loss"].item() == pytest.approx(np.mean(patches) + 0.5 * np.mean(tokens), rel=1e-4)


def test_the_slow_copy_follows_on_a_line_up_to_the_end_of_the_annealing() -> None:
    method: Any = build_method(
        "data2vec2", **{**TINY["data2vec2"], "momentum": 0.9, "final_momentum": 0.98, "annealed": 0.4}
    )
    slow, fast = method.slow.blocks[0].mlp.fc1.weight, method.backbone.blocks[0].mlp.fc1.weight
    assert torch.equal(slow, fast)
    before = slow.clone()
    with torch.no_grad():
        fast.add_(1.0)
        # fairseq: end - (end - start) * (1 - n / 40) behind step number n, which counts from 1
        for step, momentum in [(0, 0.98 - 0.08 * (1 - 1 / 40)), (19, 0.94), (39, 0.98), (90, 0.98)]:
            slow.copy_(before)
            method.after_step(Context(step=step, epoch=0, steps_per_epoch=100, epochs=1, batch_size=8))
            torch.testing.assert_close(slow - before, torch.full_like(slow, 1 - momentum), rtol=1e-4, atol=1e-6)


def test_probes_see_the_mean_of_the_patches(batch: Batch) -> None:
    method: Any = tiny("data2vec2").eval()
    (images,) = batch.normalized()
    with torch.no_grad():
        everything = method.see(images, torch.arange(16).expand(8, 1, 16))
        torch.testing.assert_close(method.encode(batch), everything[:, 1:].mean(dim=1), rtol=1e-4, atol=1e-5)


def test_pictures_are_the_view_and_what_is_seen_of_it(batch: Batch) -> None:
    method: Any = tiny("data2vec2").eval()
    shown = method.pictures(batch)
    assert list(shown) == ["input", "masked"]
    seen = torch.zeros(8, 16, dtype=torch.bool).scatter(1, batch.masks[0].visible, True)
    places = seen.unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(shown["masked"][places], shown["input"][places])
    assert (shown["masked"][~places] == 0.5).all()
    other: Any = build_method("data2vec2", **TINY["data2vec2"], normalize=Normalize.lab())
    assert other.pictures(batch) == {}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Data2Vec2Config.top_layers must be at most the backbone's 2 blocks"):
        build_method("data2vec2", **{**TINY["data2vec2"], "top_layers": 3})
    with pytest.raises(ValueError, match=r"Data2Vec2Config.decoder_kernel must be odd, got 2"):
        build_method("data2vec2", **{**TINY["data2vec2"], "decoder_kernel": 2})
    with pytest.raises(ValueError, match=r"do not fit resnet18|must be one of timm's ViTs"):
        build_method("data2vec2", **{**TINY["data2vec2"], "backbone": BackboneConfig(name="resnet18")})
