"""VideoMAE beside `transformers` with the same weights, and what its authors' code says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from headrace.models import BackboneConfig, build_method
from headrace.models.losses import normalize_channels
from headrace.models.methods.video.videomae import VideoMAE, VideoMAEConfig
from headrace.models.parts.masked_vit import encode_visible, patchify_clips, unpatchify_clips
from headrace.models.parts.positions import sine_cosine_line, sine_cosine_volume
from headrace.models.parts.video_vit import QueryValueBias, build_video_vit
from headrace.pipeline import Batch, Clip, ClipSpec, Loader, Normalize, TubeMask, View
from headrace.pipeline.images.view import IMAGENET_MEAN, IMAGENET_STD
from headrace.shards import ShardSet
from headrace.train.optim import peak_lr
from headrace.train.recipes import videomae_k400
from tests.conftest import require_peer
from tests.models.tiny_methods import TINY, tiny

GRID, TIMES = 16, 2
"""Places of a frame and time steps, of the tiny form: 4 x 4 patches, 4 frames in cubes of 2."""


@pytest.fixture(scope="module")
def batch(clips_webdataset: ShardSet) -> Batch:
    """8 real clips."""
    with Loader(clips_webdataset, tiny("videomae").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def doubled(batch: Batch) -> Batch:
    """With normalised views in float64."""
    views = replace(batch.lone, views=[view.double().contiguous() for view in batch.normalized()])
    return replace(batch, streams={"clip": views})


def hidden(batch: Batch) -> Tensor:
    """bool (B, L)."""
    (masks,) = batch.masks
    return torch.zeros(len(batch), GRID * TIMES, dtype=torch.bool).scatter(1, masks.masked, True)  # type: ignore[union-attr]


def clips(count: int = 2, seed: int = 0) -> Tensor:
    """float64 (B, 3, 4, 16, 16)."""
    return torch.randn(count, 3, 4, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# What is seen


def test_it_asks_for_the_authors_clip_and_tubes() -> None:
    """16 frames, every 4th; 176 of 196 places hidden; crops with sides of 0.66 to 1 of the height, never mirrored."""
    with torch.device("meta"):
        spec = build_method("videomae").inputs
    view = View(size=224, scale=(0.33, 0.75), ratio=(6 / 7, 7 / 6), flip=0.0)
    assert spec == ClipSpec([Clip(frames=16, strides=(4,), view=view)], [TubeMask(grid=(14, 14), frames=8, ratio=0.9)])


def test_a_mask_hides_the_same_176_places_in_all_times(batch: Batch) -> None:
    with torch.device("meta"):
        (spec,) = build_method("videomae").inputs.masks  # type: ignore[union-attr]
    masks = spec.draw(0, 0, torch.arange(5).numpy(), 0)
    assert masks.visible.shape == (5, 160)
    seen = torch.zeros(5, 8 * 196, dtype=torch.bool).scatter(1, masks.visible, True).unflatten(1, (8, 196))
    assert (seen == seen[:, :1]).all()
    assert (seen.sum(2) == 196 - 176).all()
    assert not torch.equal(seen[0], seen[1])


def test_cubes_run_through_time_then_rows_with_channels_fastest_and_come_back() -> None:
    clip = torch.arange(2 * 3 * 4 * 4 * 6.0).reshape(2, 3, 4, 4, 6)
    cubes = patchify_clips(clip, 2, 2)
    assert cubes.shape == (2, 12, 24)
    assert torch.equal(cubes[0, 7], clip[0, :, 2:4, 0:2, 2:4].permute(1, 2, 3, 0).flatten())
    assert torch.equal(unpatchify_clips(cubes, 2, 2, (2, 2)), clip)


def test_hidden_pixels_do_not_reach_the_encoder(batch: Batch) -> None:
    method: Any = tiny("videomae").eval()
    (clip,), (masks,) = doubled(batch).views, batch.masks
    method.double()
    cubes = patchify_clips(clip, 2, 4)
    noise = torch.where(hidden(batch)[:, :, None], torch.randn_like(cubes), cubes)
    changed = unpatchify_clips(noise, 2, 4, (2, 4))
    with torch.no_grad():
        first, second = (encode_visible(method.backbone, x, masks.visible) for x in (clip, changed))  # type: ignore[union-attr]
    assert first.shape == (8, 2 * 4, 24), "no class token"
    assert not torch.equal(clip, changed)
    assert torch.equal(first, second)


def test_the_whole_clip_visible_gives_the_tokens_whose_mean_probes_see(batch: Batch) -> None:
    method: Any = tiny("videomae").eval()
    everything = torch.arange(GRID * TIMES).expand(8, -1)
    with torch.no_grad():
        tokens = encode_visible(method.backbone, batch.normalized()[0], everything)
        torch.testing.assert_close(method.encode(batch), tokens.mean(1))


def test_probes_are_shown_the_middle_of_the_video() -> None:
    (clip,) = tiny("videomae").probe_inputs.clips  # type: ignore[union-attr]
    assert (clip.place, clip.frames, clip.strides) == ("center", 4, (2,))
    assert (clip.view.scale, clip.view.ratio, clip.view.flip) == ((1.0, 1.0), (1.0, 1.0), 0.0)


# Targets


def test_each_channel_of_a_cube_is_normalised_by_itself() -> None:
    """A brighter red changes nothing; were all channels taken together, it would. The 1e-6 goes to the deviation."""
    cubes = patchify_clips(clips(), 2, 4)
    brighter = cubes.unflatten(-1, (-1, 3)) + torch.tensor([0.5, 0.0, 0.0])
    torch.testing.assert_close(normalize_channels(brighter.flatten(-2), 3), normalize_channels(cubes, 3))
    assert not torch.allclose(normalize_channels(brighter.flatten(-2), 1), normalize_channels(cubes, 1))
    cube, channel = cubes[1, 5, 1::3], normalize_channels(cubes, 3)[1, 5, 1::3]
    mean = sum(cube.tolist()) / 32
    deviation = (sum((x - mean) ** 2 for x in cube.tolist()) / 31) ** 0.5
    expected = [(x - mean) / (deviation + 1e-6) for x in cube.tolist()]
    assert channel.tolist() == pytest.approx(expected, rel=1e-12)
    assert normalize_channels(torch.full((1, 1, 96), 0.5), 3).abs().max() == 0, "a cube of one colour"


def test_a_decoder_that_says_zero_has_511_of_512() -> None:
    """(n - 1) / n of the n values of a channel in a cube of 2 x 16 x 16: the variance is the unbiased one."""
    target = normalize_channels(patchify_clips(torch.randn(2, 3, 4, 32, 32, dtype=torch.float64), 2, 16), 3)
    assert target.shape == (2, 8, 1536)
    assert target.square().mean().item() == pytest.approx(511 / 512, abs=1e-5)


def test_unnormalised_targets_are_levels_from_0_to_1(batch: Batch) -> None:
    method: Any = build_method("videomae", **{**TINY["videomae"], "normalize_targets": False})
    with torch.no_grad():
        method.decoder.predict.weight.zero_()
        method.decoder.predict.bias.zero_()
        found = method.loss(batch)["loss"]
    levels = patchify_clips(batch.views[0].double() / 255, 2, 4)
    assert found.item() == pytest.approx(levels.square().mean(-1)[hidden(batch)].mean().item(), rel=1e-5)


def test_targets_must_be_pixels() -> None:
    with pytest.raises(ValueError, match=r"VideoMAEConfig.normalize must leave RGB"):
        VideoMAEConfig(normalize=Normalize.lab())
    with pytest.raises(ValueError, match=r"VideoMAEConfig.frames must be a multiple of tubelet_size, got 5"):
        VideoMAEConfig(frames=5)
    with pytest.raises(ValueError, match=r"no whole cubes of 2 x 4 x 4"):
        build_method("videomae", **{**TINY["videomae"], "size": 18})
    with pytest.raises(ValueError, match="resnet18"):
        build_method("videomae", backbone=BackboneConfig(name="resnet18"))


# The networks


def test_positions_are_those_of_one_line_and_are_not_trained() -> None:
    require_peer("transformers")
    from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

    method: Any = tiny("videomae")
    for table, dim in ((method.backbone.pos_embed[0], 24), (method.decoder.positions, 16)):
        assert torch.equal(table, get_sinusoid_encoding_table(GRID * TIMES, dim)[0])
        assert torch.equal(table, sine_cosine_line(GRID * TIMES, dim))
    assert not any("pos" in name for name, _ in method.named_parameters())
    assert not any("pos" in name for name in method.state_dict()), "as the authors' checkpoints"


def test_the_paper_s_networks_have_its_sizes() -> None:
    with torch.device("meta"):
        method: Any = build_method("videomae")
    assert method.backbone.patch_embed.proj.weight.shape == (768, 3, 2, 16, 16)
    assert method.backbone.pos_embed.shape == (1, 1568, 768)
    assert method.decoder.predict.weight.shape == (1536, 384)
    assert (len(method.backbone.blocks), len(method.decoder.blocks)) == (12, 4)
    assert method.decoder.blocks[0].attn.num_heads == 6
    assert method.decoder.embed.bias is None
    assert method.backbone.blocks[0].attn.qkv.bias is None
    assert sum(p.numel() for p in method.parameters()) == 94_210_944  # of the authors' model, counted from their code


def test_weights_begin_as_the_authors_do() -> None:
    """Xavier-uniform layers; the mask token is cut at one deviation, the cubes' kernel is torch's own."""
    method: Any = build_method("videomae", **{**TINY["videomae"], "decoder_dim": 256})
    qkv = method.backbone.blocks[0].attn.qkv.weight
    limit = (6 / (24 + 72)) ** 0.5
    assert 0.9 * limit < qkv.abs().max() <= limit
    for module in method.modules():
        for name in ("q_bias", "v_bias"):
            if hasattr(module, name):
                assert getattr(module, name).abs().max() == 0
    token = method.decoder.mask_token
    assert 0.015 < token.abs().max() <= 0.02
    kernel = method.backbone.patch_embed.proj.weight
    fan_in = 3 * 2 * 4 * 4
    assert 0.9 * fan_in**-0.5 < kernel.abs().max() <= fan_in**-0.5


def test_the_mask_token_is_not_decayed() -> None:
    method: Any = tiny("videomae")
    kernels, vectors = method.parameter_groups()
    assert any(p is method.decoder.mask_token for p in vectors.params)
    assert {p.ndim for p in vectors.params} == {1, 3}
    assert all(p.ndim > 1 and p is not method.decoder.mask_token for p in kernels.params)
    assert vectors.decay_scale == 0.0


def test_the_paper_s_recipe_scales_the_rate_and_its_floor() -> None:
    config = videomae_k400()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(1.5e-4 * 2048 / 256)
    assert config.schedule.final == pytest.approx(1e-5 / 1.5e-4)
    assert (config.optim.betas, config.optim.weight_decay, config.optim.clip) == ((0.9, 0.95), 0.05, 0.0)
    assert (config.epochs, config.schedule.warmup_epochs) == (1600, 40)


def test_networks_for_images_load_and_see_a_still_clip_as_they_saw_the_picture() -> None:
    options = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    config = BackboneConfig(name="vit_tiny_patch16_224", options=options)
    video, _ = build_video_vit(
        config, size=16, frames=2, tubelet=2, attention=QueryValueBias, positions=sine_cosine_volume
    )
    images: Any = timm.create_model(
        config.name, num_classes=0, img_size=16, class_token=False, global_pool="avg", fc_norm=False, **options
    )
    torch.nn.init.normal_(images.blocks[0].attn.qkv.bias)
    weights = images.state_dict()
    del weights["pos_embed"]
    before = {name: value.shape for name, value in weights.items()}
    video.load_state_dict(weights)
    assert {name: value.shape for name, value in weights.items()} == before
    images.pos_embed.data = video.pos_embed
    picture = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        still = video(picture[:, :, None].expand(-1, -1, 2, -1, -1))
        torch.testing.assert_close(still, images(picture), rtol=1e-4, atol=1e-5)


# Beside transformers


AS_FLOAT32 = Normalize(
    mean=tuple(torch.tensor(IMAGENET_MEAN).tolist()),  # type: ignore[arg-type]
    std=tuple(torch.tensor(IMAGENET_STD).tolist()),  # type: ignore[arg-type]
)
"""As `transformers` rounds them."""


def judge_of(method: VideoMAE, normalize: bool) -> Any:
    """Their model with the method's weights, in float64."""
    from transformers import VideoMAEConfig as JudgeConfig
    from transformers import VideoMAEForPreTraining

    judge = VideoMAEForPreTraining(
        JudgeConfig(
            image_size=16, patch_size=4, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=2,
            num_attention_heads=2, intermediate_size=96, decoder_hidden_size=16, decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2, decoder_intermediate_size=64, layer_norm_eps=1e-6, norm_pix_loss=normalize,
            use_mean_pooling=False,
        )
    )  # fmt: skip
    judge.decoder.norm.eps = 1e-6  # as the authors', where theirs has torch's 1e-5
    judge.double().load_state_dict(renamed(dict(method.state_dict())))
    return judge.train()


