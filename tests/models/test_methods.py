"""What every method in the table promises, and SimCLR's own views."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from headrace.models import METHODS, Method, build_method
from headrace.models.backbones import tiny_resnet
from headrace.models.methods.simclr import SimCLRConfig, simclr_views
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, ViewSpec, plan
from headrace.pipeline.batch import drawn_views
from headrace.pipeline.masks import draw_masks
from headrace.pipeline.presets import PRESETS

SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"size": 16, "projection_hidden": 32, "projection_dim": 16, "backbone": tiny_resnet(width=8)},
}


def noise_batch(spec: Any, samples: int) -> Batch:
    """Noise in the shape of a batch of `spec`: uint8, channels-last, with masks and draws, without labels."""
    assert isinstance(spec, ViewSpec)
    noise, ids = np.random.default_rng(0), np.arange(samples)
    pixels = [noise.integers(0, 256, (samples, v.size, v.size, 3), np.uint8) for v in spec.views]
    return Batch(
        views=[torch.from_numpy(p).permute(0, 3, 1, 2) for p in pixels],
        index=torch.from_numpy(ids),
        labels=None,
        epoch=0,
        normalize=tuple(v.normalize for v in spec.views),
        masks=draw_masks(spec.masks, 0, 0, ids),
        drawn=drawn_views(plan(spec, 0, 0, ids, np.full((samples, 2), 256))),
    )


def small(name: str, seed: int = 0) -> Method:
    return build_method(name, seed=seed, **SMALL[name])


def test_every_method_is_tested_here() -> None:
    assert SMALL.keys() == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_a_scalar_that_trains_every_trainable_weight(name: str) -> None:
    method = small(name)
    terms = method.loss(noise_batch(method.views, 6))
    for term, value in terms.items():
        assert value.shape == (), term
        assert value.isfinite(), term
        assert value.requires_grad == (term == "loss"), term
    terms["loss"].backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_falls(name: str) -> None:
    method = small(name)
    batch = noise_batch(method.views, 16)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(15):
        loss = method.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_features_have_the_stated_dimension(name: str) -> None:
    method = small(name).eval()
    assert isinstance(method.views, ViewSpec)
    size = method.views.views[0].size
    assert method.encode(torch.zeros(3, 3, size, size)).shape == (3, method.feature_dim)


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_a_function_of_the_seed_and_of_nothing_else(name: str) -> None:
    before = torch.get_rng_state()
    one, same, other = small(name).state_dict(), small(name).state_dict(), small(name, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", METHODS)
def test_every_config_field_is_documented_and_keyword_only(name: str) -> None:
    import inspect

    config = METHODS[name].config
    source = inspect.getsource(config)
    for field in fields(config):
        assert field.kw_only, field.name
        declaration = source.index(f"    {field.name}:")
        assert source[declaration:].split("\n", 1)[1].lstrip().startswith('"""'), field.name


def test_build_method_says_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="unknown method 'simclrr'; did you mean 'simclr'"):
        build_method("simclrr")
    with pytest.raises(ValueError, match="SimCLRConfig has no field 'temprature'; did you mean 'temperature'"):
        build_method("simclr", temprature=0.2)
    with pytest.raises(ValueError, match="temperature must be above 0, got -1"):
        build_method("simclr", temperature=-1)
    with pytest.raises(ValueError, match="simclr is configured by SimCLRConfig, got dict"):
        build_method("simclr", {})


def test_simclr_asks_for_the_papers_views() -> None:
    assert simclr_views(SimCLRConfig()) == PRESETS["simclr"].views()
    first, second = simclr_views(SimCLRConfig()).views
    assert first == second
    assert first.interpolation == "bicubic"
    assert (first.size, first.scale, first.flip, first.grayscale) == (224, (0.08, 1.0), 0.5, 0.2)
    assert (first.jitter, first.brightness, first.contrast, first.saturation, first.hue) == (0.8, 0.8, 0.8, 0.8, 0.2)
    assert (first.blur, first.blur_sigma, first.blur_taps, first.solarize) == (0.5, (0.1, 2.0), 23, 0.0)
    halved = simclr_views(SimCLRConfig(strength=0.5)).views[0]
    assert (halved.brightness, halved.contrast, halved.saturation, halved.hue) == (0.4, 0.4, 0.4, 0.1)
    assert simclr_views(SimCLRConfig(strength=0)).views[0].jitter == 0


def test_simclrs_last_norm_scales_but_does_not_shift() -> None:
    method = small("simclr")
    trainable = {name for name, p in method.named_parameters() if p.requires_grad}
    assert "projector.4.weight" in trainable
    assert "projector.4.bias" not in trainable


def test_seeded_draws_repeat_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()

    def draw(*key: int) -> torch.Tensor:
        with seeded(*key):
            return torch.rand(4)

    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(2, 1))
    assert torch.equal(torch.get_rng_state(), before)
