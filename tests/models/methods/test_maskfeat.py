"""What the authors' code says of MaskFeat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from headrace.models import BackboneConfig, build_method
from headrace.models.losses import cells_of_patches, oriented_gradients
from headrace.models.methods.masked.maskfeat import MaskFeatConfig
from headrace.models.parts.beit import tiny_beit
from headrace.pipeline import Batch, BlockMask, Loader
from headrace.pipeline.masks import BlockMasks, draw_masks
from headrace.shards import ShardSet
from tests.models.authors_views import in_torchvisions_words, plain
from tests.models.tiny_methods import TINY, VIT, tiny


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def hidden(batch: Batch) -> torch.Tensor:
    (masks,) = batch.masks
    assert isinstance(masks, BlockMasks)
    return masks.masked


def test_it_asks_for_the_authors_view_and_blocks() -> None:
    """78 of 196 patches, in blocks of at least 15."""
    with torch.device("meta"):
        method: Any = build_method("maskfeat")
    assert in_torchvisions_words(method.inputs.views) == [plain(224, 0.5)]
    assert method.inputs.views[0].interpolation == "bicubic"
    assert method.inputs.masks == (BlockMask(grid=(14, 14), ratio=(78 / 196, 78 / 196), smallest=15),)
    (drawn,) = draw_masks(method.inputs.masks, 0, 0, np.arange(50))
    assert isinstance(drawn, BlockMasks)
    assert (drawn.masked.sum(dim=1) == 78).all()
    assert method.predict.weight.shape == (108, 768)
    assert method.backbone.pos_embed.requires_grad
    assert method.backbone.cls_token is not None


def test_a_decoder_that_says_zero_has_a_ninth_for_a_loss() -> None:
    """12 vectors of length 1 among 108 numbers, where every cell has a texture."""
    backbone = BackboneConfig(name="vit_tiny_patch16_224", options={"embed_dim": 24, "depth": 1, "num_heads": 2})
    method: Any = build_method("maskfeat", size=48, backbone=backbone)
    torch.nn.init.zeros_(method.predict.weight)
    masked = torch.zeros(4, 9, dtype=torch.bool)
    masked[:, :4] = True
    images = torch.randn(4, 3, 48, 48)
    assert method.hidden == 4

    class OneBatch:
        masks = (BlockMasks(masked, masked.sum(dim=1)),)

        def normalized(self) -> list[torch.Tensor]:
            return [images]

    loss = method.loss(OneBatch())["loss"]
    assert loss.item() == pytest.approx(12 / 108, rel=1e-5)


def test_the_loss_is_the_error_of_hidden_patches_alone(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("maskfeat").eval()
    batch = batch_of(method, digits_webdataset)
    (images,) = batch.normalized()
    target = cells_of_patches(oriented_gradients(images, 2), 2)
    assert target.shape == (8, 16, 108)
    tokens = []
    method.predict.register_forward_pre_hook(lambda _, given: tokens.append(given[0].detach()))
    found = method.loss(batch)["loss"].item()
    assert tokens[0].shape == (8, 6, 24)  # round(0.4 * 16)
    prediction = method.predict.weight.new_zeros(8, 16, 108).double()
    where = hidden(batch)
    prediction[where] = method.predict(tokens[0]).double().flatten(0, 1).detach()
    errors = [
        float((prediction[i, j] - target[i, j].double()).square().mean())
        for i in range(8)
        for j in range(16)
        if where[i, j]
    ]
    assert len(errors) == 48
    assert found == pytest.approx(sum(errors) / 48, rel=1e-5)


def test_weights_start_as_the_authors_do() -> None:
    """Biases of 0.02, of norms as well, but for those of the head and of the norm in front of it."""
    method: Any = build_method("maskfeat", size=16, cell=2, backbone=VIT)
    vit = method.backbone
    for layer in (vit.blocks[0].attn.qkv, vit.blocks[1].mlp.fc2, vit.blocks[0].norm1):
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.02))
    assert not vit.norm.bias.any()
    assert not method.predict.bias.any()
    for tensor in (vit.blocks[0].mlp.fc1.weight, vit.patch_embed.proj.weight, vit.pos_embed, method.predict.weight):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.1)
    assert method.mask_token.any()


def test_only_vectors_are_spared_the_decay() -> None:
    method: Any = tiny("maskfeat")
    decayed, free = ({id(p) for p in group.params} for group in method.parameter_groups())
    for token in (method.mask_token, method.backbone.cls_token, method.backbone.pos_embed):
        assert id(token) in decayed
    assert id(method.backbone.norm.weight) in free


def test_pictures_are_gradients_seen_and_predicted(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("maskfeat").eval()
    batch = batch_of(method, digits_webdataset)
    shown = method.pictures(batch)
    assert list(shown) == ["input", "masked", "prediction"]
    places = hidden(batch).unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    places = places.expand(-1, 3, -1, -1)
    for picture in shown.values():
        assert picture.shape == (8, 3, 16, 16)
        assert 0 <= picture.min() < picture.max() <= 1
    assert not shown["masked"][places].any()
    for name in ("masked", "prediction"):
        assert torch.equal(shown[name][~places], shown["input"][~places])
    assert not torch.equal(shown["prediction"][places], shown["input"][places])


def test_what_it_cannot_use_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a ViT of timm's .* beit_base_patch16_224 .* is not one"):
        build_method("maskfeat", backbone=tiny_beit())
    with pytest.raises(ValueError, match=r"with its norm before features are pooled"):
        build_method(
            "maskfeat", **{**TINY["maskfeat"], "backbone": replace(VIT, options=VIT.options | {"global_pool": "avg"})}
        )
    with pytest.raises(ValueError, match=r"cell must divide the patches, which have 4 pixels, got 3"):
        build_method("maskfeat", **{**TINY["maskfeat"], "cell": 3})
    with pytest.raises(ValueError, match=r"mask_ratio must lie in \(0, 1\), got 1.5"):
        MaskFeatConfig(mask_ratio=1.5)