def renamed(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the method's names under those of `transformers`; `qkv` in three parts."""
    outer = {
        "backbone.patch_embed.proj": "videomae.embeddings.patch_embeddings.projection",
        "backbone.norm": "videomae.layernorm", "backbone.blocks": "videomae.encoder.layer",
        "decoder.embed": "encoder_to_decoder", "decoder.mask_token": "mask_token", "decoder.norm": "decoder.norm",
        "decoder.predict": "decoder.head", "decoder.blocks": "decoder.decoder_layers",
    }  # fmt: skip
    inner = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense", "attn.proj": "attention.output.dense",
        "attn.q_bias": "attention.attention.query.bias", "attn.v_bias": "attention.attention.value.bias",
    }  # fmt: skip
    result = {}
    for name, value in found.items():
        (prefix,) = (prefix for prefix in outer if name == prefix or name.startswith(f"{prefix}."))
        rest = name.removeprefix(prefix)
        if not prefix.endswith("blocks"):
            result[outer[prefix] + rest] = value
            continue
        _, number, part = rest.split(".", 2)
        place = f"{outer[prefix]}.{number}"
        if part == "attn.qkv.weight":
            for third, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                result[f"{place}.attention.attention.{third}.weight"] = chunk
        else:
            (known,) = (known for known in inner if part == known or part.startswith(f"{known}."))
            result[f"{place}.{inner[known]}{part.removeprefix(known)}"] = value
    return result


