"""Hidden patches reach no layer, whatever stands for them."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from headrace.models.parts.masked_vit import encode_with_mask_tokens
from headrace.models.seeding import seeded

ANY_SIZE = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}


def vit(**options: Any) -> Any:
    with seeded(0):
        return timm.create_model("vit_tiny_patch16_224", img_size=16, **ANY_SIZE, **options).eval()


@pytest.mark.parametrize("dynamic", [False, True])
def test_without_a_mask_it_is_timms(dynamic: bool) -> None:
    network, images = vit(dynamic_img_size=dynamic), torch.randn(2, 3, 16, 16)
    found = encode_with_mask_tokens(network, images, None, torch.zeros(1, 1, 16))
    assert torch.equal(found, network.forward_features(images))


@pytest.mark.parametrize("dynamic", [False, True])
def test_pixels_of_hidden_patches_have_no_effect(dynamic: bool) -> None:
    network, token = vit(dynamic_img_size=dynamic), torch.randn(1, 1, 16)
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[0, 5], masked[1, 2] = True, True  # second row, second column; first row, third column
    encode_with_mask_tokens(network, images, masked, token).square().sum().backward()
    assert images.grad is not None
    assert not images.grad[0, :, 4:8, 4:8].any()
    assert not images.grad[1, :, 0:4, 8:12].any()
    assert images.grad[0, :, 0:4, 8:12].all()


def test_the_token_stands_before_positions_are_added() -> None:
    """A patch whose embedding is the token's is as good as hidden."""
    network, images = vit(), torch.randn(2, 3, 16, 16)
    embedded = network.patch_embed(images)[:1, 5:6].detach()
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[0, 5] = True
    plain = encode_with_mask_tokens(network, images, None, embedded)
    assert torch.equal(encode_with_mask_tokens(network, images, masked, embedded), plain)
