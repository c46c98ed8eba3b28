"""data2vec beside `transformers` with the same weights, and what its authors' code says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath

from headrace.models import Context, build_method
from headrace.models.methods.masked.data2vec import Data2VecConfig
from headrace.pipeline import Batch, BlockMask, Loader
from headrace.pipeline.masks import BlockMasks, draw_masks
from headrace.shards import ShardSet
from tests.conftest import require_peer
from tests.models.authors_views import IMAGENET, in_torchvisions_words
from tests.models.methods.test_beit import converted
from tests.models.tiny_methods import BEIT, TINY, tiny


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def hidden(batch: Batch) -> torch.Tensor:
    (masks,) = batch.masks
    assert isinstance(masks, BlockMasks)
    return masks.masked


def test_the_defaults_are_the_authors() -> None:
    config = Data2VecConfig()
    assert (config.beta, config.momentum, config.target_blocks) == (2.0, 0.9998, 6)
    with torch.device("meta"):
        method: Any = build_method("data2vec", config)
    jitter = (1.0, 0.4, 0.4, 0.4, 0.0)
    assert in_torchvisions_words(method.inputs.views) == [((224, 0.08, 1.0), 0.5, jitter, 0.0, (), 0.0, IMAGENET)]
    assert method.inputs.views[0].interpolation == "bicubic"
    assert method.inputs.masks == (BlockMask(grid=(14, 14), ratio=(120 / 196, 120 / 196), smallest=16),)
    (drawn,) = draw_masks(method.inputs.masks, 0, 0, np.arange(50))
    assert isinstance(drawn, BlockMasks)
    assert (drawn.masked.sum(dim=1) == 120).all()
    vit, slow = method.backbone, method.slow_backbone
    assert len(vit.blocks) == 12
    assert vit.blocks[11].drop_path1.drop_prob == pytest.approx(0.25)
    assert {block.attn.attn_drop.p for block in vit.blocks} == {0.05}
    assert {block.init_values for block in vit.blocks} == {1e-4}
    assert not any(isinstance(part, DropPath) for part in slow.modules())
    assert {block.attn.attn_drop.p for block in slow.blocks} == {0.0}
    assert method.predict.weight.shape == (768, 768)


def networks_of_transformers(method: Any) -> tuple[Any, Any]:
    """The network that is trained and the slow one, of a form without drops on `BEIT`, with their weights."""
    from transformers import Data2VecVisionConfig, Data2VecVisionModel

    options = {
        "image_size": 16, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 1,
        "intermediate_size": 96, "use_mask_token": True, "use_shared_relative_position_bias": True,
        "layer_scale_init_value": 0.1, "drop_path_rate": 0.0, "layer_norm_eps": 1e-6,
    }  # fmt: skip
    judge, teacher = (Data2VecVisionModel(Data2VecVisionConfig(**options), add_pooling_layer=False) for _ in range(2))
    for network, vit in ((judge, method.backbone), (teacher, method.slow_backbone)):
        network.load_state_dict(converted(vit, method.mask_token, "data2vec"))
    return judge, teacher


def target_of(teacher: Any, images: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Of the hidden patches (M, 24), the mean over both blocks."""
    layers = teacher(images, output_hidden_states=True).hidden_states[1:]
    return F.layer_norm(sum(F.layer_norm(x[:, 1:], (24,)) for x in layers) / 2, (24,))[masked]


