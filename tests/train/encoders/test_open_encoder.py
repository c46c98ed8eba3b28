"""Encoders from runs, from files of timm's networks and from names: whose features they are, and what is refused."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from headrace.models import BackboneConfig
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, Normalize
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.train import RunError, load_run
from headrace.train.encoders import describe, open_encoder
from headrace.train.encoders.encoder import Encoder
from headrace.train.encoders.preprocessing import shown_as_described, shown_by_timm, timm_says
from headrace.train.run import first_weights
from tests.train.kept_runs import kept_run

TINY_RESNET: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}


def first_batch(encoder: Encoder, shards: ShardSet) -> Batch:
    with Loader(shards, encoder.inputs, 8, shuffle=False) as loader:
        return next(iter(loader))


@torch.no_grad()
def features(encoder: Encoder, shards: ShardSet) -> torch.Tensor:
    return encoder.encode(first_batch(encoder, shards))


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "dino"
    kept_run(out, "dino", "seed=3", "loader.on_error=substitute", "loader.max_bad=4")
    return out


def test_a_run_is_its_newest_checkpoints_method(run: Path, digits_webdataset: ShardSet) -> None:
    encoder = open_encoder(run)
    config, method = load_run(run)
    assert torch.equal(features(encoder, digits_webdataset), method.encode(first_batch(encoder, digits_webdataset)))
    assert encoder.method is encoder.module
    assert encoder.backbone is encoder.method.backbone
    assert (encoder.name, encoder.inputs, encoder.side) == ("dino", method.probe_inputs, 16)
    assert (encoder.feature_dim, encoder.max_bad) == (24, 4)
    of_file = open_encoder(run / "checkpoints" / "step-00000001.pt")
    assert of_file.digest == encoder.digest
    first = first_weights(config, None)[1].eval()
    untrained = encoder.untrained()
    assert all(torch.equal(x, first.state_dict()[name]) for name, x in untrained.module.state_dict().items())
    assert untrained.digest == encoder.untrained().untrained().digest != encoder.digest


def test_the_digest_is_of_weights_network_and_what_is_shown(run: Path, tmp_path: Path) -> None:
    seen = {open_encoder(run).digest}
    changed = open_encoder(run)
    next(changed.backbone.parameters()).data.view(-1)[0] += 1e-3
    seen.add(changed.digest)
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    for number, normalize in enumerate((Normalize(), Normalize(mean=(0.5, 0.5, 0.5)))):
        kept_run(
            tmp_path / str(number), "rotation", size=16, normalize=normalize,
            backbone=BackboneConfig(name="vit_tiny_patch16_224", options=options),
        )  # fmt: skip
        seen.add(open_encoder(tmp_path / str(number)).digest)
    assert len(seen) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in seen)


# Networks of timm's


@pytest.fixture(scope="module")
def network() -> Any:
    """A small ResNet of timm's with a classifier."""
    with seeded(5):
        model = timm.create_model("resnet18", num_classes=7, **TINY_RESNET).eval()
        for x in model.buffers():
            if x.is_floating_point():
                x += 0.3 * torch.rand_like(x)
    return model


def config_json(**cfg: Any) -> dict[str, Any]:
    said = {
        "input_size": [3, 28, 28],
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": [0.4] * 3,
        "std": [0.3] * 3,
    }
    return {"architecture": "resnet18", "num_classes": 7, "model_args": TINY_RESNET, "pretrained_cfg": {**said, **cfg}}


@pytest.fixture(scope="module")
def folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in timm's layout."""
    path = tmp_path_factory.mktemp("timm")
    save_file(network.state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config_json()), encoding="utf-8")
    return path


@torch.no_grad()
def pooled(network: Any, view: torch.Tensor) -> torch.Tensor:
    """What stands in front of timm's classifier."""
    return network.forward_head(network.forward_features(view), pre_logits=True)


def test_a_folder_of_timms_is_shown_the_middle(folder: Path, network: Any, digits_webdataset: ShardSet) -> None:
    encoder = open_encoder(folder)
    (view,) = first_batch(encoder, digits_webdataset).normalized()
    assert view.shape == (8, 3, 32, 32)
    expected = pooled(network, view[..., 2:30, 2:30])
    assert torch.equal(features(encoder, digits_webdataset), expected)
    assert (encoder.name, encoder.side, encoder.feature_dim, encoder.method) == ("resnet18", 28, 16, None)
    untrained = encoder.untrained()
    assert untrained.digest == open_encoder(folder).untrained().digest != encoder.digest
    assert not torch.equal(features(untrained, digits_webdataset), expected)


@pytest.mark.parametrize(
    ("prefix", "nest"), [("", ""), ("module.encoder_q.", "state_dict"), ("backbone.", "teacher"), ("timm_model.", "")]
)
def test_files_of_other_programs(
    prefix: str, nest: str, network: Any, digits_webdataset: ShardSet, tmp_path: Path
) -> None:
    tensors = {prefix + name: x for name, x in network.state_dict().items()}
    torch.save({nest: tensors, "epoch": 3} if nest else tensors, tmp_path / "weights.pth")
    (tmp_path / "weights.json").write_text(json.dumps(config_json()), encoding="utf-8")
    encoder = open_encoder(tmp_path / "weights.pth")
    (view,) = first_batch(encoder, digits_webdataset).normalized()
    assert torch.equal(features(encoder, digits_webdataset), pooled(network, view[..., 2:30, 2:30]))


