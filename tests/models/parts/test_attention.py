"""The class token's attention is timm's own."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from headrace.models import build_backbone
from headrace.models.parts.attention import class_attention, has_class_attention
from headrace.models.parts.backbones import tiny_resnet, tiny_vit
from headrace.models.seeding import seeded

SMALL: dict[str, Any] = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 4}, {"qk_norm": True}, {"dynamic_img_size": True}, {"global_pool": "avg"}]
)
def test_it_is_what_the_block_multiplies_values_with(options: dict[str, Any]) -> None:
    with seeded(0):
        vit: Any = timm.create_model("vit_tiny_patch16_224", img_size=16, **SMALL, **options).eval()
        images = torch.randn(2, 3, 16, 16)
    assert has_class_attention(vit)
    last = vit.blocks[-1].attn
    last.fused_attn = False
    seen: list[torch.Tensor] = []
    last.attn_drop = nn.Identity()
    last.attn_drop.register_forward_hook(lambda _, inputs, output: seen.append(output))
    with torch.no_grad():
        vit(images)
    found = class_attention(vit, images)
    prefix = vit.num_prefix_tokens
    torch.testing.assert_close(found, seen[0][:, :, 0, prefix:].view(2, 3, 4, 4), rtol=1e-5, atol=1e-6)
    assert (found.sum(dim=(2, 3)) < 1).all()


def test_of_a_picture_that_is_not_square() -> None:
    with seeded(0):
        vit: Any = timm.create_model("vit_tiny_patch16_224", img_size=16, dynamic_img_size=True, **SMALL).eval()
    assert class_attention(vit, torch.zeros(1, 3, 8, 24)).shape == (1, 3, 2, 6)


def test_a_network_without_a_class_token_or_plain_attention_has_none() -> None:
    assert not has_class_attention(build_backbone(tiny_resnet(width=8))[0])
    without = timm.create_model("vit_tiny_patch16_224", img_size=16, class_token=False, global_pool="avg", **SMALL)
    assert not has_class_attention(without)
    assert has_class_attention(build_backbone(tiny_vit(width=32, depth=1))[0])
