"""Backbones: any timm model, a stem for small images, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from headrace.models import BackboneConfig, build_backbone
from headrace.models.parts.backbones import tiny_resnet


@pytest.mark.parametrize(
    ("config", "size", "features"),
    [
        (BackboneConfig(name="resnet18"), 64, 512),
        (BackboneConfig(name="resnet18", stem="small"), 32, 512),
        (tiny_resnet(), 28, 128),
        (tiny_resnet(width=8, stem_stride=1), 28, 64),
        (BackboneConfig(name="vit_tiny_patch16_224", options={"img_size": 32, "depth": 1}), 32, 192),
    ],
    ids=["resnet", "small stem", "tiny", "narrow", "vit"],
)
def test_features_have_the_stated_dimension(config: BackboneConfig, size: int, features: int) -> None:
    backbone, dimension = build_backbone(config)
    assert dimension == features
    assert backbone.eval()(torch.zeros(2, 3, size, size)).shape == (2, features)


def test_the_small_stem_keeps_resolution() -> None:
    def reduction(config: BackboneConfig) -> int:
        backbone: Any = build_backbone(config)[0]
        return 64 // backbone.forward_features(torch.zeros(1, 3, 64, 64)).shape[-1]

    assert reduction(BackboneConfig(name="resnet18")) == 32
    assert reduction(BackboneConfig(name="resnet18", stem="small")) == 8
    assert reduction(BackboneConfig(name="resnet18", stem="small", stem_stride=2)) == 16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BackboneConfig(name="resnt18"), "'resnt18' is no timm model; did you mean 'resnet18'?"),
        (lambda: BackboneConfig(stem="smal"), "stem must be 'standard' or 'small', got 'smal'"),  # type: ignore[arg-type]
        (lambda: BackboneConfig(stem_stride=0), "stem_stride must be at least 1, got 0"),
        (
            lambda: build_backbone(BackboneConfig(name="convnext_atto", stem="small")),
            "stem 'small' is for ResNets, convnext_atto is not one",
        ),
        (
            lambda: build_backbone(BackboneConfig(name="resnet18", options={"depht": 3})),
            "{'depht': 3} do not fit resnet18",
        ),
    ],
)
def test_refusals_name_the_value(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make()
    assert message in str(caught.value)
