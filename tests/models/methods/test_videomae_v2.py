"""VideoMAE V2's dual masking: what its authors' code says, and VideoMAE where the decoder leaves nothing out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.models import build_method
from headrace.models.losses import normalize_channels
from headrace.models.methods.video.videomae_v2 import VideoMAEV2Config
from headrace.models.parts.masked_vit import encode_visible, patchify_clips, unpatchify_clips
from headrace.pipeline import Batch, Loader, Normalize, RunningCellMask, TubeMask, Views
from headrace.pipeline.masks import PatchMasks
from headrace.shards import ShardSet
from headrace.tools.catalogue import inputs_of
from headrace.train.optim import peak_lr
from headrace.train.recipes import videomae_v2_hybrid
from tests.models.tiny_methods import TINY, tiny
from tests.models.written_weights import waves, write_weights

CUBES = 64
"""Of the tiny form: 4 steps of time, 4 x 4 places."""


@pytest.fixture(scope="module")
def batch(clips_webdataset: ShardSet) -> Batch:
    """8 real clips."""
    with Loader(clips_webdataset, tiny("videomae_v2").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def with_clips(batch: Batch, clips: Tensor) -> Batch:
    return replace(batch, streams={"clip": replace(batch.lone, views=[clips])})


def where(numbers: Tensor) -> Tensor:
    """bool (B, L)."""
    return torch.zeros(len(numbers), CUBES, dtype=torch.bool).scatter(1, numbers, True)


def test_it_asks_for_tubes_and_for_cells() -> None:
    spec: Any = inputs_of("videomae_v2")
    assert spec.masks == (
        TubeMask(grid=(14, 14), frames=8, ratio=0.9),
        RunningCellMask(grid=(14, 14), frames=8, ratio=0.5),
    )
    simple: Any = inputs_of("videomae")
    assert spec.clips == simple.clips


def test_half_of_what_is_hidden_counts(batch: Batch) -> None:
    """In 4 or 8 steps of time of every sample just as many."""
    tubes, cells = batch.masks
    counted = (where(tubes.masked) & where(cells.visible)).sum(dim=1)
    assert (counted == tubes.masked.shape[1] // 2).all()


def test_with_all_hidden_places_asked_for_the_decoder_is_videomae_s(batch: Batch) -> None:
    method: Any = tiny("videomae_v2").eval().double()
    tubes = batch.masks[0]
    encoded = torch.randn(8, tubes.visible.shape[1], 24, dtype=torch.float64)
    first = method.decoder(encoded, tubes.visible, tubes.masked)
    torch.testing.assert_close(method.decoder.at(encoded, tubes.visible, tubes.masked), first)
    views = replace(batch.lone, views=[batch.normalized()[0].double()])
    none_left_out = replace(views, masks=[tubes, PatchMasks(tubes.masked, tubes.visible)])
    found = method.loss(replace(batch, streams={"clip": none_left_out}))
    simple: Any = build_method("videomae", **TINY["videomae_v2"]).double()
    simple.load_state_dict(method.state_dict())
    one_mask = replace(batch, streams={"clip": replace(views, masks=[tubes])})
    torch.testing.assert_close(found["loss"], simple.loss(one_mask)["loss"])


def test_the_loss_is_that_of_a_slow_loop(batch: Batch) -> None:
    method: Any = tiny("videomae_v2").eval().double()
    clips = batch.normalized()[0].double()
    tubes, cells = batch.masks
    cubes = normalize_channels(method.cubes(clips), channels=3)
    decoder, asked = method.decoder, cells.visible
    with torch.no_grad():
        total, number = 0.0, 0
        for row in range(8):
            encoded = encode_visible(method.backbone, clips[row : row + 1], tubes.visible[row : row + 1])
            seen = decoder.embed(encoded) + decoder.positions[tubes.visible[row]]
            tokens = torch.cat([seen, decoder.mask_token + decoder.positions[asked[row]]], dim=1)
            said = decoder.predict(decoder.norm(decoder.blocks(tokens)))[0, seen.shape[1] :]
            for place, prediction in zip(asked[row].tolist(), said, strict=True):
                if place in tubes.masked[row]:
                    total += (prediction - cubes[row, place]).square().mean().item()
                    number += 1
        found = method.loss(with_clips(batch, clips))["loss"]
    assert found.item() == pytest.approx(total / number, rel=1e-10)


def test_the_loss_is_the_authors() -> None:
    """Their model and loss at 29eab1e gave these figures of the same weights, clips and places."""
    method: Any = tiny("videomae_v2")
    write_weights(method)
    masks = [
        mask.draw(0, 0, np.arange(4), number)
        for number, mask in enumerate(
            (TubeMask(grid=(4, 4), frames=4, ratio=0.75), RunningCellMask(grid=(4, 4), frames=4))
        )
    ]
    views = Views(views=[waves(4, 3, 8, 16, 16)], normalize=(Normalize(),), masks=masks)  # type: ignore[arg-type]
    loss = method.loss(Batch(streams={"clip": views}, index=torch.arange(4), labels=None, epoch=0))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(1.0635734530965242, rel=1e-9)
    assert method.decoder.mask_token.grad.norm().item() == pytest.approx(0.1134957595007467, rel=1e-7)
    kernel = method.backbone.patch_embed.proj.weight.grad.norm().item()
    assert kernel == pytest.approx(6.038750467930486e-05, rel=1e-7)


def test_errors_count_at_places_that_were_hidden_from_the_encoder(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that the decoder is asked for."""
    method: Any = tiny("videomae_v2").eval()
    tubes, cells = batch.masks
    hidden = where(tubes.masked).gather(1, cells.visible)
    right = method.decoder.at
    before = method.loss(batch)["loss"]
    for wrong, moves in ((hidden, True), (~hidden, False)):
        monkeypatch.setattr(method.decoder, "at", lambda *given, wrong=wrong: right(*given) + 9.0 * wrong[:, :, None])
        assert (method.loss(batch)["loss"] != before) == moves


def test_pixels_that_the_decoder_leaves_out_are_no_targets(batch: Batch) -> None:
    method: Any = tiny("videomae_v2").eval().double()
    clips = batch.normalized()[0].double()
    tubes, cells = batch.masks
    hidden, asked = where(tubes.masked), where(cells.visible)
    before = method.loss(with_clips(batch, clips))["loss"]
    cubes = patchify_clips(clips, 2, 4)
    for changed, moves in ((hidden & asked, True), (hidden & ~asked, False)):
        noise = torch.where(changed[:, :, None], torch.randn_like(cubes), cubes)
        after = method.loss(with_clips(batch, unpatchify_clips(noise, 2, 4, (4, 4))))["loss"]
        assert (after != before) == moves


def test_the_paper_s_recipe_has_the_authors_steps() -> None:
    config = videomae_v2_hybrid()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(6e-4 * 2048 / 256)
    assert peak_lr(config.optim, config.batch_size) * config.schedule.final == pytest.approx(1e-5 * 2048 / 256)
    assert (config.epochs / 4, config.schedule.warmup_epochs / 4, config.batch_size / 4) == (300, 30, 2048)
    assert (config.optim.clip, config.optim.betas, config.optim.weight_decay) == (0.02, (0.9, 0.95), 0.05)


def test_the_share_that_is_left_out_is_whole_patches_of_a_cell() -> None:
    with pytest.raises(ValueError, match=r"VideoMAEV2Config.decoder_mask_ratio must be 0.25, 0.5 or 0.75, got 0.0"):
        VideoMAEV2Config(decoder_mask_ratio=0.0)
