"""Recipes are whole, valid, and hold the values that their docstrings cite."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.models import build_method
from headrace.train import RunConfig
from headrace.train.optim import peak_lr
from headrace.train.recipes import RECIPES, simclr_cifar10, simclr_digits, simclr_imagenet


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_yaml_and_builds(name: str, tmp_path: Path) -> None:
    config = RECIPES[name](data="shards", out="run")
    assert (config.data, config.out) == ("shards", "run")
    config.save(tmp_path / "run.yaml")
    assert RunConfig.load(tmp_path / "run.yaml") == config
    assert RECIPES[name].__name__ == name
    assert RECIPES[name].__doc__
    assert build_method(config.method, config.model).feature_dim > 0


def test_imagenet_has_the_papers_values() -> None:
    config = simclr_imagenet()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(4.8)
    assert (config.optim.name, config.optim.momentum, config.optim.weight_decay) == ("lars", 0.9, 1e-6)
    assert (config.model.temperature, config.model.projection_dim, config.model.backbone.name) == (0.1, 128, "resnet50")
    assert config.model.interpolation == "bicubic"
    assert (config.epochs, config.schedule.warmup_epochs, config.sync_batch_norm) == (100, 10, True)


def test_cifar10_has_lightlys_values() -> None:
    config = simclr_cifar10()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(0.06 * 512 / 128)
    assert (config.model.temperature, config.model.strength, config.model.blur) == (0.5, 0.5, 0.0)
    assert (config.model.backbone.stem, config.model.interpolation) == ("small", "bilinear")


def test_digits_are_never_mirrored() -> None:
    assert simclr_digits().model.flip == 0.0