def test_a_name_says_what_a_file_does_not(tmp_path: Path) -> None:
    name = "test_vit.r160_in1k"
    with seeded(2):
        model = timm.create_model(name).eval()
    save_file(model.state_dict() | {"queue": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(RunError, match=r"does not say which network its weights are of; name a timm model with --timm"):
        open_encoder(tmp_path / "x.safetensors")
    with pytest.warns(UserWarning, match="1 tensors of it are not used, such as queue"):
        encoder = open_encoder(tmp_path / "x.safetensors", timm=name)
    batch = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(encoder.backbone(batch), pooled(model, batch))


def test_a_name_alone_is_random_weights_that_are_always_the_same() -> None:
    encoder = open_encoder("test_vit.r160_in1k")
    assert encoder.digest == encoder.untrained().digest == open_encoder("test_vit.r160_in1k").digest
    assert (encoder.side, encoder.inputs.views[0].size) == (160, 168)  # type: ignore[union-attr]


def pictures(shape: tuple[int, int]) -> np.ndarray:
    """A photograph, cut to (height, width)."""
    from sklearn.datasets import load_sample_image

    return np.ascontiguousarray(load_sample_image("china.jpg")[: shape[0], : shape[1]])


@pytest.mark.parametrize(("shape", "interpolation"), [((400, 400), "bicubic"), ((400, 633), "bilinear")])
def test_pixels_are_those_that_timm_shows(shape: tuple[int, int], interpolation: str, tmp_path: Path) -> None:
    """Levels of a square picture are timm's but for rounding; of another one they may lie half a pixel elsewhere."""
    pixels = pictures(shape)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    samples = [{"__key__": "china", "image": file.getvalue()}]
    write_shards(tmp_path / "set", samples, {"image": Field(kind="image", encoding="png")})
    cfg = {
        "input_size": (3, 112, 112),
        "crop_pct": 0.9,
        "interpolation": interpolation,
        "mean": (0.5,) * 3,
        "std": (1.0,) * 3,
    }
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=cfg), is_training=False)
    theirs = transform(Image.fromarray(pixels))
    shown, differs = shown_by_timm(cfg)
    assert differs == []
    with open_shards(tmp_path / "set") as shards, Loader(shards, shown.inputs, 1, shuffle=False) as loader:
        (view,) = next(iter(loader)).normalized()
    start = round((view.shape[-1] - 112) / 2)
    ours = view[0, :, start : start + 112, start : start + 112]
    difference = 255 * (ours - theirs).abs()
    if shape[0] == shape[1]:
        assert difference.max() <= 2
        assert difference.mean() < 0.3
    else:
        shifted = 255 * (ours - theirs.roll(1, dims=2)).abs()[..., 1:]
        assert difference.mean() < 0.5 * shifted.mean()


def test_what_is_shown_comes_back_from_its_description() -> None:
    shown, _ = shown_by_timm({"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.9})
    assert shown_as_described(json.loads(json.dumps(describe(*shown)))) == shown
    again, _ = shown_by_timm(timm_says(*shown))
    assert again == shown


def test_what_timm_does_otherwise_is_said() -> None:
    cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "lanczos", "crop_mode": "squash", "crop_pct": 0.9}
    shown, differs = shown_by_timm(cfg)
    assert shown.inputs.views[0].size == shown.side == 224
    assert differs == [
        "its pictures are resized by lanczos, here by bicubic",
        "its pictures are made square by squash, here by the largest centred square",
    ]


# What is refused


def test_bad_sources_are_one_line(folder: Path, network: Any, tmp_path: Path) -> None:
    def why(source: Path | str, **options: Any) -> str:
        with pytest.raises(RunError) as caught:
            open_encoder(source, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert why("resnet8") == "resnet8: no such run, file or timm model"
    (tmp_path / "empty").mkdir()
    assert "neither a run (no checkpoints) nor a timm network" in why(tmp_path / "empty")
    (tmp_path / "bad.safetensors").write_bytes(b"not")
    assert why(tmp_path / "bad.safetensors").startswith(f"{tmp_path / 'bad.safetensors'}: cannot be read (")
    (tmp_path / "bad.pt").write_bytes(b"not")
    assert "not a readable checkpoint" in why(tmp_path / "bad.pt")
    weights = folder / "model.safetensors"
    assert why(weights, timm="resnet8") == "resnet8: no model that timm lists"
    assert why(weights, timm="vit_tiny_patch16_224").startswith(
        f"{weights}: lacks cls_token, pos_embed, patch_embed.proj.weight and "
    )
    broken = {name: x.clone() for name, x in network.state_dict().items()}
    broken["bn1.weight"][0] = torch.nan
    for name, tensors, cfg, reason in (
        ("nan", broken, config_json(), "bn1.weight is not finite"),
        (
            "wide",
            network.state_dict(),
            config_json(input_size=[3, 28, 32]),
            "it takes 3 x 28 x 32, and views are squares",
        ),
        ("wrong", network.state_dict(), {**config_json(), "architecture": "resnet1"}, "'resnet1' is no timm model"),
        (
            "shape",
            network.state_dict(),
            {**config_json(), "model_args": {**TINY_RESNET, "channels": [8, 8, 8, 24]}},
            "layer4.0.conv1.weight has the shape (16, 8, 3, 3), and (24, 8, 3, 3) in timm's ResNet",
        ),
        ("args", network.state_dict(), {**config_json(), "model_args": {"layrs": 3}}, "layrs"),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        (tmp_path / f"{name}.json").write_text(json.dumps(cfg), encoding="utf-8")
        assert reason in why(tmp_path / f"{name}.safetensors")
    (tmp_path / "nan.json").write_text("{", encoding="utf-8")
    assert "nan.json: not JSON" in why(tmp_path / "nan.safetensors")