def test_with_the_same_weights_it_is_the_network_of_transformers(digits_webdataset: ShardSet) -> None:
    """The slow one sees the whole view, the other one a mask token for each hidden patch; the target is the mean of the
    last blocks' outputs, both residuals added."""
    require_peer("transformers")
    method: Any = build_method("data2vec", **{**TINY["data2vec"], "target_blocks": 2, "backbone": BEIT})
    with torch.no_grad():
        for p in method.slow_backbone.parameters():
            p.add_(0.01 * torch.randn_like(p))
    judge, teacher = networks_of_transformers(method)
    batch = batch_of(method, digits_webdataset)
    (images,), masked = batch.normalized(), hidden(batch)
    with torch.no_grad():
        target = target_of(teacher, images, masked)
    tokens = judge(images, bool_masked_pos=masked).last_hidden_state[:, 1:][masked]
    prediction = F.linear(F.layer_norm(tokens, (24,), eps=1e-6), method.predict.weight.detach())
    theirs = F.smooth_l1_loss(prediction, target, beta=2.0)
    ours = method.loss(batch)["loss"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    names = dict(judge.named_parameters())
    vit = method.backbone
    pairs = [
        (method.mask_token.grad, names["embeddings.mask_token"].grad),
        (vit.patch_embed.proj.weight.grad, names["embeddings.patch_embeddings.projection.weight"].grad),
        (vit.rel_pos_bias.relative_position_bias_table.grad,
         names["encoder.relative_position_bias.relative_position_bias_table"].grad),
        (vit.blocks[0].attn.v_bias.grad, names["encoder.layer.0.attention.attention.value.bias"].grad),
        (vit.blocks[1].gamma_2.grad, names["encoder.layer.1.lambda_2"].grad),
    ]  # fmt: skip
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_slow_network_begins_as_the_other_and_gets_no_gradient(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("data2vec")
    fast, slow = method.backbone.state_dict(), method.slow_backbone.state_dict()
    assert fast.keys() == slow.keys()
    assert all(torch.equal(fast[key], slow[key]) for key in fast)
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in method.slow_backbone.parameters())


def test_all_weights_of_the_slow_network_follow_at_a_constant_pace() -> None:
    method: Any = build_method("data2vec", **TINY["data2vec"], momentum=0.75)
    before = [p.clone() for p in method.slow_backbone.parameters()]
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(1.0)
        for step in (0, 14):
            method.after_step(Context(step=step, epoch=step // 5, steps_per_epoch=5, epochs=3, batch_size=8))
    share = 1 - 0.75**2
    for old, new in zip(before, method.slow_backbone.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old + share)


def test_spread_is_zero_when_all_predictions_are_the_same(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("data2vec")
    batch = batch_of(method, digits_webdataset)
    assert method.loss(batch)["spread"] > 0
    torch.nn.init.zeros_(method.predict.weight)
    assert method.loss(batch)["spread"] == 0


def test_the_mask_token_decays_and_the_class_token_does_not() -> None:
    method: Any = tiny("data2vec")
    decayed, free = ({id(p) for p in group.params} for group in method.parameter_groups())
    vit = method.backbone
    assert {id(method.mask_token), id(vit.rel_pos_bias.relative_position_bias_table)} <= decayed
    assert {id(vit.cls_token), id(vit.blocks[0].gamma_1), id(vit.blocks[0].attn.q_bias)} <= free


def test_pictures_show_what_is_hidden(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("data2vec")
    batch = batch_of(method, digits_webdataset)
    shown = method.pictures(batch)
    assert list(shown) == ["input", "masked"]
    places = hidden(batch).unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    places = places.expand(-1, 3, -1, -1)
    torch.testing.assert_close(shown["input"], batch.views[0].float() / 255, rtol=0, atol=1e-6)
    assert (shown["masked"][places] == 0.5).all()
    assert torch.equal(shown["masked"][~places], shown["input"][~places])


def test_what_it_cannot_use_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target_blocks must be at most 2, the backbone's blocks, got 3"):
        build_method("data2vec", **{**TINY["data2vec"], "target_blocks": 3})
    with pytest.raises(ValueError, match=r"masked_patches must be below 16, the patches of a view, got 16"):
        build_method("data2vec", **{**TINY["data2vec"], "masked_patches": 16})
    with pytest.raises(ValueError, match=r"Data2VecConfig.backbone must be a Beit of timm's .* is not one"):
        build_method("data2vec", **{**TINY["data2vec"], "backbone": TINY["maskfeat"]["backbone"]})
