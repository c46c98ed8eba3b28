"""CAPI: places, who looks at whom, how clusters share out, and what reaches what."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headrace.models import Context, build_method
from headrace.models.methods.masked.capi import CAPIConfig
from headrace.models.parts.masked_vit import patchify, unpatchify
from headrace.models.parts.rope_vit import RopeBlock, frequencies_of, turned
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, Normalize, RolledBlockMask
from headrace.shards import ShardSet
from headrace.tools.catalogue import inputs_of
from headrace.train.optim import build_optimizer
from headrace.train.recipes import capi_imagenet
from tests.models.authors_views import in_torchvisions_words, plain
from tests.models.tiny_methods import TINY, tiny


@pytest.fixture(scope="module")
def batch(digits_webdataset: ShardSet) -> Batch:
    with Loader(digits_webdataset, tiny("capi").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_view_and_mask() -> None:
    inputs: Any = inputs_of("capi")
    assert in_torchvisions_words(inputs.views) == [plain(224, 0.6)]
    assert inputs.views[0].interpolation == "bicubic"
    mask = RolledBlockMask(grid=(16, 16), ratio=0.65, predicted=0.05, aspect=(0.5, 2.0), roll=True)
    assert inputs.masks == (mask,)


def test_the_defaults_are_the_authors() -> None:
    config, run = CAPIConfig(), capi_imagenet()
    assert (config.dim, config.depth, config.predictor_depth, config.heads) == (1024, 24, 12, 16)
    assert (config.patch, config.registers, config.drop_path, config.clusters) == (14, 16, 0.2, 16384)
    assert (config.target_temperature, config.temperature, config.iterations) == (0.06, 0.12, 3)
    assert (config.momentum, config.momentum_warmup, config.cosine_share) == (0.999, 0.1, 0.8)
    player = run.optim.players["clusters"]
    assert (player.lr, player.weight_decay, player.betas) == (5e-4, 0.01, (0.9, 0.95))
    assert run.schedule.final == pytest.approx((1 + math.cos(0.8 * math.pi)) / 2, abs=1e-4)
    steps = run.epochs * (1_281_167 / run.batch_size)
    assert steps == pytest.approx(500_000, rel=2e-3)
    assert run.schedule.warmup_epochs / run.epochs == 0.1


def test_there_are_no_biases_but_of_the_patches_and_the_clusters() -> None:
    method: Any = tiny("capi")
    assert {name for name, _ in method.named_parameters() if name.endswith("bias")} == {
        "student.patch_embed.bias", "backbone.patch_embed.bias", "clusters.bias",
    }  # fmt: skip
    norms = [module for module in method.student.modules() if isinstance(module, nn.RMSNorm)]
    assert len(norms) == 2 * (2 + 2) + 2
    assert all(norm.eps == 1e-5 for norm in norms)
    assert method.student.norm.weight is None
    assert method.student.predictor_norm.weight is None


def test_tokens_turn_as_in_the_authors_code() -> None:
    dim = 8
    frequencies = frequencies_of(dim)
    x, places = torch.randn(1, 1, 3, dim), torch.tensor([[[0.0, 0.0], [0.25, 0.5], [1.0, 0.2]]])
    found = turned(x, places, frequencies)
    turns = [7.0 * (7.0 / 7e-4) ** -(k / (dim // 4 - 1)) for k in range(dim // 4)] * 2  # of a half
    for token in range(3):
        row, column = places[0, token].tolist()
        values = x[0, 0, token].tolist()
        for k in range(dim // 2):
            of_row, of_column = 2 * math.pi * turns[k] * row, 2 * math.pi * turns[k] * column
            first, second = values[k], values[k + dim // 2]
            expected = first * math.cos(of_row) - second * math.sin(of_row)
            assert found[0, 0, token, k].item() == pytest.approx(expected, abs=1e-4)
            expected = second * math.cos(of_column) + first * math.sin(of_column)
            assert found[0, 0, token, k + dim // 2].item() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(found[0, 0, 0], x[0, 0, 0])


def test_autocast_does_not_round_angles() -> None:
    x, places = torch.randn(1, 2, 5, 8), torch.rand(1, 5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = turned(x, places, frequencies_of(8))
    assert torch.equal(found, turned(x, places, frequencies_of(8)))


def judge_of(block: RopeBlock) -> nn.MultiheadAttention:
    """torch's attention with the weights of a block's."""
    attention = block.attention
    judge = nn.MultiheadAttention(16, 2, bias=False, batch_first=True)
    weights = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
    judge.load_state_dict({"in_proj_weight": weights, "out_proj.weight": attention.project.weight})
    return judge


def test_a_block_is_torchs_where_all_tokens_stand_at_one_place() -> None:
    with seeded(0):
        block = RopeBlock(16, 2, 0.0).eval()
        x, others = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    judge = judge_of(block)
    normal = block.norm1(x)
    for given in (None, others):
        looked_at = normal if given is None else given
        middle = x + judge(normal, looked_at, looked_at, need_weights=False)[0]
        expected = middle + block.mlp(block.norm2(middle))
        places = None if given is None else torch.zeros(3, 7, 2)
        found = block(x, torch.zeros(3, 5, 2), given, places)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_registers_stand_around_what_is_visible() -> None:
    method: Any = tiny("capi").eval()
    visible = torch.tensor([[1, 2, 5, 6], [0, 3, 12, 15]])  # of rows 0 and 1 and columns 1 and 2; the corners
    _, places = method.student.encode(torch.randn(2, 3, 16, 16), visible)
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    torch.testing.assert_close(places[0, :4], torch.tensor([0.0, 1 / 3]) + square / 3)
    torch.testing.assert_close(places[1, :4], square)
    torch.testing.assert_close(places[0, 4:], torch.tensor([[0, 1], [0, 2], [1, 1], [1, 2]]) / 3)
    edge = build_method("capi", **{**TINY["capi"], "registers": 8}).student.edge  # type: ignore[union-attr]
    half = [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1], [0.5, 1], [0, 1], [0, 0.5]]
    torch.testing.assert_close(edge, torch.tensor(half))


def test_the_encoder_knows_the_visible_patches_alone(batch: Batch) -> None:
    method: Any = tiny("capi").eval()
    (images,), (masks,) = batch.normalized(), batch.masks
    images = images.contiguous()
    hidden = torch.ones(8, 16, dtype=torch.bool).scatter(1, masks.visible, False)
    patches = patchify(images, 4)
    changed = unpatchify(torch.where(hidden[:, :, None], torch.randn_like(patches), patches), 4, 4)
    found = [method.student.encode(x, masks.visible)[0] for x in (images, changed)]
    assert found[0].shape == (8, 4 + 6, 24)
    assert torch.equal(*found)


def test_a_prediction_does_not_depend_on_what_else_is_asked(batch: Batch) -> None:
    method: Any = tiny("capi").eval()
    (images,), (masks,) = batch.normalized(), batch.masks
    encoded, places = method.student.encode(images, masks.visible)
    together = method.student.predict(encoded, places, masks.masked)
    for query in (0, 3):
        alone = method.student.predict(encoded, places, masks.masked[:, query : query + 1])
        torch.testing.assert_close(together[:, query], alone[:, 0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together[:, 0], together[:, 3], atol=1e-3)


def test_clusters_have_equal_shares_at_each_place() -> None:
    method: Any = build_method("capi", **{**TINY["capi"], "iterations": 30})
    with seeded(0):
        similarity = 0.1 * torch.randn(48, 16, 12)
    similarity[:, 3] += 20 * torch.arange(12)  # one place is all one cluster's
    assigned = method.assigned(similarity)
    assert assigned.shape == (48, 16, 12)
    torch.testing.assert_close(assigned.sum(dim=2), torch.ones(48, 16))
    torch.testing.assert_close(assigned.sum(dim=0), torch.full((16, 12), 4.0), rtol=0, atol=0.1)


def gradients_of(method: Any, term: Tensor) -> set[str]:
    """The parts of the method that a term reaches."""
    named = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(term, [p for _, p in named], allow_unused=True)
    return {name.split(".")[0] for (name, _), gradient in zip(named, found, strict=True) if gradient is not None}


def test_the_clusters_loss_reaches_them_alone_and_the_prediction_s_all_else(batch: Batch) -> None:
    method: Any = tiny("capi").eval()
    for parts, others in ((["clusters"], ["student", "head"]), (["student", "head"], ["clusters"])):
        for name in others:
            getattr(method, name).requires_grad_(False)
        assert gradients_of(method, method.loss(batch)["loss"]) == set(parts)
        for name in others:
            getattr(method, name).requires_grad_(True)


def test_the_loss_is_of_predicted_patches_against_the_slow_copys_clusters(batch: Batch) -> None:
    method: Any = tiny("capi").eval()
    (images,), (masks,) = batch.normalized(), batch.masks
    with torch.no_grad():
        method.backbone.registers.add_(1.0)  # so that the copy differs
        patches = nn.functional.normalize(method.backbone.encode(images)[0][:, 4:], dim=-1)
        logits = patches @ method.clusters.weight.T + method.clusters.bias
        assigned = method.assigned(logits)
        clustering = nn.functional.cross_entropy(logits.flatten(0, 1) / 0.12, assigned.flatten(0, 1))
        encoded, places = method.student.encode(images, masks.visible)
        predicted = method.student.predict(encoded, places, masks.predicted)
        assert predicted.shape == (8, 3, 24)
        directions = nn.functional.normalize(method.head.layer.weight, dim=1)  # lengths are 1 at first
        named = nn.functional.normalize(predicted, dim=-1) @ directions.T
        targets = torch.stack([assigned[row, masks.predicted[row]] for row in range(8)])
        prediction = nn.functional.cross_entropy(named.flatten(0, 1) / 0.12, targets.flatten(0, 1))
        terms = method.loss(batch)
    torch.testing.assert_close(terms["clustering"], clustering, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["prediction"], prediction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["loss"], clustering + prediction, rtol=1e-4, atol=1e-5)


def test_it_begins_as_the_authors() -> None:
    method: Any = build_method("capi", **{**TINY["capi"], "dim": 64, "clusters": 500, "registers": 16})
    assert method.clusters.weight.std().item() == pytest.approx(1.0, rel=0.03)
    assert not method.clusters.bias.any()
    assert (method.head.layer.parametrizations.weight.original0 == 1).all()
    assert method.student.registers.std().item() == pytest.approx(0.02, rel=0.1)
    bound = (6 / (64 + 64)) ** 0.5
    for layer in (method.student.blocks[0].attention.query, method.student.predictor[1].attention.project):
        assert 0.97 * bound < layer.weight.abs().max().item() <= bound
    student, slow = method.student.state_dict(), method.backbone.state_dict()
    assert all(torch.equal(student[key], slow[key]) for key in student)


def at(step: int) -> Context:
    return Context(step=step, epoch=0, steps_per_epoch=1000, epochs=1, batch_size=8)


def test_the_slow_copy_stands_then_follows_then_slows_down() -> None:
    method: Any = build_method("capi", **{**TINY["capi"], "momentum": 0.9})
    assert method.momentum(at(0)) == 1.0
    assert method.momentum(at(33)) == pytest.approx(1 - 0.1 * 33 / 99)
    assert method.momentum(at(99)) == pytest.approx(0.9)
    assert method.momentum(at(100)) == pytest.approx(0.9)
    assert method.momentum(at(550)) == pytest.approx(1 - 0.1 * (1 + math.cos(0.4 * math.pi)) / 2)
    assert method.momentum(at(999)) == pytest.approx(1 - 0.1 * (1 + math.cos(0.8 * math.pi * 899 / 900)) / 2)
    before = {key: value.clone() for key, value in method.backbone.state_dict().items()}
    clusters = method.clusters.weight.clone()
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(1.0)
        method.after_step(at(0))
        assert all(torch.equal(value, before[key]) for key, value in method.backbone.state_dict().items())
        method.after_step(at(99))
    moved = method.backbone.mask_token - before["mask_token"]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), rtol=1e-3, atol=1e-5)
    assert torch.equal(method.clusters.weight, clusters)  # they follow nobody


def test_groups_are_the_authors() -> None:
    method: Any = tiny("capi")
    optimizer = build_optimizer(method.parameter_groups(), capi_imagenet().optim, 16384)
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[id(parameter)] = (group["lr_scale"], group["weight_decay"], group["player"])
    student = method.student
    assert found[id(student.blocks[0].mlp.fc1.weight)] == (1.0, 0.1, "")
    assert found[id(student.registers)] == found[id(student.mask_token)] == (1.0, 0.1, "")
    assert found[id(method.head.layer.parametrizations.weight.original0)] == (1.0, 0.1, "")
    assert found[id(student.blocks[0].norm1.weight)] == (1.0, pytest.approx(0.01), "")
    assert found[id(student.patch_embed.weight)] == (0.2, 0.1, "")
    assert found[id(student.patch_embed.bias)] == (0.2, 0.0, "")
    for parameter in method.clusters.parameters():
        assert found[id(parameter)] == (0.5, 0.01, "clusters")


def test_probes_see_the_first_block_of_the_slow_predictor(batch: Batch) -> None:
    method: Any = tiny("capi").eval()
    (images,) = batch.normalized()
    with torch.no_grad():
        encoded, places = method.backbone.encode(images)
        tokens = method.backbone.mask_token.expand(8, 16, -1)
        where = method.backbone.places.expand(8, -1, -1)
        first = method.backbone.predictor[0](tokens, where, encoded, places)
        expected = nn.functional.rms_norm(first, (24,), eps=1e-5).mean(dim=1)
        torch.testing.assert_close(method.encode(batch), expected, rtol=1e-4, atol=1e-5)


def test_pictures_are_the_view_what_is_seen_and_what_is_predicted(batch: Batch) -> None:
    method: Any = tiny("capi").eval()
    shown = method.pictures(batch)
    assert list(shown) == ["input", "masked", "predicted"]
    (masks,) = batch.masks
    for name, numbers in (("masked", masks.visible), ("predicted", masks.predicted)):
        seen = torch.zeros(8, 16, dtype=torch.bool).scatter(1, numbers, True)
        places = seen.unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
        places = places.expand(-1, 3, -1, -1)
        assert torch.equal(shown[name][places], shown["input"][places])
        assert (shown[name][~places] == 0.5).all()
    other: Any = build_method("capi", **TINY["capi"], normalize=Normalize.lab())
    assert other.pictures(batch) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 18}, r"CAPIConfig.size must be a multiple of patch, got 18"),
        ({"heads": 4}, r"CAPIConfig.dim must be a multiple of 4 for each head, got 24"),
        ({"registers": 6}, r"CAPIConfig.registers must be a multiple of 4, above 0, got 6"),
        ({"temperature": 0.0}, r"CAPIConfig.temperature must be above 0"),
    ],
)
def test_nonsense_is_refused(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method("capi", **{**TINY["capi"], **change})
