"""Context encoders: what is cut out, what counts how much, and which player has which gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from headrace.models import build_method
from headrace.models.losses import generator_loss
from headrace.pipeline import Batch, Loader, RegionMask
from headrace.shards import ShardSet
from headrace.train.recipes import RECIPES
from tests.models.tiny_methods import TINY, tiny

RANDOM = {**TINY["inpainting"], "region": "random"}


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def drawn(method: Any, batch: Batch) -> torch.Tensor:
    found: torch.Tensor = method._drawn(method.seen(batch))
    return found


def test_it_asks_for_the_authors_view() -> None:
    """128 pixels of images whose shorter side has 350, mirrored or not, in levels from -1 to 1."""
    method: Any = build_method("inpainting", widths=(1, 1), bottleneck=1)
    (view,) = method.inputs.views
    assert (view.size, view.ratio, view.flip, view.operations) == (128, (1.0, 1.0), 0.5, ())
    low, high = view.scale
    assert low == pytest.approx(128**2 / (350 * 350 * 4 / 3), abs=1e-3)
    assert high == pytest.approx(128**2 / 350**2, abs=5e-3)
    assert (view.normalize.mean, view.normalize.std) == ((0.5,) * 3, (0.5,) * 3)
    assert method.inputs.masks == (RegionMask(size=128),)
    anywhere: Any = build_method("inpainting", widths=(1, 1), bottleneck=1, region="random").inputs
    (mask,) = anywhere.masks
    assert (mask.place, mask.regions) == ("random", 4)
    assert 4 * mask.scale[1] == 0.25


def test_defaults_are_those_of_the_authors_command() -> None:
    run = RECIPES["inpainting_imagenet"]()
    config = run.model
    assert (config.overlap, config.overlap_weight, config.adversarial, config.bottleneck) == (4, 10.0, 0.001, 4000)
    judge = run.optim.players["discriminator"]
    assert (run.optim.lr, judge.lr, run.optim.betas[0], judge.betas[0]) == (2e-3, 2e-4, 0.5, 0.5)
    assert (run.batch_size, run.epochs, run.schedule.final) == (64, 500, 1.0)


def test_networks_are_the_authors() -> None:
    """Theirs for 128 pixels, a sixteenth as wide."""
    widths = (4, 4, 8, 16, 32)
    method: Any = build_method("inpainting", widths=widths, bottleneck=250)

    def kernels(part: nn.Module) -> list[tuple[int, ...]]:
        found = [m for m in part.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
        assert all(m.bias is None for m in found)
        return [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], int(m.padding[0])) for m in found]

    assert kernels(method.backbone) == [
        (3, 4, 4, 2, 1), (4, 4, 4, 2, 1), (4, 8, 4, 2, 1), (8, 16, 4, 2, 1), (16, 32, 4, 2, 1), (32, 250, 4, 1, 0),
    ]  # fmt: skip
    assert kernels(method.decoder) == [
        (250, 32, 4, 1, 0), (32, 16, 4, 2, 1), (16, 8, 4, 2, 1), (8, 4, 4, 2, 1), (4, 3, 4, 2, 1),
    ]  # fmt: skip
    assert kernels(method.discriminator) == [
        (3, 4, 4, 2, 1), (4, 8, 4, 2, 1), (8, 16, 4, 2, 1), (16, 32, 4, 2, 1), (32, 1, 4, 1, 0),
    ]  # fmt: skip
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in part.modules()) for part in method.children()]
    assert norms == [5, 4, 3]
    weight = method.backbone[0][-1].weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    gains = [m.weight.detach() for m in method.modules() if isinstance(m, nn.BatchNorm2d)]
    assert torch.cat(gains).mean().item() == pytest.approx(1, abs=0.01)
    assert torch.cat(gains).std().item() == pytest.approx(0.02, rel=0.2)
    anywhere: Any = build_method("inpainting", widths=widths, bottleneck=250, region="random")
    assert kernels(anywhere.decoder)[-2:] == [(4, 4, 4, 2, 1), (4, 3, 4, 2, 1)]
    assert kernels(anywhere.discriminator)[:2] == [(3, 4, 4, 2, 1), (4, 4, 4, 2, 1)]


def test_the_border_counts_ten_times() -> None:
    weight = build_method("inpainting", widths=(1, 1), bottleneck=1).weight
    assert weight.shape == (64, 64)
    assert weight.mean().item() == pytest.approx((56**2 * 1 + (64**2 - 56**2) * 10) / 64**2)
    assert weight[3, 30] == weight[30, 60] == 10
    assert weight[4, 4] == weight[59, 59] == 1
    assert (build_method("inpainting", widths=(1, 1), bottleneck=1, overlap=0).weight == 1).all()


@pytest.mark.parametrize("fields", [TINY["inpainting"], RANDOM])
def test_what_is_cut_out_does_not_reach_the_generator(fields: dict[str, Any], digits_webdataset: ShardSet) -> None:
    method: Any = build_method("inpainting", **fields)
    batch = batch_of(method, digits_webdataset)
    (images,), (masks,) = batch.normalized(), batch.masks
    hole = method._cut_out(masks)
    if method.config.region == "center":  # 8 x 8 in the middle of 16 x 16, less one pixel on each side
        expected = torch.zeros(16, 16, dtype=torch.bool)
        expected[5:11, 5:11] = True
        assert torch.equal(hole, expected.expand(8, -1, -1))
    else:
        assert torch.equal(hole, masks.mask)
    before = drawn(method, batch)
    seen = method.seen(batch)
    for channel, level in enumerate((117, 104, 123)):
        torch.testing.assert_close(seen[:, channel][hole], torch.full((int(hole.sum()),), 2 * level / 255 - 1))
    noise = torch.where(hole[:, None], torch.rand_like(images) * 2 - 1, images)
    other = Batch.of_views([noise], [batch.normalize[0]])
    other.streams["image"].masks.append(masks)
    assert not torch.equal(noise, images)
    assert torch.equal(method.seen(other), seen)
    torch.testing.assert_close(drawn(method, other), before)
    elsewhere = Batch.of_views([torch.where(hole[:, None], images, -images)], [batch.normalize[0]])
    elsewhere.streams["image"].masks.append(masks)
    assert not torch.allclose(drawn(method, elsewhere), before, atol=1e-4)


def test_the_loss_is_the_authors_sum(digits_webdataset: ShardSet) -> None:
    """In float64 from what both networks say, the discriminator on true and drawn squares by themselves."""
    method: Any = tiny("inpainting").double()
    batch = batch_of(method, digits_webdataset)
    images = batch.normalized()[0].double()
    batch = Batch.of_views([images], [batch.normalize[0]])
    batch.streams["image"].masks.extend(batch_of(method, digits_webdataset).masks)
    found = method.loss(batch)
    square = drawn(method, batch)
    assert square.shape == (8, 3, 8, 8)
    true = images[:, :, 4:12, 4:12]
    weight = torch.full((8, 8), 10.0, dtype=torch.float64)
    weight[1:7, 1:7] = 1
    reconstruction = (weight * (square - true) ** 2).mean()
    p_true, p_drawn = method.discriminator(true).sigmoid(), method.discriminator(square).sigmoid()
    discriminator = -p_true.log().mean() - (1 - p_drawn).log().mean()
    adversarial = -p_drawn.log().mean()
    expected = 0.999 * reconstruction + 0.001 * adversarial + discriminator
    torch.testing.assert_close(found["loss"], expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(found["reconstruction"], reconstruction.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found["adversarial"], adversarial.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found["discriminator"], discriminator.detach(), rtol=1e-9, atol=0)


def test_each_player_has_the_gradient_of_its_own_goal(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("inpainting").eval()  # statistics do not move
    batch = batch_of(method, digits_webdataset)
    generator = [*method.backbone.parameters(), *method.decoder.parameters()]
    judge = list(method.discriminator.parameters())
    square, true = drawn(method, batch), method._framed(batch.normalized()[0])
    goal = 0.999 * (method.weight * (square - true) ** 2).mean()
    goal = goal + 0.001 * generator_loss(method.discriminator(square))
    of_generator = torch.autograd.grad(goal, generator, retain_graph=True)
    p_true, p_drawn = method.discriminator(true).sigmoid(), method.discriminator(square.detach()).sigmoid()
    of_judge = torch.autograd.grad(-p_true.log().mean() - (1 - p_drawn).log().mean(), judge)
    method.loss(batch)["loss"].backward()
    for parameter, expected in zip([*generator, *judge], [*of_generator, *of_judge], strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-7)


def test_the_generators_pass_leaves_the_discriminators_statistics_alone(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("inpainting")
    batch = batch_of(method, digits_webdataset)
    method.loss(batch)
    norms = [m for m in method.discriminator.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(m.num_batches_tracked == 2 for m in norms)  # true ones and drawn ones


def test_a_discriminator_that_says_nothing_costs_twice_ln_2(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("inpainting")
    batch = batch_of(method, digits_webdataset)
    assert method.loss(batch)["discriminator"].item() == pytest.approx(2 * math.log(2), abs=0.4)
    with torch.no_grad():
        method.discriminator[-1].weight.zero_()
    assert method.loss(batch)["discriminator"].item() == pytest.approx(2 * math.log(2))


def test_without_the_adversarial_part_there_is_no_second_player(digits_webdataset: ShardSet) -> None:
    method: Any = build_method("inpainting", **{**TINY["inpainting"], "adversarial": 0.0})
    assert not hasattr(method, "discriminator")
    assert {group.player for group in method.parameter_groups()} == {""}
    terms = method.loss(batch_of(method, digits_webdataset))
    assert list(terms) == ["loss"]
    full: Any = tiny("inpainting")
    by_player = {"": 0, "discriminator": 0}
    for group in full.parameter_groups():
        by_player[group.player] += sum(p.numel() for p in group.params)
    assert by_player["discriminator"] == sum(p.numel() for p in full.discriminator.parameters())


@pytest.mark.parametrize("fields", [TINY["inpainting"], RANDOM])
def test_pictures_are_the_view_without_and_with_what_was_cut_out(
    fields: dict[str, Any], digits_webdataset: ShardSet
) -> None:
    method: Any = build_method("inpainting", **fields).eval()
    batch = batch_of(method, digits_webdataset)
    shown = method.pictures(batch)
    assert list(shown) == ["input", "masked", "reconstruction"]
    for picture in shown.values():
        assert picture.shape == (8, 3, 16, 16)
        assert picture.dtype == torch.float32
        assert 0 <= picture.min() <= picture.max() <= 1
    torch.testing.assert_close(shown["input"], batch.views[0].float() / 255, rtol=0, atol=1e-5)
    (masks,) = batch.masks
    outside = ~masks.mask[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(shown["reconstruction"][outside], shown["input"][outside])
    square = (drawn(method, batch) + 1) / 2
    if method.config.region == "center":
        torch.testing.assert_close(shown["reconstruction"][:, :, 4:12, 4:12], square)
    else:
        torch.testing.assert_close(shown["reconstruction"][~outside], square[~outside])


def test_of_rectangles_the_whole_view_counts(digits_webdataset: ShardSet) -> None:
    method: Any = build_method("inpainting", **RANDOM).eval()
    batch = batch_of(method, digits_webdataset)
    whole = drawn(method, batch)
    assert whole.shape == (8, 3, 16, 16)
    expected = (whole - batch.normalized()[0]).square().mean()
    torch.testing.assert_close(method.loss(batch)["reconstruction"], expected.detach())


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be a multiple of 32, for 5 halvings, got 100"):
        build_method("inpainting", size=100)
    with pytest.raises(ValueError, match="overlap must leave something to cut out, got 32"):
        build_method("inpainting", overlap=32)
    with pytest.raises(ValueError, match=r"adversarial must lie in \[0, 1\), got 1"):
        build_method("inpainting", adversarial=1)
