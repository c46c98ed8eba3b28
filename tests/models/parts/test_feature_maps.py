"""Maps against what the backbones themselves make of pictures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from headrace.models import build_method
from headrace.models.parts.backbones import BackboneConfig, build_backbone, tiny_resnet, tiny_vit
from headrace.models.parts.feature_maps import feature_maps, maps_and_tokens
from headrace.models.parts.masked_vit import MaskTokenViT
from headrace.models.parts.rope_vit import RopeEncoderPredictor
from headrace.models.parts.sobel import Sobel

SIZED = {"img_size": 16}


def backbone(config: BackboneConfig) -> nn.Module:
    """With norms that are not the identity."""
    network = build_backbone(config)[0].eval()
    for module in network.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network


def pictures(rows: int = 16, columns: int = 16) -> torch.Tensor:
    return torch.randn(3, 3, rows, columns, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_mean_over_places_is_a_resnets_pooling() -> None:
    network = backbone(tiny_resnet())
    (cells,) = feature_maps(network, pictures(32, 48))
    assert cells.shape == (3, 128, 2, 3)
    torch.testing.assert_close(network[1](cells.mean((2, 3))), network(pictures(32, 48)))
    widths = [cells.shape[1:] for cells in feature_maps(network, pictures(32, 32), last=4)]
    assert widths == [(16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2)]


@torch.no_grad()
def test_the_mean_over_places_is_a_vits_pooling() -> None:
    config = tiny_vit(pool="avg")
    network = backbone(BackboneConfig(name=config.name, options={**config.options, **SIZED}))
    (cells,) = feature_maps(network, pictures())
    assert cells.shape == (3, 96, 4, 4)
    torch.testing.assert_close(cells.mean((2, 3)), network(pictures()))


@torch.no_grad()
def test_patches_stand_where_they_are_and_the_class_token_beside_them() -> None:
    config = tiny_vit()
    network = backbone(BackboneConfig(name=config.name, options={**config.options, **SIZED}))
    ((cells, token),) = maps_and_tokens(network, pictures())
    whole = network.forward_features(pictures())
    assert token is not None
    torch.testing.assert_close(token, whole[:, 0])
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(cells[:, :, row, column], whole[:, 1 + 4 * row + column])
    assert len(maps_and_tokens(network, pictures(), last=4)) == 4
    torch.testing.assert_close(maps_and_tokens(network, pictures(), last=4)[-1][0], cells)


@torch.no_grad()
def test_networks_inside_of_others() -> None:
    config = tiny_vit()
    vit = backbone(BackboneConfig(name=config.name, options={**config.options, **SIZED, "dynamic_img_size": True}))
    (cells,) = feature_maps(MaskTokenViT(vit).eval(), pictures(16, 24))
    assert cells.shape == (3, 96, 4, 6)
    whole = MaskTokenViT(vit).eval()(pictures(16, 24))
    torch.testing.assert_close(cells.flatten(2).transpose(1, 2), whole[:, 1:])
    edges = backbone(BackboneConfig(name="resnet18", options={"in_chans": 2}))
    (found,) = feature_maps(nn.Sequential(Sobel(), edges), pictures(64, 64))
    torch.testing.assert_close(found, edges.forward_features(Sobel()(pictures(64, 64))))


@torch.no_grad()
def test_capis_encoder() -> None:
    network = RopeEncoderPredictor(
        size=16, patch=4, dim=32, depth=1, predictor_depth=1, heads=2, registers=4, drop_path=0.0
    )
    (cells,) = feature_maps(network.eval(), pictures())
    torch.testing.assert_close(cells[:, :, 1, 2], network.patches(pictures())[:, 6])
    with pytest.raises(ValueError, match="last layer only"):
        feature_maps(network, pictures(), last=2)


@torch.no_grad()
def test_a_network_with_a_map_of_its_own() -> None:
    network = build_method("colorization", width=2, depth=1, size=16).backbone.eval()
    (cells,) = feature_maps(network, pictures())
    assert cells.shape == (3, 16, 2, 2)
    torch.testing.assert_close(cells.mean((2, 3)), network(pictures()))
    with pytest.raises(ValueError, match="a Trunk has maps of its last layer only"):
        feature_maps(network, pictures(), last=2)


def test_what_has_no_maps() -> None:
    with pytest.raises(ValueError, match="a Linear has no feature maps"):
        feature_maps(nn.Linear(3, 3), pictures())
    with pytest.raises(ValueError, match="no maps of its last 99 layers"):
        feature_maps(backbone(tiny_resnet()), pictures(), last=99)