@pytest.mark.parametrize("normalize", [True, False])
def test_with_the_same_weights_it_is_transformers_with_all_gradients(normalize: bool, batch: Batch) -> None:
    require_peer("transformers")
    changes = {"normalize_targets": normalize, "normalize": AS_FLOAT32}
    method: Any = build_method("videomae", **{**TINY["videomae"], **changes}).double().train()
    with torch.no_grad():  # biases that are not zero
        for parameter in method.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    judge = judge_of(method, normalize)
    batch = doubled(batch)
    theirs = judge(batch.views[0].transpose(1, 2), bool_masked_pos=hidden(batch)).loss
    ours = method.loss(batch)["loss"]
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    ours.backward()
    theirs.backward()
    found = renamed({name: parameter.grad for name, parameter in method.named_parameters()})
    expected = {name: parameter.grad for name, parameter in judge.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


# Pictures


@pytest.mark.parametrize("normalize", [True, False])
def test_pictures_are_the_clip_without_and_with_what_was_hidden(normalize: bool, batch: Batch) -> None:
    method: Any = build_method("videomae", **{**TINY["videomae"], "normalize_targets": normalize}).eval()
    shown = method.pictures(batch)
    assert list(shown) == ["input", "masked", "reconstruction"]
    for picture in shown.values():
        assert picture.shape == (8, 3, 16, 2 * 16)
        assert picture.dtype == torch.float32
        assert 0 <= picture.min() <= picture.max() <= 1
    levels = batch.views[0].float() / 255
    torch.testing.assert_close(shown["input"], torch.cat([levels[:, :, 0], levels[:, :, 2]], dim=3))
    places = hidden(batch).unflatten(1, (2, 4, 4)).permute(0, 2, 1, 3).flatten(2)  # (B, rows, times * columns)
    where = places.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)
    assert (shown["masked"][where] == 0.5).all()
    for name in ("masked", "reconstruction"):
        assert torch.equal(shown[name][~where], shown["input"][~where])
    assert not torch.equal(shown["reconstruction"][where], shown["input"][where])


def test_a_perfect_prediction_is_the_picture(batch: Batch) -> None:
    method: Any = tiny("videomae").eval()
    cubes = patchify_clips(batch.views[0].double() / 255, 2, 4)
    method.decoder.forward = lambda encoded, visible: normalize_channels(cubes, 3)
    shown = method.pictures(batch)
    torch.testing.assert_close(shown["reconstruction"], shown["input"], rtol=0, atol=1e-5)
