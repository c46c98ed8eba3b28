"""V-JEPA 2 beside `transformers` with the same weights; attention that turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.models import BackboneConfig, build_method
from headrace.models.methods.video.vjepa2 import VJEPA2Config
from headrace.models.parts.masked_vit import take
from headrace.models.parts.rotary import RotaryAttention, Turns, turned, turns_of
from headrace.pipeline import Batch, Loader
from headrace.pipeline.masks import ContextMasks
from headrace.shards import ShardSet
from headrace.train.recipes import vjepa2_videomix22m
from tests.conftest import require_peer
from tests.models.tiny_methods import TINY, tiny

CUBES = 32


@pytest.fixture(scope="module")
def batch(clips_webdataset: ShardSet) -> Batch:
    """8 real clips."""
    with Loader(clips_webdataset, tiny("vjepa2").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def logits(turns: Turns, places: list[int]) -> Tensor:
    """Products of the same queries and keys at some of the places."""
    q, k = (torch.randn(1, 1, 5, 20, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    at = Turns(turns.cos.double(), turns.sin.double()).at(torch.tensor([places]))
    return turned(q, at) @ turned(k, at).transpose(2, 3)


@pytest.mark.parametrize(("tiled", "relative"), [(False, True), (True, False)])
def test_moving_all_places_changes_nothing_but_in_the_authors_code(tiled: bool, relative: bool) -> None:
    turns = turns_of(4, 5, 6, 20, tiled=tiled)
    places = [0, 7, 31, 40, 62]
    moved = [place + 30 + 6 + 1 for place in places]  # one time, one row, one column
    before, after = logits(turns, places), logits(turns, moved)
    assert torch.allclose(before, after, rtol=0, atol=1e-5) == relative


def test_each_third_of_a_head_turns_with_its_axis_and_the_rest_not_at_all() -> None:
    turns = turns_of(3, 4, 5, 20, tiled=False)
    third = 6  # 2 * ((20 // 3) // 2)
    x = torch.randn(1, 1, 60, 20, generator=torch.Generator().manual_seed(0)).double()
    places = torch.arange(60)
    found = turned(x, Turns(turns.cos.double(), turns.sin.double()))[0, 0]
    for number in range(60):
        axes = number // 20, number // 5 % 4, number % 5
        for axis, place in enumerate(axes):
            for pair in range(3):
                angle = torch.tensor(place / 10000 ** (pair / 3), dtype=torch.float64)
                i = third * axis + 2 * pair
                a, b = x[0, 0, number, i : i + 2]
                expected = torch.stack([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])
                torch.testing.assert_close(found[number, i : i + 2], expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(found[:, 18:], x[0, 0, places, 18:])
    with pytest.raises(ValueError, match="heads need 6 numbers or more"):
        turns_of(2, 2, 2, 4, tiled=False)


# Beside transformers


def judge_of(method: Any) -> Any:
    """Their model with the method's weights, in float64. It has one encoder, which is given the student's weights, and
    ten mask tokens, of which the second is used."""
    from transformers import VJEPA2Config as TheirConfig
    from transformers import VJEPA2Model

    config = TheirConfig(
        patch_size=4, crop_size=16, frames_per_clip=4, tubelet_size=2, hidden_size=24, num_attention_heads=2,
        num_hidden_layers=2, mlp_ratio=4.0, pred_hidden_size=16, pred_num_attention_heads=2, pred_num_hidden_layers=1,
        pred_num_mask_tokens=2, attn_implementation="sdpa",
    )  # fmt: skip
    judge = VJEPA2Model(config).double()
    judge.load_state_dict(renamed(method))
    return judge.train()


def renamed(method: Any, gradients: bool = False) -> dict[str, Tensor]:
    """Of the student and the predictor under the names of `transformers`; `qkv` in three parts."""
    outer = {
        "student.patch_embed.proj": "encoder.embeddings.patch_embeddings.proj", "student.norm": "encoder.layernorm",
        "student.blocks": "encoder.layer", "predictor.embed": "predictor.embeddings.predictor_embeddings",
        "predictor.norm": "predictor.layernorm", "predictor.project": "predictor.proj",
        "predictor.blocks": "predictor.layer",
    }  # fmt: skip
    given = {name: p.grad if gradients else p.detach() for name, p in method.named_parameters() if p.requires_grad}
    tokens = [given.pop(f"predictor.mask_tokens.{kind}") for kind in range(2)]
    result = {"predictor.embeddings.mask_tokens": torch.stack(tokens)}
    for name, value in given.items():
        (prefix,) = (prefix for prefix in outer if name.startswith(f"{prefix}."))
        rest = name.removeprefix(prefix)
        if ".attn.qkv." in rest:
            block, _, kind = rest.rpartition(".attn.qkv.")
            for third, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                result[f"{outer[prefix]}{block}.attention.{third}.{kind}"] = chunk
        else:
            result[outer[prefix] + rest.replace(".attn.", ".attention.")] = value
    return result


def cut(masks: ContextMasks) -> ContextMasks:
    """To the same counts for all samples, as theirs are."""
    count, wanted = int(masks.context_count.min()), int(masks.target_count.min())
    samples = len(masks.context)
    return ContextMasks(
        masks.context[:, :count], torch.full((samples,), count), masks.targets[:, :, :wanted],
        torch.full((samples, 1), wanted),
    )  # fmt: skip


def test_with_the_same_weights_and_their_turns_it_is_transformers_with_all_gradients(batch: Batch) -> None:
    """The frequencies of a part stand one behind the other, `tiled_frequencies`, as in the authors' code."""
    require_peer("transformers")
    method: Any = build_method("vjepa2", **TINY["vjepa2"], tiled_frequencies=True).double().train()
    with torch.no_grad():  # no zeros, and a slow copy that is not the student
        for parameter in method.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    for table in (method.student, method.backbone, method.predictor):  # as exact as theirs in float64
        side = table is method.predictor
        exact = exact_turns(8 if side else 12)
        table.cos, table.sin = exact
    judge = judge_of(method)
    clips = batch.normalized()[0].double()
    masks = [cut(each) for each in batch.masks]
    targets = method.targets(clips)
    with torch.no_grad():
        theirs = judge_of_slow_copy(method)(clips.transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(targets, torch.nn.functional.layer_norm(theirs, (24,)), rtol=1e-9, atol=1e-9)
    losses = []
    for kind, each in enumerate(masks):
        tokens = take(judge.encoder.embeddings(clips.transpose(1, 2)), each.context)
        for layer in judge.encoder.layer:
            tokens = layer(tokens, each.context)[0]
        tokens = judge.encoder.layernorm(tokens)
        whole = torch.zeros(8, CUBES, 24, dtype=torch.float64)
        whole = whole.scatter(1, each.context[:, :, None].expand(-1, -1, 24), tokens)
        embed = judge.predictor.embeddings.forward
        judge.predictor.embeddings.forward = lambda *given, kind=kind, embed=embed: embed(*given, mask_index=kind)
        said = judge.predictor(whole, [each.context], [each.targets[:, 0]]).last_hidden_state
        judge.predictor.embeddings.forward = embed
        losses.append((said - take(targets, each.targets[:, 0])).abs().mean())
    theirs = sum(losses) / 2
    views = replace(batch.lone, views=[clips], masks=masks)
    ours = method.loss(replace(batch, streams={"clip": views}))["loss"]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    ours.backward()
    theirs.backward()
    found = renamed(method, gradients=True)
    expected = {name: parameter.grad for name, parameter in judge.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def judge_of_slow_copy(method: Any) -> Any:
    """Their encoder with the slow copy's weights."""
    twin: Any = build_method("vjepa2", **TINY["vjepa2"], tiled_frequencies=True).double()
    twin.load_state_dict(method.state_dict())
    twin.student.load_state_dict(method.backbone.state_dict())
    return judge_of(twin).encoder


def exact_turns(head_dim: int) -> Turns:
    """Those of `turns_of` in float64."""
    half = head_dim // 6
    omega = 1 / 10000 ** (torch.arange(half, dtype=torch.float64) / half)
    number = torch.arange(CUBES)
    angles = [(axis[:, None] * omega).repeat(1, 2) for axis in (number // 16, number // 4 % 4, number % 4)]
    angle = torch.cat([*angles, torch.zeros(CUBES, head_dim - 6 * half, dtype=torch.float64)], dim=1)
    return Turns(angle.cos(), angle.sin())


def test_tables_are_those_turns() -> None:
    for head_dim in (8, 12):
        for found, expected in zip(turns_of(2, 4, 4, head_dim, tiled=True), exact_turns(head_dim), strict=True):
            torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-7)


# The rest


def test_layers_begin_the_smaller_the_deeper_they_lie() -> None:
    options = {"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 2}
    backbone = BackboneConfig(name="vit_tiny_patch16_224", options=options)
    method: Any = build_method(
        "vjepa2", **{**TINY["vjepa2"], "backbone": backbone, "predictor_dim": 64, "predictor_depth": 3}
    )
    for blocks in (method.student.blocks, method.predictor.blocks):
        for number, block in enumerate(blocks, 1):
            assert isinstance(block.attn, RotaryAttention)
            for weight in (block.attn.proj.weight, block.mlp.fc2.weight):
                assert weight.std().item() == pytest.approx(0.02 / (2 * number) ** 0.5, rel=0.06)
            assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(method.backbone.blocks[3].mlp.fc2.weight, method.student.blocks[3].mlp.fc2.weight)


def test_the_pace_is_constant() -> None:
    config, run = VJEPA2Config(), vjepa2_videomix22m()
    assert config.momentum == config.final_momentum == 0.99925
    assert (run.schedule.final, run.schedule.final_weight_decay, run.optim.clip) == (1.0, None, 0.0)
    assert (run.optim.lr, run.optim.weight_decay) == (5.25e-4, 0.04)
    assert run.epochs * 22_000_000 / run.batch_size == pytest.approx(240_000, rel=0.02)
    assert run.schedule.warmup_epochs / run.epochs == pytest.approx(40 / 800)


def test_the_networks_have_as_many_weights_as_transformers() -> None:
    """Theirs have the authors' defaults of ViT-L, but for ten mask tokens."""
    require_peer("transformers")
    from transformers import VJEPA2Config as TheirConfig
    from transformers import VJEPA2Model

    with torch.device("meta"):
        method: Any = build_method("vjepa2")
        judge = VJEPA2Model(TheirConfig(pred_num_mask_tokens=2))
    for ours, theirs in ((method.student, judge.encoder), (method.predictor, judge.predictor)):
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert method.student.cos.shape == (8 * 16 * 16, 64)
    assert method.predictor.cos.shape == (8 * 16 * 16, 32)
