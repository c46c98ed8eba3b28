"""MAE beside `transformers` with the same weights, and what must not leak."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.models import BackboneConfig, build_method
from headrace.models.losses import masked_patch_loss, normalize_patches
from headrace.models.methods.masked.mae import MAE, MAEConfig
from headrace.models.parts.masked_vit import encode_visible, patchify, unpatchify
from headrace.models.parts.positions import sine_cosine
from headrace.pipeline import Batch, Loader, Normalize, RandomMask
from headrace.pipeline.masks import draw_masks
from headrace.shards import ShardSet
from tests.conftest import require_peer
from tests.models.authors_views import in_torchvisions_words, plain
from tests.models.tiny_methods import TINY, tiny


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_view_and_mask() -> None:
    inputs: Any = build_method("mae", decoder_depth=1).inputs
    assert in_torchvisions_words(inputs.views) == [plain(224, 0.2)]
    assert inputs.views[0].interpolation == "bicubic"
    assert inputs.masks == (RandomMask(grid=(14, 14), ratio=0.75),)
    (drawn,) = draw_masks(inputs.masks, 0, 0, np.arange(20))
    assert drawn.visible.shape == (20, 49)  # type: ignore[union-attr]


def test_patches_are_rows_of_pixels_with_channels_fastest_and_come_back() -> None:
    images = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    assert torch.equal(patches[0, 1], images[0, :, 0:2, 2:4].permute(1, 2, 0).flatten())
    assert torch.equal(unpatchify(patches, 2, 2), images)


def test_a_decoder_that_says_zero_has_the_variance_of_normalised_patches() -> None:
    """(n - 1) / n of n numbers, 767 / 768 for patches of 16: the variance is the unbiased one."""
    backbone = BackboneConfig(
        name="vit_tiny_patch16_224", options={"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}
    )
    config = MAEConfig(size=32, decoder_dim=16, decoder_depth=1, decoder_heads=2, backbone=backbone)
    method: Any = build_method("mae", config)
    with torch.no_grad():
        method.decoder.predict.weight.zero_()
        method.decoder.predict.bias.zero_()
    target = normalize_patches(patchify(torch.randn(4, 3, 32, 32), 16))
    loss = masked_patch_loss(torch.zeros_like(target), target, torch.ones(4, 4, dtype=torch.bool))
    assert loss.item() == pytest.approx(767 / 768, abs=1e-5)


def test_hidden_pixels_do_not_reach_the_encoder(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("mae").eval()
    batch = batch_of(method, digits_webdataset)
    (images,), (masks,) = batch.normalized(), batch.masks
    images = images.contiguous()  # as `changed` is: convolutions may round otherwise
    hidden = torch.ones(8, 16, dtype=torch.bool).scatter(1, masks.visible, False)
    patches = patchify(images, 4)
    noise = torch.where(hidden[:, :, None], torch.randn_like(patches), patches)
    changed = unpatchify(noise, 4, 4)
    with torch.no_grad():
        first, second = (encode_visible(method.backbone, x, masks.visible) for x in (images, changed))
    assert not torch.equal(images, changed)
    assert torch.equal(first, second)


def test_positions_are_those_of_transformers_and_are_not_trained() -> None:
    require_peer("transformers")
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    rows_first = build_2d_sinusoidal_position_embedding(height=4, width=4, embed_dim=24)
    judge = torch.cat([rows_first[:, 12:], rows_first[:, :12]], dim=1)  # as ViTMAEEmbeddings turns it
    torch.testing.assert_close(sine_cosine(4, 4, 24), judge)
    method: Any = tiny("mae")
    assert not method.backbone.pos_embed.requires_grad
    torch.testing.assert_close(method.backbone.pos_embed.detach()[0], torch.cat([torch.zeros(1, 24), judge]))


def hugging(kind: Any) -> Any:
    return kind(
        image_size=16, patch_size=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, norm_pix_loss=True, mask_ratio=0.75, layer_norm_eps=1e-6,
    )  # fmt: skip


def converted(method: MAE) -> dict[str, Tensor]:
    """The method's weights under the names of `transformers`."""
    names = {
        "cls_token": "vit.embeddings.cls_token", "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection", "norm": "vit.layernorm",
        "mask_token": "decoder.mask_token", "embed": "decoder.decoder_embed", "predict": "decoder.decoder_pred",
    }  # fmt: skip
    inner = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
        "attn.proj": "attention.o_proj",
    }  # fmt: skip
    found: dict[str, Tensor] = {}
    for module, prefix in ((method.backbone, "vit.layers"), (method.decoder, "decoder.decoder_layers")):
        for key, value in module.state_dict().items():
            if key.startswith("blocks."):
                _, number, rest = key.split(".", 2)
                part, kind = rest.rsplit(".", 1)
                if part == "attn.qkv":
                    for name, third in zip("qkv", value.chunk(3), strict=True):
                        found[f"{prefix}.{number}.attention.{name}_proj.{kind}"] = third
                else:
                    found[f"{prefix}.{number}.{inner[part]}.{kind}"] = value
            elif key in names:
                found[names[key]] = value
            else:
                part, kind = key.rsplit(".", 1)
                place = "decoder.decoder_norm" if part == "norm" and "decoder" in prefix else names[part]
                found[f"{place}.{kind}"] = value
    positions: Any = method.decoder.positions
    found["decoder.decoder_pos_embed"] = torch.cat([positions.new_zeros(1, 16), positions])[None]
    return found


