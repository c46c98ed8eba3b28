"""AIM: who sees whom, what is foretold, and what probes see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.models import BackboneConfig, build_method
from headrace.models.losses import next_patch_loss, normalize_patches
from headrace.models.methods.masked.aim import AIMConfig, prefix_attention
from headrace.models.parts.masked_vit import patchify
from headrace.models.parts.positions import sine_cosine
from headrace.pipeline import Batch, Loader, Normalize, PrefixMask
from headrace.shards import ShardSet
from headrace.tools.catalogue import inputs_of
from tests.models.authors_views import in_torchvisions_words, plain
from tests.models.tiny_methods import TINY, tiny


@pytest.fixture(scope="module")
def batch(digits_webdataset: ShardSet) -> Batch:
    with Loader(digits_webdataset, tiny("aim").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_view_and_mask() -> None:
    inputs: Any = inputs_of("aim")
    assert in_torchvisions_words(inputs.views) == [plain(224, 0.4)]
    assert inputs.views[0].interpolation == "bicubic"
    assert inputs.masks == (PrefixMask(grid=(16, 16)),)


def test_the_network_is_the_authors() -> None:
    with torch.device("meta"):
        method: Any = build_method("aim")
    vit = method.backbone
    assert (vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads) == (1536, 24, 12)
    assert vit.patch_embed.patch_size == (14, 14)
    assert vit.num_prefix_tokens == 0
    biases = {name for name, _ in method.named_parameters() if name.endswith(".bias") and "norm" not in name}
    assert biases - {f"head.blocks.{i}.0.bias" for i in range(12)} == {"backbone.patch_embed.proj.bias"}
    norms = [vit.patch_embed.norm, vit.norm, vit.blocks[3].norm1, method.head.norm]
    assert all(norm.eps == 1e-6 for norm in norms)
    assert (method.head.embed.out_features, len(method.head.blocks)) == (2048, 12)
    assert method.head.blocks[0][1].fc1.out_features == 4 * 2048
    assert AIMConfig().probe_layers == 6


def test_a_patch_sees_those_before_it_and_the_prefix() -> None:
    found = prefix_attention(torch.tensor([1, 3]), 5)
    assert found.shape == (2, 1, 5, 5)
    for sample, prefix in enumerate((1, 3)):
        for i in range(5):
            for j in range(5):
                assert bool(found[sample, 0, i, j]) == (j <= i or j < prefix)


def gradient_of_pixels(method: Any, images: Tensor, prefix: int, place: int) -> Tensor:
    """bool (L,): on the pixels of which patches the prediction at a place depends."""
    images = images.clone().requires_grad_()
    method.predict(images, torch.full((len(images),), prefix))[:, place].square().sum().backward()
    assert images.grad is not None
    return patchify(images.grad, 4).abs().sum(dim=(0, 2)) > 0


@pytest.mark.parametrize("prefix", [0, 1, 6])
def test_predictions_depend_on_what_stands_before_and_on_the_prefix_alone(prefix: int, batch: Batch) -> None:
    method: Any = tiny("aim").eval()
    (images,) = batch.normalized()
    for place in (0, 4, 15):
        wanted = torch.arange(16) < max(prefix, place + 1)
        assert torch.equal(gradient_of_pixels(method, images, prefix, place), wanted)


def test_the_loss_is_that_of_the_next_patch_behind_the_prefix(batch: Batch) -> None:
    method: Any = tiny("aim").eval()
    (images,), (masks,) = batch.normalized(), batch.masks
    with torch.no_grad():
        prediction = method.predict(images, masks.prefix)
        target = normalize_patches(patchify(images, 4))
        errors = [
            float((prediction[n, i] - target[n, i + 1]).square().mean())
            for n in range(8)
            for i in range(15)
            if i + 1 >= int(masks.prefix[n])
        ]
        assert method.loss(batch)["loss"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_predictions_of_prefix_patches_get_no_gradient() -> None:
    prediction = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    next_patch_loss(prediction, torch.randn(2, 6, 3, dtype=torch.float64), torch.tensor([1, 4])).backward()
    assert prediction.grad is not None
    for sample, prefix in enumerate((1, 4)):
        foretells = [prefix <= place + 1 < 6 for place in range(6)]
        assert prediction.grad[sample].ne(0).any(dim=1).tolist() == foretells


def test_probes_see_the_mean_of_the_last_blocks_of_patches_that_see_each_other(batch: Batch) -> None:
    method: Any = build_method("aim", **{**TINY["aim"], "probe_layers": 1}).eval()
    (images,) = batch.normalized()
    images = images.clone().requires_grad_()
    changed = Batch.of_views([images], batch.normalize)
    with torch.no_grad():
        last = method.backbone.forward_intermediates(images, indices=1, intermediates_only=True, output_fmt="NLC")
        torch.testing.assert_close(method.encode(changed), last[0].mean(dim=1), rtol=1e-5, atol=1e-6)
        both = build_method("aim", **TINY["aim"]).eval()
        layers = both.backbone.forward_intermediates(images, indices=2, intermediates_only=True, output_fmt="NLC")
        expected = torch.stack([layer.mean(dim=1) for layer in layers]).mean(dim=0)
        torch.testing.assert_close(both.encode(changed), expected, rtol=1e-5, atol=1e-6)


def test_positions_are_fixed_in_front_of_the_blocks_and_of_the_head() -> None:
    method: Any = tiny("aim")
    torch.testing.assert_close(method.backbone.pos_embed[0], sine_cosine(4, 4, 24))
    assert not method.backbone.pos_embed.requires_grad
    torch.testing.assert_close(method.head.positions, sine_cosine(4, 4, 24))
    tokens, seen = torch.randn(2, 16, 24), []
    method.head.embed.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    method.head(tokens)
    torch.testing.assert_close(seen[0], tokens + sine_cosine(4, 4, 24))


def test_the_head_takes_each_patch_by_itself() -> None:
    method: Any = tiny("aim").eval()
    tokens = torch.randn(2, 16, 24, requires_grad=True)
    method.head(tokens)[:, 5].sum().backward()
    assert tokens.grad is not None
    assert torch.equal(tokens.grad.abs().sum(dim=(0, 2)) > 0, torch.arange(16) == 5)


@pytest.mark.parametrize("normalize", [True, False])
def test_pictures_are_the_view_its_prefix_and_what_was_foretold(normalize: bool, batch: Batch) -> None:
    method: Any = build_method("aim", **{**TINY["aim"], "normalize_targets": normalize}).eval()
    shown = method.pictures(batch)
    assert list(shown) == ["input", "masked", "reconstruction"]
    (masks,) = batch.masks
    given = torch.arange(16) < masks.prefix[:, None]
    places = given.unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)
    for name in ("masked", "reconstruction"):
        torch.testing.assert_close(shown[name][places], shown["input"][places])
    assert (shown["masked"][~places] == 0.5).all()
    assert not torch.equal(shown["reconstruction"][~places], shown["input"][~places])


def test_there_are_no_pictures_of_other_colours(batch: Batch) -> None:
    method: Any = build_method("aim", **TINY["aim"], normalize=Normalize.lab())
    assert method.pictures(batch) == {}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"AIMConfig.probe_layers must be at most the backbone's 2, got 6"):
        build_method("aim", **{**TINY["aim"], "probe_layers": 6})
    with pytest.raises(ValueError, match=r"do not fit resnet18|must be one of timm's ViTs"):
        build_method("aim", **{**TINY["aim"], "backbone": BackboneConfig(name="resnet18")})
