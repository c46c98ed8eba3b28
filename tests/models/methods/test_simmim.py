"""SimMIM beside `transformers` with the same weights, and what its authors' code says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.models import BackboneConfig, build_method
from headrace.models.methods.masked.simmim import SimMIMConfig, enlarged, feature_map
from headrace.models.parts.beit import beit_vit, tiny_beit
from headrace.pipeline import Batch, Loader, Normalize, RandomMask
from headrace.pipeline.masks import PatchMasks, draw_masks
from headrace.shards import ShardSet
from tests.conftest import require_peer
from tests.models.authors_views import in_torchvisions_words, plain
from tests.models.tiny_methods import TINY, VIT, tiny

BEIT = tiny_beit(width=24, depth=2)
PLAIN_VIT = replace(VIT, options={**VIT.options, "dynamic_img_size": False})


def batch_of(method: Any, shards: ShardSet, samples: int = 8) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1) as loader:
        return next(iter(loader))


def on(backbone: BackboneConfig) -> Any:
    return build_method("simmim", **{**TINY["simmim"], "backbone": backbone})


def hidden_units(batch: Batch) -> Tensor:
    """bool (B, 4, 4) of the tiny form."""
    (masks,) = batch.masks
    assert isinstance(masks, PatchMasks)
    return torch.ones(len(masks.visible), 16, dtype=torch.bool).scatter(1, masks.visible, False).unflatten(1, (4, 4))


@pytest.mark.parametrize(("size", "units", "hidden"), [(192, 6, 22), (224, 7, 30)])
def test_it_asks_for_the_authors_view_and_hides_squares_of_32_pixels(size: int, units: int, hidden: int) -> None:
    """Whatever the encoder's patches are."""
    options = {"embed_dim": 8, "depth": 1, "num_heads": 1}
    vit = BackboneConfig(name="beit_base_patch16_224", options={**beit_vit(layer_scale=0.1, drop_path=0.1).options})
    method = build_method("simmim", size=size, backbone=replace(vit, options={**vit.options, **options}))
    inputs: Any = method.inputs
    assert in_torchvisions_words(inputs.views) == [plain(size, 0.67)]
    assert inputs.views[0].interpolation == "bilinear"
    assert inputs.masks == (RandomMask(grid=(units, units), ratio=0.6),)
    (drawn,) = draw_masks(inputs.masks, 0, 0, np.arange(20))
    assert isinstance(drawn, PatchMasks)
    assert drawn.masked.shape == (20, hidden)


def test_the_default_is_the_authors_swin() -> None:
    config = SimMIMConfig()
    assert (config.size, config.backbone.name) == (192, "swin_base_patch4_window7_224")
    with torch.device("meta"):
        method: Any = build_method("simmim", config)
    swin = method.backbone
    assert [len(stage.blocks) for stage in swin.layers] == [2, 2, 18, 2]
    assert [stage.blocks[0].attn.num_heads for stage in swin.layers] == [4, 8, 16, 32]
    assert {block.window_size for stage in swin.layers for block in stage.blocks} == {(6, 6)}
    assert swin.patch_embed.patch_size == (4, 4)
    assert isinstance(swin.patch_embed.norm, nn.LayerNorm)
    assert all(isinstance(block.drop_path1, nn.Identity) for stage in swin.layers for block in stage.blocks)
    assert method.decoder[0].weight.shape == (32 * 32 * 3, 1024, 1, 1)
    assert method.mask_token.shape == (1, 1, 128)


def test_the_patches_of_a_square_are_hidden_together() -> None:
    units = torch.tensor([[[True, False], [False, True]]])
    patches = enlarged(units, 3)
    assert patches.shape == (1, 6, 6)
    assert torch.equal(patches[0, :3, :3], torch.ones(3, 3, dtype=torch.bool))
    assert not patches[0, :3, 3:].any()