def test_with_the_same_weights_it_is_transformers_with_its_gradient(digits_webdataset: ShardSet) -> None:
    require_peer("transformers")
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    method: Any = tiny("mae")
    judge = ViTMAEForPreTraining(hugging(ViTMAEConfig)).train()
    judge.load_state_dict(converted(method))
    batch = batch_of(method, digits_webdataset)
    (masks,) = batch.masks
    # Noise whose order keeps the visible patches, in their order, and then the others.
    noise = torch.ones(8, 16).scatter(1, masks.visible, torch.linspace(0, 0.5, 4).expand(8, 4))
    theirs = judge(batch.normalized()[0], noise=noise).loss
    ours = method.loss(batch)["loss"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    theirs_by_name = dict(judge.named_parameters())
    torch.testing.assert_close(
        method.backbone.patch_embed.proj.weight.grad,
        theirs_by_name["vit.embeddings.patch_embeddings.projection.weight"].grad,
        rtol=1e-4,
        atol=1e-6,
    )
    torch.testing.assert_close(
        method.decoder.mask_token.grad, theirs_by_name["decoder.mask_token"].grad, rtol=1e-4, atol=1e-6
    )


def test_tokens_decay_and_positions_are_left_alone() -> None:
    method: Any = tiny("mae")
    kernels, vectors = method.parameter_groups()
    assert any(p is method.backbone.cls_token for p in kernels.params)
    assert any(p is method.decoder.mask_token for p in kernels.params)
    assert all(p is not method.backbone.pos_embed for group in (kernels, vectors) for p in group.params)


@pytest.mark.parametrize("normalize", [True, False])
def test_pictures_are_the_view_without_and_with_what_was_hidden(normalize: bool, digits_webdataset: ShardSet) -> None:
    method: Any = build_method("mae", **{**TINY["mae"], "normalize_targets": normalize}).eval()
    batch = batch_of(method, digits_webdataset)
    shown = method.pictures(batch)
    assert list(shown) == ["input", "masked", "reconstruction"]
    for picture in shown.values():
        assert picture.shape == (8, 3, 16, 16)
        assert picture.dtype == torch.float32
        assert 0 <= picture.min() <= picture.max() <= 1
    torch.testing.assert_close(shown["input"], batch.views[0].float() / 255, rtol=0, atol=1e-6)
    hidden = torch.ones(8, 16, dtype=torch.bool).scatter(1, batch.masks[0].visible, False)  # type: ignore[union-attr]
    places = hidden.unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)
    assert (shown["masked"][places] == 0.5).all()
    for name in ("masked", "reconstruction"):
        assert torch.equal(shown[name][~places], shown["input"][~places])
    assert not torch.equal(shown["reconstruction"][places], shown["input"][places])


def test_a_perfect_prediction_is_the_picture(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("mae").eval()
    batch = batch_of(method, digits_webdataset)
    target = normalize_patches(patchify(batch.normalized()[0], 4))
    method.decoder.forward = lambda encoded, visible: target
    shown = method.pictures(batch)
    torch.testing.assert_close(shown["reconstruction"], shown["input"], rtol=0, atol=2e-3)  # the target's 1e-6


def test_there_are_no_pictures_of_other_colours(digits_webdataset: ShardSet) -> None:
    method: Any = build_method("mae", **TINY["mae"], normalize=Normalize.lab())
    assert method.pictures(batch_of(method, digits_webdataset)) == {}
