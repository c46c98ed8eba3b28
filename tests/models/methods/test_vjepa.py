"""V-JEPA: what the encoder, its slow copy and the predictor may know, beside what its authors' code says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.models import BackboneConfig, Context, build_method
from headrace.models.losses import absolute_regression
from headrace.models.methods.video.vjepa import VJEPAConfig
from headrace.models.parts.positions import sine_cosine_volume
from headrace.pipeline import Batch, Clip, Loader, Normalize, TubeBlockMask, View, Views
from headrace.pipeline.masks import ContextMasks
from headrace.shards import ShardSet
from headrace.tools.catalogue import inputs_of
from headrace.train.recipes import vjepa_videomix2m
from tests.models.tiny_methods import TINY, tiny
from tests.models.written_weights import waves, write_weights

CUBES = 32
"""Of the tiny form: 2 steps of time, 4 x 4 places."""


@pytest.fixture(scope="module")
def batch(clips_webdataset: ShardSet) -> Batch:
    """8 real clips."""
    with Loader(clips_webdataset, tiny("vjepa").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def with_clips(batch: Batch, clips: Tensor, masks: list[ContextMasks] | None = None) -> Batch:
    views = replace(batch.lone, views=[clips], masks=batch.masks if masks is None else masks)
    return replace(batch, streams={"clip": views})


# What is seen


def test_it_asks_for_the_authors_clip_and_blocks() -> None:
    spec: Any = inputs_of("vjepa")
    view = View(size=224, scale=(0.3, 1.0), ratio=(0.75, 1.35), flip=0.5)
    assert spec.clips == (Clip(frames=16, strides=(4,), view=view),)
    common: dict[str, Any] = {"grid": (14, 14), "frames": 8, "aspect": (0.75, 1.5)}
    assert spec.masks == (
        TubeBlockMask(**common, blocks=8, scale=0.15, longest=0.235),
        TubeBlockMask(**common, blocks=2, scale=0.7, longest=0.066),
    )


def changed_at(clips: Tensor, cube: int) -> Tensor:
    """With other pixels in one of 2 x 4 x 4 cubes of 2 x 4 x 4."""
    changed = clips.clone()
    time, place = divmod(cube, 16)
    row, column = divmod(place, 4)
    changed[:, :, 2 * time : 2 * time + 2, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.0
    return changed


@pytest.mark.parametrize("name", ["vjepa", "vjepa2"])
def test_the_prediction_knows_the_context_only_and_the_slow_copy_all(name: str, batch: Batch) -> None:
    method: Any = tiny(name).eval()
    clips = batch.normalized()[0].contiguous()
    with torch.no_grad():
        nn.init.normal_(method.predictor.mask_tokens[0])
        for masks in batch.masks:
            count, wanted = int(masks.context_count[0]), int(masks.target_count[0, 0])
            hidden, seen = int(masks.targets[0, 0, 0]), int(masks.context[0, 0])
            before, elsewhere, inside = (
                method.predictor(method.encode_context(x, masks), masks, 0)[0, :wanted]
                for x in (clips, changed_at(clips, hidden), changed_at(clips, seen))
            )
            assert count > 0
            assert torch.equal(before, elsewhere)
            assert not torch.allclose(before, inside)
            others = masks.targets[0, 0, 1:wanted]
            first, second = (method.targets(x)[0, others] for x in (clips, changed_at(clips, hidden)))
            assert not torch.allclose(first, second)


@pytest.mark.parametrize("name", ["vjepa", "vjepa2"])
def test_padding_changes_nothing(name: str, batch: Batch) -> None:
    """A sample with its own cubes alone has the prediction that it has among others."""
    method: Any = tiny(name).eval()
    clips = batch.normalized()[0]
    with torch.no_grad():
        for kind, masks in enumerate(batch.masks):
            together = method.predictor(method.encode_context(clips, masks), masks, kind)
            for row in range(8):
                count, wanted = int(masks.context_count[row]), int(masks.target_count[row, 0])
                own = ContextMasks(
                    masks.context[row : row + 1, :count], masks.context_count[row : row + 1],
                    masks.targets[row : row + 1, :, :wanted], masks.target_count[row : row + 1],
                )  # fmt: skip
                alone = method.predictor(method.encode_context(clips[row : row + 1], own), own, kind)
                torch.testing.assert_close(together[row : row + 1, :wanted], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vjepa", "vjepa2"])
def test_cubes_may_come_in_any_order_with_their_places(name: str, batch: Batch) -> None:
    method: Any = tiny(name).eval().double()
    clips = batch.normalized()[0].double()
    masks = batch.masks[1]
    count, wanted = int(masks.context_count.min()), int(masks.target_count.min())
    cut = ContextMasks(
        masks.context[:, :count], torch.full((8,), count), masks.targets[:, :, :wanted], torch.full((8, 1), wanted)
    )
    order = torch.randperm(count)
    mixed = cut._replace(context=cut.context[:, order])
    with torch.no_grad():
        first, second = (method.predictor(method.encode_context(clips, each), each, 1) for each in (cut, mixed))
    torch.testing.assert_close(first, second)


def test_each_kind_of_masks_has_a_token_of_its_own(batch: Batch) -> None:
    method: Any = tiny("vjepa")
    assert [token.abs().max().item() for token in method.predictor.mask_tokens] == [0.0, 0.0]
    method.loss(batch)["loss"].backward()
    first, second = (token.grad for token in method.predictor.mask_tokens)
    assert first.abs().max() > 0
    assert second.abs().max() > 0
    assert not torch.equal(first, second)


# The loss


def test_the_distance_is_that_of_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    count = torch.tensor([[1, 4], [2, 2], [3, 1]])
    samples = []
    for row in range(3):
        distances = [
            abs(prediction[row, t, k, d] - target[row, t, k, d]).item()
            for t in range(2)
            for k in range(int(count[row, t]))
            for d in range(5)
        ]
        samples.append(sum(distances) / len(distances))
    found = absolute_regression(prediction, target, count)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(sum(samples) / 3, rel=1e-12)
    assert absolute_regression(prediction.bfloat16(), target, count).dtype == torch.float64


def test_saying_zero_of_normal_targets_costs_0_80() -> None:
    """The mean of |x| of a normal distribution, sqrt(2 / pi)."""
    target = torch.randn(50, 1, 40, 100, generator=torch.Generator().manual_seed(0))
    found = absolute_regression(torch.zeros_like(target), target, torch.full((50, 1), 40))
    assert found.item() == pytest.approx((2 / torch.pi) ** 0.5, abs=2e-3)


@pytest.mark.parametrize("name", ["vjepa", "vjepa2"])
def test_the_slow_copy_gets_no_gradient_and_its_scale_is_lost(name: str, batch: Batch) -> None:
    method: Any = tiny(name).eval()
    before = method.loss(batch)["loss"]
    before.backward()
    assert all(p.grad is None for p in method.backbone.parameters())
    with torch.no_grad():  # the last norm's output three times as large
        method.backbone.norm.weight.mul_(3)
        method.backbone.norm.bias.mul_(3)
    torch.testing.assert_close(method.loss(batch)["loss"], before, rtol=1e-5, atol=0)


def test_the_loss_is_the_mean_over_kinds_of_masks(batch: Batch) -> None:
    method: Any = tiny("vjepa").eval().double()
    clips = batch.normalized()[0].double()
    targets, total = method.targets(clips), 0.0
    with torch.no_grad():
        for kind, masks in enumerate(batch.masks):
            prediction = method.predictor(method.encode_context(clips, masks), masks, kind)
            for row in range(8):
                count = int(masks.target_count[row, 0])
                wanted = targets[row, masks.targets[row, 0, :count]]
                total += (prediction[row, :count] - wanted).abs().mean().item() / 16
        assert method.loss(with_clips(batch, clips))["loss"].item() == pytest.approx(total, rel=1e-10)


def test_the_loss_is_the_authors() -> None:
    """Their encoder, predictor and loss_fn at 51c59d5 gave these figures of the same weights, clips and places."""
    method: Any = tiny("vjepa")
    write_weights(method)
    with torch.no_grad():
        for slow, fast in zip(method.backbone.double().parameters(), method.student.parameters(), strict=True):
            slow.copy_(0.9 * fast)
    masks = [
        cut(TubeBlockMask(grid=(4, 4), frames=2, blocks=blocks, scale=scale).draw(0, 0, np.arange(4), number))
        for number, (blocks, scale) in enumerate(((8, 0.15), (2, 0.7)))
    ]
    views = Views(views=[waves(4, 3, 4, 16, 16)], normalize=(Normalize(),), masks=masks)  # type: ignore[arg-type]
    batch = Batch(streams={"clip": views}, index=torch.arange(4), labels=None, epoch=0)
    loss = method.loss(batch)["loss"]
    loss.backward()
    tokens = [token.grad.norm().item() for token in method.predictor.mask_tokens]
    assert loss.item() == pytest.approx(0.8911430831044267, rel=1e-9)
    assert tokens == pytest.approx([0.01714176251739455, 0.02947221278017279], rel=1e-7)
    kernel = method.student.patch_embed.proj.weight.grad.norm().item()
    assert kernel == pytest.approx(4.948687729998811e-05, rel=1e-7)


def cut(masks: ContextMasks) -> ContextMasks:
    """To the same counts for all samples, as theirs are."""
    samples, count, wanted = len(masks.context), int(masks.context_count.min()), int(masks.target_count.min())
    counts = torch.full((samples,), count), torch.full((samples, 1), wanted)
    return ContextMasks(masks.context[:, :count], counts[0], masks.targets[:, :, :wanted], counts[1])


# The networks


def test_positions_are_three_parts_of_the_width() -> None:
    table = sine_cosine_volume(2, 3, 4, 16)
    assert table.shape == (24, 16)
    part = 6  # ceil(16 / 6) * 2
    for number in range(24):
        time, row, column = number // 12, number // 4 % 3, number % 4
        waves_of = [place / 10000 ** (k / 3) for place in (time, row, column) for k in range(3)]
        expected = []
        for axis in range(3):
            angles = torch.tensor(waves_of[3 * axis : 3 * axis + 3], dtype=torch.float64)
            expected += [*angles.sin(), *angles.cos()]
        torch.testing.assert_close(table[number], torch.stack(expected)[:16].float())
    assert torch.equal(table[0, :part], table[11, :part]), "the same time"


def test_positions_are_fixed_and_mask_tokens_decay() -> None:
    method: Any = tiny("vjepa")
    torch.testing.assert_close(method.student.pos_embed[0], sine_cosine_volume(2, 4, 4, 24))
    torch.testing.assert_close(method.predictor.positions, sine_cosine_volume(2, 4, 4, 16))
    assert not any("pos" in name for name in method.state_dict())
    kernels, vectors = method.parameter_groups()
    assert all(any(p is token for p in kernels.params) for token in method.predictor.mask_tokens)
    assert vectors.decay_scale == 0
    assert all(p.ndim == 1 for p in vectors.params)
    assert not any(p.requires_grad for p in method.backbone.parameters())
    assert method.layered is method.student


def test_layers_are_not_drawn_smaller_with_depth() -> None:
    options = {"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 2}
    backbone = BackboneConfig(name="vit_tiny_patch16_224", options=options)
    method: Any = build_method("vjepa", **{**TINY["vjepa"], "backbone": backbone})
    for block in method.student.blocks:
        for weight in (block.attn.qkv.weight, block.attn.proj.weight, block.mlp.fc2.weight):
            assert weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not block.attn.qkv.bias.any()
    assert method.student.patch_embed.proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not method.student.patch_embed.proj.bias.any()


def test_the_slow_copy_begins_equal_and_follows_on_a_line() -> None:
    method: Any = tiny("vjepa")
    slow, fast = method.backbone.blocks[0].mlp.fc1.weight, method.student.blocks[0].mlp.fc1.weight
    assert torch.equal(slow, fast)
    before = slow.clone()
    with torch.no_grad():
        fast.add_(1.0)
        length = {"steps_per_epoch": 10, "epochs": 10, "batch_size": 8}
        for step, momentum in ((0, 0.998), (50, 0.9988)):
            slow.copy_(before)
            method.after_step(Context(step=step, epoch=step // 10, **length))
            torch.testing.assert_close(slow - before, torch.full_like(slow, 1 - momentum), rtol=1e-3, atol=1e-6)


def test_the_paper_s_recipe_has_the_authors_steps_and_ends_where_theirs_does() -> None:
    config, run = VJEPAConfig(), vjepa_videomix2m()
    assert config.final_momentum == pytest.approx(0.998 + (1 - 0.998) / 1.25)
    assert run.epochs * 2_000_000 / run.batch_size == pytest.approx(90_000, rel=0.01)
    warmed = 40 / 300
    assert run.schedule.warmup_epochs / run.epochs == pytest.approx(warmed)
    way = torch.tensor((1 - warmed) / (1.25 - warmed))
    assert run.schedule.final == pytest.approx(((1 + (torch.pi * way).cos()) / 2).item(), abs=2e-3)
    decay = 0.4 + (0.04 - 0.4) * (1 + (torch.pi * torch.tensor(1 / 1.25)).cos()) / 2
    assert run.schedule.final_weight_decay == pytest.approx(decay.item(), abs=1e-3)


# Pictures


def test_pictures_are_the_clip_the_contexts_and_the_targets(batch: Batch) -> None:
    shown = tiny("vjepa").eval().pictures(batch)
    assert list(shown) == ["input", "context 0", "targets 0", "context 1", "targets 1"]
    for picture in shown.values():
        assert picture.shape == (8, 3, 16, 2 * 16)
    for kind, masks in enumerate(batch.masks):
        for row in range(8):
            for name, numbers, count in (
                ("context", masks.context[row], masks.context_count[row]),
                ("targets", masks.targets[row, 0], masks.target_count[row, 0]),
            ):
                kept = set(numbers[:count].tolist())
                for cube in range(CUBES):
                    time, place = divmod(cube, 16)
                    top, left = 4 * (place // 4), 16 * time + 4 * (place % 4)
                    box = (row, slice(None), slice(top, top + 4), slice(left, left + 4))
                    found, expected = shown[f"{name} {kind}"][box], shown["input"][box]
                    assert torch.equal(found, expected if cube in kept else torch.full_like(found, 0.5))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"VJEPAConfig.block_scale must be as many numbers as blocks"):
        VJEPAConfig(blocks=(8,))
    with pytest.raises(ValueError, match=r"VJEPAConfig.predictor_dim must be a multiple of its heads, got 100"):
        VJEPAConfig(predictor_dim=100)
    with pytest.raises(ValueError, match="resnet18"):
        build_method("vjepa", backbone=BackboneConfig(name="resnet18"))