@pytest.mark.parametrize("backbone", [TINY["simmim"]["backbone"], BEIT, PLAIN_VIT], ids=["swin", "beit", "vit"])
def test_pixels_of_hidden_squares_reach_no_layer(backbone: BackboneConfig, digits_webdataset: ShardSet) -> None:
    method = on(backbone).eval()
    batch = batch_of(method, digits_webdataset)
    images = batch.normalized()[0].contiguous()
    units = hidden_units(batch)
    pixels = enlarged(units, 4)[:, None]
    noise = torch.where(pixels, torch.randn_like(images), images)
    patches = enlarged(units, 4 // method.patch)
    with torch.no_grad():
        first, second = (feature_map(method.backbone, x, patches, method.mask_token) for x in (images, noise))
        seen = feature_map(method.backbone, noise, torch.zeros_like(patches), method.mask_token)
    assert first.shape == (8, method.feature_dim, 4, 4)
    assert torch.equal(first, second)
    assert not torch.equal(first, seen)


@pytest.mark.parametrize("backbone", [TINY["simmim"]["backbone"], BEIT, PLAIN_VIT], ids=["swin", "beit", "vit"])
def test_without_a_mask_features_are_the_backbones(backbone: BackboneConfig, digits_webdataset: ShardSet) -> None:
    method = on(backbone).eval()
    (images,) = batch_of(method, digits_webdataset).normalized()
    side = 16 // method.patch
    nothing = torch.zeros(8, side, side, dtype=torch.bool)
    with torch.no_grad():
        features = feature_map(method.backbone, images, nothing, method.mask_token)
        expected = method.backbone.forward_features(images)
    if expected.ndim == 3:
        expected = expected[:, 1:].unflatten(1, (4, 4))
    torch.testing.assert_close(features.permute(0, 2, 3, 1), expected)


def test_predictions_of_what_is_seen_have_no_gradient(digits_webdataset: ShardSet) -> None:
    """And a prediction of zero has the mean absolute value of hidden pixels for a loss."""
    method: Any = tiny("simmim")
    batch = batch_of(method, digits_webdataset)
    images = batch.normalized()[0]
    predicted = torch.zeros_like(images, requires_grad=True)
    method.decoder.forward = lambda features: predicted
    loss = method.loss(batch)["loss"]
    loss.backward()
    pixels = enlarged(hidden_units(batch), 4)[:, None].expand_as(images)
    assert predicted.grad is not None
    assert not predicted.grad[~pixels].any()
    assert predicted.grad[pixels].all()
    torch.testing.assert_close(loss.detach(), images[pixels].abs().mean(), rtol=1e-5, atol=0)


def swin_of_transformers(method: Any) -> Any:
    """`transformers`' model of the tiny form, with its weights."""
    from transformers import SwinConfig, SwinForMaskedImageModeling

    options = method.config.backbone.options
    judge = SwinForMaskedImageModeling(
        SwinConfig(
            image_size=method.config.size, patch_size=method.patch, embed_dim=options["embed_dim"],
            depths=options["depths"], num_heads=options["num_heads"], window_size=options["window_size"],
            encoder_stride=4, drop_path_rate=0.0,
        )
    )  # fmt: skip
    found = {"swin.embeddings.mask_token": method.mask_token.detach()}
    for key, value in method.decoder.state_dict().items():
        found[f"decoder.{key}"] = value
    names = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection", "patch_embed.norm": "embeddings.norm",
        "norm": "layernorm", "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj",
        "attn": "attention.relative_position_bias",
    }  # fmt: skip
    for key, value in method.backbone.state_dict().items():
        part, kind = key.rsplit(".", 1)
        if part.startswith("layers."):
            _, stage, rest = part.split(".", 2)
            if rest.startswith("downsample"):  # theirs ends a stage with it, timm's begins one
                found[f"swin.encoder.layers.{int(stage) - 1}.{rest}.{kind}"] = value
                continue
            _, block, inner = rest.split(".", 2)
            place = f"swin.encoder.layers.{stage}.blocks.{block}"
            if inner == "attn.qkv":
                for name, third in zip("qkv", value.chunk(3), strict=True):
                    found[f"{place}.attention.{name}_proj.{kind}"] = third
            else:
                found[f"{place}.{names.get(inner, inner)}.{kind}"] = value
        else:
            found[f"swin.{names[part]}.{kind}"] = value
    judge.load_state_dict(found)
    return judge


