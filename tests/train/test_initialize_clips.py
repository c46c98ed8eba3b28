"""First weights of networks of clips: files with the names and shapes of those that others published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from headrace.models import BackboneConfig, build_method
from headrace.models.parts.video_vit import build_video_vit
from headrace.train.weights.initialize import initialize
from tests.models.tiny_methods import TINY, VIT, tiny


def videomae_file(dim: int, blocks: int, patch: int, *, decoder_dim: int, decoder_blocks: int) -> dict[str, Any]:
    """Names and shapes of "model" in a checkpoint of MCG-NJU/VideoMAE at 14ef8d8, modeling_pretrain.py, of cubes of 2
    frames."""
    shapes: dict[str, tuple[int, ...]] = {
        "mask_token": (1, 1, decoder_dim),
        "encoder.patch_embed.proj.weight": (dim, 3, 2, patch, patch),
        "encoder.patch_embed.proj.bias": (dim,),
        "encoder.norm.weight": (dim,),
        "encoder.norm.bias": (dim,),
        "encoder_to_decoder.weight": (decoder_dim, dim),
        "decoder.norm.weight": (decoder_dim,),
        "decoder.norm.bias": (decoder_dim,),
        "decoder.head.weight": (2 * 3 * patch**2, decoder_dim),
        "decoder.head.bias": (2 * 3 * patch**2,),
    }
    for part, width, number in (("encoder", dim, blocks), ("decoder", decoder_dim, decoder_blocks)):
        for block in range(number):
            inner = {
                "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
                "attn.q_bias": (width,), "attn.v_bias": (width,), "attn.qkv.weight": (3 * width, width),
                "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
                "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
                "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
            }  # fmt: skip
            shapes |= {f"{part}.blocks.{block}.{name}": shape for name, shape in inner.items()}
    return shapes


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_the_paper_s_encoder_has_the_names_and_shapes_of_the_authors_file() -> None:
    file = videomae_file(768, 12, 16, decoder_dim=384, decoder_blocks=4)
    with torch.device("meta"):
        method: Any = build_method("videomae")
    theirs = {name.removeprefix("encoder."): shape for name, shape in file.items() if name.startswith("encoder.")}
    assert {name: tuple(x.shape) for name, x in method.backbone.state_dict().items()} == theirs
    assert sum(torch.Size(shape).numel() for shape in file.values()) == 94_210_944, "of their model"


@pytest.mark.parametrize("nested", ["model", "module", ""])
def test_a_pretrained_file_of_videomae_fills_the_encoder(nested: str, tmp_path: Path) -> None:
    tensors = filled(videomae_file(24, 2, 4, decoder_dim=16, decoder_blocks=1))
    torch.save({nested: tensors, "epoch": 799} if nested else tensors, tmp_path / "checkpoint.pth")
    method = tiny("videomae")
    line = initialize(method, tmp_path / "checkpoint.pth")
    own = method.backbone.state_dict()
    assert line.startswith(f"init: {len(own)} of the backbone's {len(own)} tensors are from ")
    assert "not used: decoder.blocks.0.attn.proj.bias, " in line
    assert "missing" not in line
    for name, x in own.items():
        assert torch.equal(x, tensors[f"encoder.{name}"]), name


def test_a_fine_tuned_file_has_no_last_norm(tmp_path: Path) -> None:
    """In fine-tuning one behind the mean, `fc_norm`, stands in its place."""
    pretrained = filled(videomae_file(24, 2, 4, decoder_dim=16, decoder_blocks=1))
    tensors = {name.removeprefix("encoder."): x for name, x in pretrained.items() if name.startswith("encoder.")}
    for kind in ("weight", "bias"):
        tensors[f"fc_norm.{kind}"] = tensors.pop(f"norm.{kind}")
        tensors[f"head.{kind}"] = torch.zeros(400)
    torch.save({"module": tensors}, tmp_path / "checkpoint.pth")
    line = initialize(tiny("videomae"), tmp_path / "checkpoint.pth")
    assert "missing there, left as drawn: norm.bias, norm.weight; " in line
    assert "not used: fc_norm.bias, fc_norm.weight, head.bias and 1 more" in line


@pytest.mark.parametrize("name", ["videomae", "videomae_v2", "vjepa", "vjepa2"])
def test_networks_of_images_are_inflated(name: str, tmp_path: Path) -> None:
    """timm's names; the kernel of a patch is divided among the frames of a cube, and V-JEPA's student has the same."""
    options = {key: value for key, value in VIT.options.items() if key != "dynamic_img_size"}
    images: Any = timm.create_model(VIT.name, num_classes=3, **options)
    for parameter in images.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    torch.save(images.state_dict(), tmp_path / "vit.pth")
    method: Any = tiny(name)
    line = initialize(method, tmp_path / "vit.pth")
    assert "missing" not in line
    assert "not used: cls_token, head.bias, head.weight and 1 more" in line
    assert ("also given to: student" in line) == name.startswith("vjepa")
    kernel = method.backbone.patch_embed.proj.weight
    for frame in range(2):
        torch.testing.assert_close(kernel[:, :, frame], images.patch_embed.proj.weight / 2)
    attention = images.blocks[1].attn
    ours = method.backbone.blocks[1].attn
    assert torch.equal(ours.qkv.weight, attention.qkv.weight)
    bias = torch.cat([ours.q_bias, ours.v_bias]) if name.startswith("videomae") else ours.qkv.bias
    thirds = attention.qkv.bias.chunk(3)
    assert torch.equal(bias, torch.cat([thirds[0], thirds[2]] if name.startswith("videomae") else thirds))


def test_a_file_of_v_jepa_gives_its_slow_copy(tmp_path: Path) -> None:
    """Names of facebookresearch/jepa at 51c59d5, app/vjepa/train.py: each network behind `module.backbone.`."""
    given: Any = tiny("vjepa", seed=3)
    tensors = {f"module.backbone.{name}": x + 0.1 for name, x in given.backbone.state_dict().items()}
    other = {name: x - 1.0 for name, x in tensors.items()}
    tensors["module.backbone.pos_embed"] = torch.zeros(1, 32, 24)
    torch.save({"encoder": other, "predictor": {}, "target_encoder": tensors, "epoch": 3}, tmp_path / "jepa.pth.tar")
    method: Any = tiny("vjepa")
    line = initialize(method, tmp_path / "jepa.pth.tar")
    assert "not used: pos_embed; also given to: student" in line
    for part in (method.backbone, method.student):
        for name, x in part.state_dict().items():
            assert torch.equal(x, tensors[f"module.backbone.{name}"]), name


def test_a_still_clip_gives_what_the_picture_gave() -> None:
    config = BackboneConfig(name=VIT.name, options={**VIT.options, "dynamic_img_size": False})
    sizes = {"size": 16, "frames": 2, "tubelet": 2}
    attention: Any = timm.layers.attention.Attention
    video, _ = build_video_vit(config, **sizes, attention=attention, positions=lambda *grid: torch.zeros(16, grid[-1]))
    images: Any = timm.create_model(
        VIT.name, num_classes=0, **{**config.options, "class_token": False, "global_pool": "avg", "fc_norm": False}
    )
    images.pos_embed.data.zero_()
    weights = {name: x for name, x in images.state_dict().items() if name != "pos_embed"}
    video.load_state_dict(weights)
    picture = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        still = video(picture[:, :, None].expand(-1, -1, 2, -1, -1))
        torch.testing.assert_close(still, images(picture), rtol=1e-4, atol=1e-5)


def test_files_of_another_size_are_refused(tmp_path: Path) -> None:
    tensors = filled(videomae_file(32, 2, 4, decoder_dim=16, decoder_blocks=1))
    torch.save({"model": tensors}, tmp_path / "checkpoint.pth")
    method = build_method("videomae", **TINY["videomae"])
    with pytest.raises(ValueError, match=r"checkpoint.pth: patch_embed.proj.weight has the shape \(32, 3, 2, 4, 4\)"):
        initialize(method, tmp_path / "checkpoint.pth")
