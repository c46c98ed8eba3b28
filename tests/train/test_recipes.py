"""Recipes are whole, valid, and hold the values that their docstrings cite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.models import METHODS, build_method
from headrace.pipeline import ClipSpec, TextSpec, ViewSpec
from headrace.pipeline.streams import spec_of, streams_of
from headrace.shards import Field, write_shards
from headrace.tools.sources.mnist import digits
from headrace.train import RunConfig, train
from headrace.train.optim import peak_lr
from headrace.train.recipes import RECIPES, simclr_cifar10, simclr_digits, simclr_imagenet, simclr_small
from headrace.train.schedule import dropped
from tests import texts
from tests.clips import STACK_FIELDS, stacks
from tests.conftest import DIGIT_FIELDS, digit_samples, require_peer
from tests.models.tiny_methods import require_libraries
from tests.sounds import SOUND_FIELDS, sounds

IMAGES = {"joint", "masked", "pretext"}
"""Families whose methods take images."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_yaml_and_builds(name: str, tmp_path: Path) -> None:
    config = RECIPES[name](data="shards", out="run")
    assert (config.data, config.out) == ("shards", "run")
    config.save(tmp_path / "run.yaml")
    assert RunConfig.load(tmp_path / "run.yaml") == config
    assert RECIPES[name].__name__ == name
    assert RECIPES[name].__doc__
    require_libraries(config.method)
    with torch.device("meta"):  # the largest have billions of weights
        assert build_method(config.method, config.model).feature_dim > 0


def test_imagenet_has_the_papers_values() -> None:
    config = simclr_imagenet()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(4.8)
    assert (config.optim.name, config.optim.momentum, config.optim.weight_decay) == ("lars", 0.9, 1e-6)
    assert (config.model.temperature, config.model.projection_dim, config.model.backbone.name) == (0.1, 128, "resnet50")
    assert config.model.interpolation == "bicubic"
    assert (config.epochs, config.schedule.warmup_epochs, config.sync_batch_norm) == (100, 10, True)


@pytest.mark.parametrize(
    ("name", "peak", "optimizer", "decay"),
    [
        ("moco_v1", 0.03, "sgd", 1e-4),
        ("moco_v2", 0.03, "sgd", 1e-4),
        ("moco_v3", 9.6, "lars", 1e-6),
        ("byol", 3.2, "lars", 1.5e-6),
        ("simsiam", 0.1, "sgd", 1e-4),
        ("nnclr", 4.8, "lars", 1e-6),
        ("densecl", 0.03, "sgd", 1e-4),
        ("ressl", 0.05, "sgd", 1e-4),
        ("barlow_twins", 1.6, "lars", 1e-6),
        ("vicreg", 1.6, "lars", 1e-6),
        ("w_mse", 2e-3, "adamw", 1e-6),
        ("tico", 0.2, "lars", 1.5e-6),
        ("lejepa", 5e-4, "adamw", 5e-4),
        ("dino", 1e-3, "adamw", 0.04),
        ("msn", 1e-3, "adamw", 0.04),
        ("swav", 4.8, "lars", 1e-6),
        ("deepcluster", 0.05, "sgd", 1e-5),
        ("deepcluster_v2", 4.8, "lars", 1e-6),
        ("rotation", 0.01, "sgd", 5e-4),
        ("jigsaw", 0.01, "sgd", 5e-4),
        ("block_order", 0.001, "sgd", 5e-4),
        ("context_prediction", 0.02, "sgd", 0.0),
        ("instance_discrimination", 0.03, "sgd", 1e-4),
        ("mae", 2.4e-3, "adamw", 0.05),
        ("ijepa", 1e-3, "adamw", 0.04),
        ("aim", 1e-3, "adamw", 0.05),
        ("data2vec2", 1e-3, "adamw", 0.05),
        ("capi", 1e-3, "adamw", 0.1),
        ("colorization", 3e-5, "adamw", 1e-3),
        ("inpainting", 2e-3, "adamw", 0.0),
        ("simmim", 8e-4, "adamw", 0.05),
        ("maskfeat", 1.6e-3, "adamw", 0.05),
        ("data2vec", 2e-3, "adamw", 0.05),
        ("beit", 1.5e-3, "adamw", 0.05),
    ],
)
def test_imagenet_is_what_each_method_s_authors_ran(name: str, peak: float, optimizer: str, decay: float) -> None:
    config = RECIPES[f"{name}_imagenet"]()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(peak)
    assert (config.optim.name, config.optim.weight_decay) == (optimizer, decay)
    assert config.model == METHODS[name].config()  # the defaults are the authors'
    assert config.optim.name != "lars" or not config.optim.lr_in_momentum