def test_with_the_same_weights_it_is_the_swin_of_transformers_with_its_gradient(digits_webdataset: ShardSet) -> None:
    require_peer("transformers")
    method: Any = tiny("simmim")
    judge = swin_of_transformers(method).train()
    batch = batch_of(method, digits_webdataset)
    patches = enlarged(hidden_units(batch), 2).flatten(1)
    theirs = judge(batch.normalized()[0], bool_masked_pos=patches).loss
    ours = method.loss(batch)["loss"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    names = dict(judge.named_parameters())
    pairs = [
        (method.mask_token, "swin.embeddings.mask_token"),
        (method.backbone.patch_embed.proj.weight, "swin.embeddings.patch_embeddings.projection.weight"),
        (method.backbone.layers[1].downsample.reduction.weight, "swin.encoder.layers.0.downsample.reduction.weight"),
        (method.decoder[0].weight, "decoder.0.weight"),
    ]
    for mine, name in pairs:
        torch.testing.assert_close(mine.grad, names[name].grad, rtol=1e-4, atol=1e-6)


def test_a_beit_starts_as_the_authors_vit_does() -> None:
    """Deviation 0.0108, for nothing is larger than 0.02; the i-th block's last layers are the smaller for it."""
    method = on(tiny_beit(width=64, depth=2))
    vit = method.backbone
    for weight in (vit.patch_embed.proj.weight, vit.blocks[1].attn.qkv.weight, vit.blocks[1].mlp.fc1.weight):
        assert weight.abs().max() <= 0.02
        assert weight.std().item() == pytest.approx(0.0108, rel=0.02)
    for number, block in enumerate(vit.blocks, start=1):
        for weight in (block.attn.proj.weight, block.mlp.fc2.weight):
            assert weight.abs().max() <= 0.02 / (2 * number) ** 0.5 + 1e-9
            assert weight.std().item() == pytest.approx(0.0108 / (2 * number) ** 0.5, rel=0.03)
        assert torch.equal(block.gamma_1, torch.full((64,), 0.1))
        assert {name for name, _ in block.attn.named_parameters() if "bias" in name} == {
            "q_bias",
            "v_bias",
            "proj.bias",
        }
    assert vit.pos_embed is None
    assert not vit.rel_pos_bias.relative_position_bias_table.any()
    for token in (vit.cls_token, method.mask_token):
        assert 0 < token.abs().max() <= 0.02


@pytest.mark.parametrize("backbone", [TINY["simmim"]["backbone"], BEIT], ids=["swin", "beit"])
def test_tokens_do_not_decay_and_tables_of_positions_do(backbone: BackboneConfig) -> None:
    method = on(backbone)
    decayed, free = ({id(p) for p in group.params} for group in method.parameter_groups())
    assert [group.decay_scale for group in method.parameter_groups()] == [1.0, 0.0]
    assert id(method.mask_token) in free
    for name, parameter in method.named_parameters():
        if "relative_position_bias_table" in name:
            assert id(parameter) in decayed
        if parameter.ndim == 1 or "cls_token" in name:
            assert id(parameter) in free, name


def test_pictures_are_the_view_without_and_with_what_was_hidden(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("simmim").eval()
    batch = batch_of(method, digits_webdataset)
    shown = method.pictures(batch)
    assert list(shown) == ["input", "masked", "reconstruction"]
    pixels = enlarged(hidden_units(batch), 4)[:, None].expand(-1, 3, -1, -1)
    for picture in shown.values():
        assert picture.shape == (8, 3, 16, 16)
        assert 0 <= picture.min() <= picture.max() <= 1
    torch.testing.assert_close(shown["input"], batch.views[0].float() / 255, rtol=0, atol=1e-6)
    assert (shown["masked"][pixels] == 0.5).all()
    for name in ("masked", "reconstruction"):
        assert torch.equal(shown[name][~pixels], shown["input"][~pixels])
    assert not torch.equal(shown["reconstruction"][pixels], shown["input"][pixels])
    lab: Any = build_method("simmim", **TINY["simmim"], normalize=Normalize.lab())
    assert lab.pictures(batch_of(lab, digits_webdataset)) == {}


def test_what_it_cannot_use_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size must be a multiple of mask_unit, 32, got 200"):
        SimMIMConfig(size=200)
    with pytest.raises(ValueError, match=r"must be a Swin, Beit or ViT of timm's .* swinv2_tiny_window8_256 .* is not"):
        on(BackboneConfig(name="swinv2_tiny_window8_256", options={"embed_dim": 12, "window_size": 4}))
    with pytest.raises(ValueError, match=r"with its norm before features are pooled"):
        on(replace(BEIT, options={**BEIT.options, "use_fc_norm": True}))
    with pytest.raises(ValueError, match=r"mask_unit must be a multiple of 4, the patches, got 2"):
        build_method("simmim", size=16, mask_unit=2, backbone=BEIT)
