"""MAE's loss against a slow loop and against `transformers`; those of autoencoders against torch's distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from headrace.models.losses import (
    gaussian_kl,
    masked_patch_loss,
    masked_pixel_loss,
    next_patch_loss,
    normalize_patches,
    pixel_cross_entropy,
    weighted_squared_error,
)
from tests.conftest import require_peer


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_masked_patch_loss_is_the_papers_mean() -> None:
    prediction, target = draw(2, 5, 3), draw(2, 5, 3, seed=1)
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], dtype=torch.bool)
    errors = [
        sum(float((p - t) ** 2) for p, t in zip(prediction[i, j], target[i, j], strict=True)) / 3
        for i in range(2)
        for j in range(5)
        if mask[i, j]
    ]
    assert masked_patch_loss(prediction, target, mask).item() == pytest.approx(sum(errors) / len(errors), rel=1e-12)


def test_only_hidden_patches_get_a_gradient() -> None:
    prediction = draw(2, 4, 3).requires_grad_()
    mask = torch.tensor([[True, False, True, False]] * 2)
    masked_patch_loss(prediction, draw(2, 4, 3, seed=1), mask).backward()
    assert prediction.grad is not None
    assert (prediction.grad[~mask] == 0).all()
    assert (prediction.grad[mask] != 0).all()


def test_normalized_patches_have_mean_zero_and_variance_one() -> None:
    patches = 7 * draw(3, 4, 48) + 5
    found = normalize_patches(patches)
    torch.testing.assert_close(found.mean(dim=-1), torch.zeros(3, 4, dtype=torch.float64))
    torch.testing.assert_close(found.var(dim=-1), torch.ones(3, 4, dtype=torch.float64))
    assert normalize_patches(torch.full((1, 1, 48), 0.5)).abs().max() == 0  # a patch of one colour


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_is_that_of_transformers(normalize: bool) -> None:
    require_peer("transformers")
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=16, norm_pix_loss=normalize,
    )  # fmt: skip
    judge = ViTMAEForPreTraining(config)
    images = draw(2, 3, 32, 32).float()
    found = judge(images, noise=draw(2, 16, seed=1).float())
    target = judge.patchify(images)
    target = normalize_patches(target) if normalize else target
    ours = masked_patch_loss(found.logits, target, found.mask.bool())
    torch.testing.assert_close(ours, found.loss)
    (gradient,) = torch.autograd.grad(ours, found.logits, retain_graph=True)
    (expected,) = torch.autograd.grad(found.loss, found.logits)
    torch.testing.assert_close(gradient, expected)


def test_next_patch_loss_is_the_mean_over_patches_behind_the_prefix() -> None:
    prediction, target, prefix = draw(3, 5, 4), draw(3, 5, 4, seed=1), [1, 4, 2]
    errors = [
        sum((p - t) ** 2 for p, t in zip(prediction[n, i - 1].tolist(), target[n, i].tolist(), strict=True)) / 4
        for n in range(3)
        for i in range(prefix[n], 5)
    ]
    found = next_patch_loss(prediction, target, torch.tensor(prefix)).item()
    assert found == pytest.approx(sum(errors) / len(errors), rel=1e-12)


def test_pixel_cross_entropy_is_summed_over_inputs_and_averaged_over_samples() -> None:
    logits, levels = draw(2, 3, 2), draw(2, 3, 2, seed=1).sigmoid()
    total = 0.0
    for t, x in zip(logits.flatten().tolist(), levels.flatten().tolist(), strict=True):
        z = 1 / (1 + math.exp(-t))
        total -= x * math.log(z) + (1 - x) * math.log(1 - z)
    assert pixel_cross_entropy(logits, levels).item() == pytest.approx(total / 2, rel=1e-12)


def test_pixel_cross_entropy_is_least_where_it_is_the_entropy_of_the_levels() -> None:
    levels = draw(4, 5).sigmoid()
    logits = levels.logit().requires_grad_()
    loss = pixel_cross_entropy(logits, levels)
    entropy = torch.distributions.Bernoulli(levels).entropy().sum(dim=1).mean()
    torch.testing.assert_close(loss.detach(), entropy)
    assert loss > 0.5
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12


def test_gaussian_kl_is_that_of_torchs_distributions_with_its_gradient() -> None:
    mean, log_variance = draw(4, 5).requires_grad_(), draw(4, 5, seed=1).requires_grad_()
    ours = gaussian_kl(mean, log_variance)
    cloud = torch.distributions.Normal(mean, (log_variance / 2).exp())
    normal = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    judge = torch.distributions.kl_divergence(cloud, normal).sum(dim=1).mean()
    torch.testing.assert_close(ours, judge)
    for x in (mean, log_variance):
        (found,) = torch.autograd.grad(ours, x, retain_graph=True)
        (expected,) = torch.autograd.grad(judge, x, retain_graph=True)
        torch.testing.assert_close(found, expected)
    assert gaussian_kl(torch.zeros(3, 2), torch.zeros(3, 2)).item() == 0


def test_weighted_squared_error_is_a_mean_over_all_numbers() -> None:
    prediction, target, weight = draw(2, 3, 2, 4), draw(2, 3, 2, 4, seed=1), draw(2, 4, seed=2).exp()
    total = 0.0
    for n in range(2):
        for c in range(3):
            for y in range(2):
                for x in range(4):
                    total += float(weight[y, x]) * float(prediction[n, c, y, x] - target[n, c, y, x]) ** 2
    assert weighted_squared_error(prediction, target, weight).item() == pytest.approx(total / 48, rel=1e-12)


def test_masked_pixel_loss_is_a_mean_over_hidden_pixels_and_channels() -> None:
    prediction, images = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    mask = draw(2, 4, 4, seed=2) > 0
    errors = [
        abs(float(prediction[i, c, y, x] - images[i, c, y, x]))
        for i in range(2)
        for c in range(3)
        for y in range(4)
        for x in range(4)
        if mask[i, y, x]
    ]
    expected = sum(errors) / (len(errors) / 3 + 1e-5) / 3
    assert masked_pixel_loss(prediction, images, mask).item() == pytest.approx(expected, rel=1e-12)


def test_masked_pixel_loss_is_that_of_transformers() -> None:
    require_peer("transformers")
    from transformers import ViTConfig, ViTForMaskedImageModeling

    config = ViTConfig(
        image_size=16, patch_size=4, encoder_stride=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    judge = ViTForMaskedImageModeling(config)
    images, masked = draw(2, 3, 16, 16).float(), draw(2, 16, seed=1) > 0
    found = judge(images, bool_masked_pos=masked)
    pixels = masked.unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    ours = masked_pixel_loss(found.reconstruction, images, pixels)
    torch.testing.assert_close(ours, found.loss)
    (gradient,) = torch.autograd.grad(ours, found.reconstruction, retain_graph=True)
    (expected,) = torch.autograd.grad(found.loss, found.reconstruction)
    torch.testing.assert_close(gradient, expected)