@pytest.mark.parametrize(
    ("name", "peak", "rates"),
    [
        ("rotation", 0.01, {0: 1e-2, 14: 1e-2, 15: 1e-3, 30: 1e-4, 49: 1e-5}),
        ("jigsaw", 0.01, {0: 1e-2, 19: 1e-2, 20: 1e-3, 40: 1e-4, 69: 1e-5}),
        ("block_order", 1e-3, {0: 1e-3, 29: 1e-3, 30: 1e-4, 79: 1e-5}),
        ("colorization", 3e-5, {0: 3e-5, 6: 3e-5, 7: 3e-6, 15: 3e-7}),
        ("instance_discrimination", 0.03, {0: 0.03, 119: 0.03, 120: 3e-3, 199: 3e-4}),
    ],
)
def test_rates_fall_where_the_authors_let_them_fall(name: str, peak: float, rates: dict[int, float]) -> None:
    schedule = RECIPES[f"{name}_imagenet"]().schedule
    assert (schedule.final, schedule.warmup_epochs) == (1.0, 0)  # else a cosine
    assert {epoch: peak * dropped(epoch, schedule.drops) for epoch in rates} == pytest.approx(rates)


@pytest.mark.parametrize(
    ("name", "peak", "optimizer", "decay", "length"),
    [
        ("frame_order_ucf101", 1e-3, "sgd", 5e-4, (1342, 128)),
        ("sorting_ucf101", 0.01, "sgd", 5e-4, (1141, 64)),
        ("clip_order_ucf101", 1e-3, "sgd", 5e-4, (300, 8)),
        ("pace_ucf101", 1e-3, "sgd", 5e-3, (180, 30)),
        ("time_contrastive_pouring", 1e-3, "adamw", 1e-6, (20_000, 2)),
        ("cvrl_k600", 0.32, "sgd", 1e-6, (200, 1024)),
        ("rho_simclr_k400", 1.2, "lars", 1e-6, (200, 64)),
        ("rho_moco_k400", 0.1, "sgd", 1e-4, (200, 64)),
        ("rho_byol_k400", 0.6, "lars", 1e-6, (200, 64)),
    ],
)
def test_clips_are_what_each_method_s_authors_ran(
    name: str, peak: float, optimizer: str, decay: float, length: tuple[int, int]
) -> None:
    config = RECIPES[name]()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(peak)
    assert (config.optim.name, config.optim.weight_decay) == (optimizer, decay)
    assert (config.epochs, config.batch_size) == length
    assert config.model == METHODS[config.method].config()
    assert config.optim.name != "lars" or not config.optim.lr_in_momentum


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("frame_order_ucf101", {0: 1e-3, 1073: 1e-3, 1074: 1e-4, 1341: 1e-4}),
        ("sorting_ucf101", {0: 0.01, 871: 0.01, 872: 1e-3}),
        ("clip_order_ucf101", {0: 1e-3, 299: 1e-3}),
        ("pace_ucf101", {0: 1e-3, 59: 1e-3, 60: 1e-4, 179: 1e-5}),
    ],
)
def test_rates_of_clips_fall_where_the_authors_let_them_fall(name: str, rates: dict[int, float]) -> None:
    config = RECIPES[name]()
    assert (config.schedule.final, config.schedule.warmup_epochs) == (1.0, 0)
    found = {epoch: config.optim.lr * dropped(epoch, config.schedule.drops) for epoch in rates}
    assert found == pytest.approx(rates)


def test_cifar10_has_lightlys_values() -> None:
    config = simclr_cifar10()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(0.06 * 512 / 128)
    assert (config.model.temperature, config.model.strength, config.model.blur) == (0.5, 0.5, 0.0)
    assert (config.model.backbone.stem, config.model.interpolation) == ("small", "bilinear")


