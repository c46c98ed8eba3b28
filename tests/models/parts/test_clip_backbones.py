"""Networks of clips beside torchvision's own, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from headrace.models.layout import channels_last
from headrace.models.method import kernels_and_vectors
from headrace.models.parts.clip_backbones import (
    CONVOLUTIONS,
    ClipBackboneConfig,
    build_clip_backbone,
    tiny_clip_resnet,
)
from headrace.train.layers import layered

PARAMETERS = {"r3d_18": 33_371_472, "mc3_18": 11_695_440, "r2plus1d_18": 31_505_325}
"""Of torchvision's published weights, with a classifier of 400 classes."""


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_torchvision_s_weights_load_and_give_its_features(name: Any) -> None:
    theirs: Any = getattr(torchvision.models.video, name)()
    assert sum(p.numel() for p in theirs.parameters()) == PARAMETERS[name]
    theirs.fc = nn.Identity()
    ours, dim = build_clip_backbone(ClipBackboneConfig(name=name))
    assert dim == 512
    ours.load_state_dict({key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")})
    clips = torch.randn(1, 3, 5, 24, 20)
    with torch.no_grad():
        assert torch.equal(ours.eval()(clips), theirs.eval()(clips))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_narrow_one_takes_small_clips_and_has_the_stated_dimension(name: Any) -> None:
    network, dim = build_clip_backbone(tiny_clip_resnet(name, width=8))
    clips = torch.randn(2, 3, 4, 16, 16)
    assert dim == 64
    features = network(clips)
    assert features.shape == (2, dim)
    features.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    channels_last(network)
    with torch.no_grad():
        changed = network.eval()(clips.contiguous(memory_format=torch.channels_last_3d))
        assert changed.isfinite().all()


def test_the_order_of_frames_reaches_the_features() -> None:
    network, _ = build_clip_backbone(tiny_clip_resnet(width=8))
    clips = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad():
        first, second = (network.eval()(each) for each in (clips, clips.flip(2)))
    assert not torch.allclose(first, second, rtol=1e-3)


def test_its_layers_are_a_stem_and_its_blocks() -> None:
    network, _ = build_clip_backbone(ClipBackboneConfig(width=8))
    scales = {group.lr_scale for group in layered(kernels_and_vectors(network), network, 0.5)}
    assert scales == {0.5**layer for layer in range(1, 1 + 1 + 8)}, "a stem and eight blocks"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClipBackboneConfig(name="r3d"), "name must be one of r3d_18, mc3_18, r2plus1d_18, got r3d"),  # type: ignore[arg-type]
        (lambda: ClipBackboneConfig(stem="tiny"), "stem must be 'standard' or 'small', got tiny"),  # type: ignore[arg-type]
        (lambda: ClipBackboneConfig(width=4), "width must be at least 8, got 4"),
        (lambda: ClipBackboneConfig(layers=(1, 1, 1, 0)), r"layers must be four positive numbers, got (1, 1, 1, 0)"),
    ],
)
def test_refusals_name_the_value(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("frames", [4, 8, 16])
def test_gradients_under_autocast_are_those_of_float32_on_the_cpu(name: Any, frames: int) -> None:
    """Of networks in which a kernel of three frames goes over two."""
    network, _ = build_clip_backbone(tiny_clip_resnet(name, width=8))
    channels_last(network)
    clips = torch.randn(8, 3, frames, 16, 16).contiguous(memory_format=torch.channels_last_3d)
    weight = torch.randn(8, 64)
    gradients = []
    for mixed in (False, True):
        network.zero_grad()
        unwritten = [torch.full((200_000,), float("nan")) for _ in range(4)]
        del unwritten  # memory in which what is not written shows
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            (network(clips).float() * weight).sum().backward()
        gradients.append({key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None})
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-3, atol=1e-3, msg=lambda m, k=key: f"{k}: {m}")
