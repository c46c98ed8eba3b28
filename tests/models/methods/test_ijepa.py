"""I-JEPA: what the encoder, its slow copy and the predictor may know; the encoder beside `transformers`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.models import BackboneConfig, Context, build_method
from headrace.models.methods.masked.ijepa import IJEPAConfig
from headrace.models.parts.masked_vit import encode_visible
from headrace.models.parts.positions import sine_cosine
from headrace.pipeline import Batch, ContextMask, Loader
from headrace.shards import ShardSet
from headrace.tools.catalogue import inputs_of
from headrace.train.recipes import ijepa_imagenet
from tests.conftest import require_peer
from tests.models.authors_views import in_torchvisions_words, plain
from tests.models.tiny_methods import TINY, tiny


@pytest.fixture(scope="module")
def batch(digits_webdataset: ShardSet) -> Batch:
    with Loader(digits_webdataset, tiny("ijepa").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_view_and_masks() -> None:
    inputs: Any = inputs_of("ijepa")
    crop, _flip, *rest = plain(224, 0.3)
    assert in_torchvisions_words(inputs.views) == [(crop, 0.0, *rest)]
    assert inputs.views[0].interpolation == "bilinear"
    mask = ContextMask(
        grid=(16, 16), targets=4, target_scale=(0.15, 0.2), target_aspect=(0.75, 1.5), context_scale=(0.85, 1.0),
        smallest_context=11,
    )  # fmt: skip
    assert inputs.masks == (mask,)


def test_the_defaults_are_the_authors() -> None:
    config, run = IJEPAConfig(), ijepa_imagenet()
    assert (config.predictor_dim, config.predictor_depth, config.predictor_heads) == (384, 12, 16)
    assert (config.momentum, config.backbone.name) == (0.996, "vit_huge_patch14_224")
    assert (run.optim.weight_decay, run.schedule.final_weight_decay, run.optim.clip) == (0.04, 0.4, 0.0)
    assert run.optim.lr * run.schedule.final == pytest.approx(1e-6)
    assert (run.epochs, run.batch_size, run.schedule.warmup_epochs) == (300, 2048, 40)


def test_context_and_targets_share_no_patch(batch: Batch) -> None:
    (masks,) = batch.masks
    for row in range(8):
        context = set(masks.context[row, : masks.context_count[row]].tolist())
        for target, count in zip(masks.targets[row], masks.target_count[row], strict=True):
            assert not context & set(target[:count].tolist())


def test_targets_come_from_the_whole_view_with_mean_zero_and_variance_one(batch: Batch) -> None:
    method: Any = tiny("ijepa")
    (images,), (masks,) = batch.normalized(), batch.masks
    found = method.targets(images, masks.targets)
    some = found[torch.arange(masks.targets.shape[2]) < masks.target_count[..., None]]
    torch.testing.assert_close(some.mean(dim=-1), torch.zeros(len(some)), rtol=0, atol=1e-5)
    torch.testing.assert_close(some.var(dim=-1, correction=0), torch.ones(len(some)), rtol=0, atol=1e-3)
    whole = method.targets(images, torch.arange(16).expand(8, 1, 16))
    for row, (numbers, count) in enumerate(zip(masks.targets[:, 2], masks.target_count[:, 2], strict=True)):
        assert torch.equal(found[row, 2, :count], whole[row, 0, numbers[:count]])


def changed_at(images: Tensor, patch: int) -> Tensor:
    """With other pixels in one of 4 x 4 patches."""
    changed, (row, column) = images.clone(), divmod(patch, 4)
    changed[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.0
    return changed


def test_the_encoder_knows_its_context_only_and_the_slow_copy_all(batch: Batch) -> None:
    method: Any = tiny("ijepa").eval()
    (images,), (masks,) = batch.normalized(), batch.masks
    images = images.contiguous()
    hidden = int(masks.targets[0, 0, 0])
    changed = changed_at(images, hidden)
    seen = [encode_visible(method.student, x, masks.context, masks.context_count)[:1] for x in (images, changed)]
    count = int(masks.context_count[0])
    assert torch.equal(seen[0][:, :count], seen[1][:, :count])
    elsewhere = masks.targets[:1, 1:2, -1:].clamp(min=0)
    before, after = (method.targets(x[:1], elsewhere) for x in (images, changed))
    assert not torch.allclose(before, after)


def test_padding_changes_nothing(batch: Batch) -> None:
    """A sample with its own patches alone has the loss that it has among others."""
    method: Any = tiny("ijepa").eval()
    (images,), (masks,) = batch.normalized(), batch.masks
    encoded = encode_visible(method.student, images, masks.context, masks.context_count)
    predicted = method.predictor(encoded, *masks)
    for row in range(4):
        count, k = int(masks.context_count[row]), int(masks.target_count[row, 0])
        context, targets = masks.context[row : row + 1, :count], masks.targets[row : row + 1, :, :k]
        alone = encode_visible(method.student, images[row : row + 1], context)
        torch.testing.assert_close(alone[0], encoded[row, :count], rtol=1e-4, atol=1e-5)
        sizes = masks.context_count[row : row + 1], masks.target_count[row : row + 1]
        expected = method.predictor(alone, context, sizes[0], targets, sizes[1])
        torch.testing.assert_close(predicted[row : row + 1, :, :k], expected, rtol=1e-4, atol=1e-5)


def test_each_target_is_predicted_by_itself(batch: Batch) -> None:
    method: Any = tiny("ijepa").eval()
    (images,), (masks,) = batch.normalized(), batch.masks
    encoded = encode_visible(method.student, images, masks.context, masks.context_count)
    before = method.predictor(encoded, *masks)
    targets = masks.targets.clone()
    targets[:, 1, 0] = (targets[:, 1, 0] + 5) % 16
    after = method.predictor(encoded, masks.context, masks.context_count, targets, masks.target_count)
    others = [0, 2, 3]
    assert torch.equal(before[:, others], after[:, others])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_positions_are_fixed_and_the_mask_token_decays() -> None:
    method: Any = tiny("ijepa")
    torch.testing.assert_close(method.student.pos_embed[0], sine_cosine(4, 4, 24))
    assert not method.student.pos_embed.requires_grad
    kernels, vectors = method.parameter_groups()
    assert any(p is method.predictor.mask_token for p in kernels.params)
    assert vectors.decay_scale == 0
    assert all(p.ndim == 1 for p in vectors.params)
    assert not any(p.requires_grad for p in method.backbone.parameters())


def test_layers_are_not_drawn_smaller_with_depth() -> None:
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 2}
    backbone = BackboneConfig(name="vit_tiny_patch16_224", options=options)
    method: Any = build_method("ijepa", **{**TINY["ijepa"], "backbone": backbone})
    for block in method.student.blocks:
        for weight in (block.attn.qkv.weight, block.attn.proj.weight, block.mlp.fc1.weight, block.mlp.fc2.weight):
            assert weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not block.mlp.fc1.bias.any()
    assert method.student.patch_embed.proj.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_slow_copy_begins_equal_and_follows_on_a_line() -> None:
    method: Any = tiny("ijepa")
    slow, fast = method.backbone.blocks[0].mlp.fc1.weight, method.student.blocks[0].mlp.fc1.weight
    assert torch.equal(slow, fast)
    before = slow.clone()
    with torch.no_grad():
        fast.add_(1.0)
        where = {"steps_per_epoch": 10, "epochs": 10, "batch_size": 8}
        method.after_step(Context(step=0, epoch=0, **where))
        torch.testing.assert_close(slow - before, torch.full_like(slow, 1 - 0.996), rtol=1e-3, atol=1e-6)
        slow.copy_(before)
        method.after_step(Context(step=50, epoch=5, **where))
        torch.testing.assert_close(slow - before, torch.full_like(slow, 1 - 0.998), rtol=1e-3, atol=1e-6)


def test_with_the_same_weights_the_encoder_is_transformers(batch: Batch) -> None:
    require_peer("transformers")
    from transformers import IJepaConfig as TheirConfig
    from transformers import IJepaModel

    method: Any = tiny("ijepa").eval()
    judge = IJepaModel(
        TheirConfig(
            image_size=16, patch_size=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=96, layer_norm_eps=1e-6,
        )
    ).eval()  # fmt: skip
    names = {"pos_embed": "embeddings.position_embeddings", "norm": "layernorm"}
    names["patch_embed.proj"] = "embeddings.patch_embeddings.projection"
    inner = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj"}
    found: dict[str, Tensor] = {}
    for key, value in method.backbone.state_dict().items():
        part, _, kind = key.rpartition(".")
        if key == "pos_embed":
            found[names[key]] = value
        elif key.startswith("blocks."):
            _, number, part = part.split(".", 2)
            if part == "attn.qkv":
                for name, third in zip("qkv", value.chunk(3), strict=True):
                    found[f"layers.{number}.attention.{name}_proj.{kind}"] = third
            else:
                found[f"layers.{number}.{inner.get(part, part)}.{kind}"] = value
        else:
            found[f"{names[part]}.{kind}"] = value
    judge.load_state_dict(found)
    (images,) = batch.normalized()
    with torch.no_grad():
        theirs = judge(images).last_hidden_state
        torch.testing.assert_close(method.backbone.forward_features(images), theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(method.encode(batch), theirs.mean(dim=1), rtol=1e-4, atol=1e-5)


def test_pictures_are_the_view_the_context_and_the_targets(batch: Batch) -> None:
    method: Any = tiny("ijepa").eval()
    shown = method.pictures(batch)
    assert list(shown) == ["input", "context", "targets"]
    (masks,) = batch.masks
    for row in range(8):
        context = masks.context[row, : masks.context_count[row]]
        targets = torch.cat([t[:c] for t, c in zip(masks.targets[row], masks.target_count[row], strict=True)])
        for name, patches in (("context", context), ("targets", targets)):
            for patch in range(16):
                top, left = 4 * (patch // 4), 4 * (patch % 4)
                found = shown[name][row, :, top : top + 4, left : left + 4]
                expected = shown["input"][row, :, top : top + 4, left : left + 4]
                assert torch.equal(found, expected if patch in patches else torch.full_like(found, 0.5))


def test_another_kind_of_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"do not fit resnet18|must be one of timm's ViTs"):
        build_method("ijepa", **{**TINY["ijepa"], "backbone": BackboneConfig(name="resnet18")})
    options = {**TINY["ijepa"]["backbone"].options, "reg_tokens": 2}
    registers = BackboneConfig(name="vit_tiny_patch16_224", options=options)
    with pytest.raises(ValueError, match="without registers"):
        build_method("ijepa", **{**TINY["ijepa"], "backbone": registers})