@pytest.mark.parametrize(
    ("name", "peak", "optimizer", "decay"),
    [
        ("barlow_twins", 0.3, "lars", 1e-4),
        ("byol", 1.0, "lars", 1e-5),
        ("deepcluster_v2", 0.6, "lars", 1e-6),
        ("dino", 0.3, "lars", 1e-6),
        ("moco_v2", 0.3, "sgd", 1e-4),
        ("moco_v3", 0.3, "lars", 1e-6),
        ("nnclr", 0.4, "lars", 1e-5),
        ("ressl", 0.05, "sgd", 1e-4),
        ("simsiam", 0.5, "sgd", 1e-5),
        ("swav", 0.6, "lars", 1e-6),
        ("vicreg", 0.3, "lars", 1e-4),
        ("w_mse", 2e-3, "adamw", 1e-6),
    ],
)
def test_cifar10_is_what_solo_learn_ran(name: str, peak: float, optimizer: str, decay: float) -> None:
    config = RECIPES[f"{name}_cifar10"]()
    assert peak_lr(config.optim, config.batch_size) == peak
    assert (config.optim.name, config.optim.weight_decay, config.optim.momentum) == (optimizer, decay, 0.9)
    assert (config.epochs, config.batch_size) == (1000, 256)
    if optimizer == "lars":
        assert (config.optim.trust, config.optim.clip_rate, config.optim.lr_in_momentum) == (0.02, True, False)
    backbone = config.model.backbone
    assert (backbone.name, backbone.stem, backbone.stem_stride) == ("resnet18", "small", 1)
    views = build_method(name, config.model).inputs
    assert isinstance(views, ViewSpec)
    for number, view in enumerate(views.views):
        assert view.size == 32
        assert view.scale == ((0.2, 1.0) if name in ("vicreg", "w_mse") else (0.08, 1.0))
        assert view.normalize.std == (0.2470, 0.2435, 0.2616)
        if name in ("barlow_twins", "byol", "dino", "moco_v3", "nnclr"):
            assert (view.brightness, view.saturation, view.hue) == (0.4, 0.2, 0.1)
            assert (view.blur, view.solarize) == (0.0, 0.2 * number)
        if name in ("deepcluster_v2", "swav"):
            assert (view.brightness, view.saturation, view.hue, view.blur) == (0.8, 0.8, 0.2, 0.5)
        if name == "w_mse":
            assert (view.brightness, view.saturation, view.hue, view.blur) == (0.8, 0.8, 0.2, 0.0)
        if name in ("moco_v2", "simsiam"):
            assert (view.brightness, view.saturation, view.hue, view.blur) == (0.4, 0.4, 0.1, 0.5)
    assert len(views.views) == 2


def test_small_is_digits_under_a_general_name() -> None:
    assert simclr_small() == simclr_digits()


def test_every_method_has_a_small_recipe() -> None:
    assert {f"{name}_small" for name in METHODS} == {name for name in RECIPES if name.endswith("_small")}
    assert all(RECIPES[f"{name}_small"]().method == name for name in METHODS)
    of_images = [name for name, entry in METHODS.items() if entry.family in IMAGES]
    assert len({RECIPES[f"{name}_small"]().epochs for name in of_images}) == 1  # so that all see as many samples


@pytest.fixture(scope="module")
def some_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 real ones."""
    path = tmp_path_factory.mktemp("digits") / "set"
    pixels, labels = digits()
    samples = (
        {"__key__": str(i), "image": np.repeat(pixels[i, :, :, None], 3, axis=2), "label": int(labels[i])}
        for i in range(0, 4992, 78)
    )
    write_shards(path, samples, {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int")})
    return path


@pytest.fixture(scope="module")
def some_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 real ones."""
    require_peer("av")
    path = tmp_path_factory.mktemp("clips") / "set"
    write_shards(path, stacks(64), STACK_FIELDS)
    return path


@pytest.fixture(scope="module")
def some_sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 notes."""
    require_peer("soundfile")
    path = tmp_path_factory.mktemp("sounds") / "set"
    write_shards(path, sounds(64), SOUND_FIELDS)
    return path


@pytest.fixture(scope="module")
def some_captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 digits with real texts beside them."""
    path = tmp_path_factory.mktemp("captions") / "set"
    samples = (sample | {"text": text} for sample, text in zip(digit_samples(7), texts.paragraphs()[:64], strict=False))
    write_shards(path, samples, DIGIT_FIELDS | {"text": Field(kind="text")})
    return path


DATA = {"video": "some_clips", "sound": "some_sounds", "text": "some_captions", "pairs": "some_captions"}
"""Fixtures for families that do not take images alone."""
FOR_FEW_SAMPLES = {"deepcluster": ["model.clusters=50"]}
"""Changes to recipes that need more than 64."""


@pytest.mark.parametrize("name", METHODS)
def test_a_small_recipe_takes_its_first_steps(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    require_libraries(name)
    data = request.getfixturevalue(DATA.get(METHODS[name].family, "some_digits"))
    config = RECIPES[f"{name}_small"](data=str(data), out=str(tmp_path / "run"))
    if METHODS[name].family in ("text", "pairs"):
        config = config.with_overrides([f"model.tokenizer={texts.words()}"])
    changes = ["epochs=2", "batch_size=32", "precision=float32", "log.tensorboard=false", "log.every_steps=1"]
    changes += FOR_FEW_SAMPLES.get(name, [])
    losses: list[float] = []
    result = train(config.with_overrides(changes), progress=False, on_step=lambda record: losses.append(record["loss"]))
    assert result.step == 4
    assert np.isfinite(losses).all()
    assert len(set(losses)) == 4


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.family in (*IMAGES, "video")])
def test_small_pictures_and_clips_are_never_mirrored(name: str) -> None:
    require_libraries(name)
    config = RECIPES[f"{name}_small"]()
    streams = streams_of(build_method(config.method, config.model).inputs)
    for spec in map(spec_of, streams.values()):
        views = [] if isinstance(spec, TextSpec) else spec.views.views if isinstance(spec, ClipSpec) else spec.views
        assert all(view.flip == 0.0 for view in views)
