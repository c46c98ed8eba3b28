"""Losses against slow loops, the papers' formulas, peers, and their known values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import (
    clip_loss,
    dense_info_nce,
    in_batch_info_nce,
    instance_softmax,
    most_similar_cells,
    noise_contrastive,
    nt_xent,
    queue_info_nce,
)
from tests.conftest import require_peer

MOCO_VALUES = [(65536, 0.07, 0.0401, 11.090), (65536, 0.2, 6.093, 11.090), (4096, 0.1, 0.1706, 8.318)]


def random_views(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)


def slow_nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> float:
    """Equation 1 and algorithm 1 of arXiv 2002.05709, with 2k - 1 and 2k as the two views of sample k."""
    z = [view for pair in zip(z1.double(), z2.double(), strict=True) for view in pair]

    def s(i: int, j: int) -> float:
        return float(z[i] @ z[j] / (z[i].norm() * z[j].norm()))

    def l(i: int, j: int) -> float:  # noqa: E743
        others = sum(math.exp(s(i, k) / temperature) for k in range(len(z)) if k != i)
        return -math.log(math.exp(s(i, j) / temperature) / others)

    pairs = range(0, len(z), 2)
    return sum(l(k, k + 1) + l(k + 1, k) for k in pairs) / len(z)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 2), (7, 5)])
def test_nt_xent_is_the_papers_sum(n: int, d: int, temperature: float) -> None:
    z1, z2 = random_views(n, d)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(slow_nt_xent(z1, z2, temperature), rel=1e-5, abs=1e-6)


@pytest.mark.peer("lightly")
def test_nt_xent_is_lightlys() -> None:
    from lightly.loss import NTXentLoss

    z1, z2 = random_views(16, 8)
    assert nt_xent(z1, z2, 0.2).item() == pytest.approx(NTXentLoss(temperature=0.2)(z1, z2).item(), rel=1e-5)


def test_nt_xent_does_not_mind_the_order_of_views_or_their_length() -> None:
    z1, z2 = random_views(6, 4)
    loss = nt_xent(z1, z2, 0.3)
    torch.testing.assert_close(nt_xent(z2, z1, 0.3), loss)
    torch.testing.assert_close(nt_xent(3 * z1, 0.5 * z2, 0.3), loss)
    shuffled = torch.tensor([5, 0, 3, 1, 4, 2])
    torch.testing.assert_close(nt_xent(z1[shuffled], z2[shuffled], 0.3), loss)


def test_nt_xent_gradient_is_that_of_finite_differences() -> None:
    z1, z2 = random_views(3, 4, seed=1)
    z1.requires_grad_()
    nt_xent(z1, z2, 0.5).backward()
    assert z1.grad is not None
    step = 1e-3
    for i in range(3):
        for j in range(4):
            nudge = torch.zeros_like(z1)
            nudge[i, j] = step
            up, down = (slow_nt_xent(z1.detach() + sign * nudge, z2, 0.5) for sign in (1, -1))
            assert z1.grad[i, j].item() == pytest.approx((up - down) / (2 * step), abs=1e-4)


def test_nt_xent_stays_float32_under_autocast() -> None:
    z1, z2 = random_views(8, 16)
    expected = nt_xent(z1, z2, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z1, z2, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


def test_nt_xent_refuses_what_it_cannot_mean() -> None:
    z1, z2 = random_views(4, 3)
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(3, 3\)"):
        nt_xent(z1, z2[:3], 0.1)
    with pytest.raises(ValueError, match="temperature above 0, got 0"):
        nt_xent(z1, z2, 0)


def test_nt_xent_of_one_sample_is_nothing() -> None:
    """Without the mask of itself it would be more."""
    z1, z2 = random_views(1, 4)
    assert nt_xent(z1, z2, 0.1).item() == 0


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_at_collapse_and_of_perfect_pairs(temperature: float) -> None:
    same = torch.ones(256, 8, dtype=torch.float64)
    assert nt_xent(same, same, temperature).item() == pytest.approx(math.log(2 * 256 - 1), abs=1e-9)  # 6.236
    z = torch.eye(256, dtype=torch.float64)
    expected = -1 / temperature + math.log(math.exp(1 / temperature) + 2 * 256 - 2)
    assert nt_xent(z, z, temperature).item() == pytest.approx(expected, abs=1e-9)


# MoCo


def slow_queue_info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> float:
    losses = []
    for q, k in zip(query.double(), key.double(), strict=True):
        q, k = q / q.norm(), k / k.norm()
        positive = math.exp(float(q @ k) / temperature)
        others = sum(math.exp(float(q @ row) / temperature) for row in queue.double())
        losses.append(-math.log(positive / (positive + others)))
    return sum(losses) / len(losses)


def test_queue_info_nce_is_the_papers_sum() -> None:
    (query, key), queue = random_views(5, 6), F.normalize(random_views(9, 6, seed=1)[0], dim=1)
    found = queue_info_nce(query.double(), key.double(), queue.double(), 0.2)
    assert found.item() == pytest.approx(slow_queue_info_nce(query, key, queue, 0.2), rel=1e-12)


@pytest.mark.peer("lightly")
def test_queue_info_nce_is_lightlys_with_its_gradient() -> None:
    from lightly.loss import NTXentLoss

    judge = NTXentLoss(temperature=0.1, memory_bank_size=(32, 8))
    (query, key), (again, _) = random_views(4, 8), random_views(4, 8)
    judge(query, key)  # fills the memory bank, whose rows are its columns
    queue = judge.memory_bank.bank.T.clone() if judge.memory_bank.bank.shape[0] == 8 else judge.memory_bank.bank.clone()
    query.requires_grad_(), again.requires_grad_()
    ours, theirs = queue_info_nce(query, key, queue, 0.1), judge(again, key)
    torch.testing.assert_close(ours, theirs)
    ours.backward(), theirs.backward()
    torch.testing.assert_close(query.grad, again.grad)


@pytest.mark.parametrize(("rows", "temperature", "perfect", "collapse"), MOCO_VALUES)
def test_queue_info_nce_has_its_known_values(rows: int, temperature: float, perfect: float, collapse: float) -> None:
    query = torch.zeros(3, 4, dtype=torch.float64)
    query[:, 0] = 2.0
    orthogonal = torch.zeros(rows, 4, dtype=torch.float64)
    orthogonal[:, 1] = 1.0
    found = queue_info_nce(query, query, orthogonal, temperature).item()
    assert found == pytest.approx(math.log(1 + rows * math.exp(-1 / temperature)), rel=1e-9)
    assert found == pytest.approx(perfect, rel=1e-3)
    same = torch.zeros(rows, 4, dtype=torch.float64)
    same[:, 0] = 1.0
    assert queue_info_nce(query, query, same, temperature).item() == pytest.approx(math.log(rows + 1), rel=1e-9)
    assert math.log(rows + 1) == pytest.approx(collapse, abs=1e-3)


def test_keys_and_queue_get_no_gradient() -> None:
    (query, key), queue = random_views(3, 4), random_views(7, 4)[0]
    for x in (query, key, queue):
        x.requires_grad_()
    queue_info_nce(query, key, queue, 0.1).backward()
    assert query.grad is not None
    assert key.grad is None
    assert queue.grad is None


# CLIP


def test_clip_loss_is_open_clips_with_its_gradient() -> None:
    require_peer("open_clip")
    from open_clip.loss import ClipLoss

    image, text = (x.requires_grad_() for x in random_views(6, 5))
    scale = torch.tensor(14.3, requires_grad=True)
    ours = clip_loss(image, text, scale)
    gradients = torch.autograd.grad(ours, (image, text, scale))
    theirs = ClipLoss()(F.normalize(image, dim=1), F.normalize(text, dim=1), scale)
    torch.testing.assert_close(ours, theirs)
    for found, expected in zip(gradients, torch.autograd.grad(theirs, (image, text, scale)), strict=True):
        torch.testing.assert_close(found, expected)


def test_clip_loss_is_symmetric_and_starts_at_ln_n() -> None:
    image, text = random_views(6, 5)
    scale = torch.tensor(10.0)
    torch.testing.assert_close(clip_loss(image, text, scale), clip_loss(text, image, scale))
    torch.testing.assert_close(clip_loss(3 * image, text, scale), clip_loss(image, text, scale))
    assert clip_loss(image, torch.ones(6, 5), scale * 0).item() == pytest.approx(math.log(6))


def slow_in_batch(q: Tensor, k: Tensor, t: float) -> float:
    loss = 0.0
    for i in range(len(q)):
        cosines = [float(q[i] @ k[j] / q[i].norm() / k[j].norm()) / t for j in range(len(k))]
        loss += math.log(sum(map(math.exp, cosines))) - cosines[i]
    return loss / len(q)


def test_in_batch_info_nce_is_the_papers_sum() -> None:
    q, k = random_views(7, 5)
    q, k = q.double(), k.double()
    for t in (0.1, 1.0):
        found = in_batch_info_nce(q, k, t, key_gradient=True).item()
        assert found == pytest.approx(slow_in_batch(q, k, t), rel=1e-10)
    scaled = in_batch_info_nce(3 * q, 0.5 * k, 0.1, key_gradient=True)
    torch.testing.assert_close(scaled, in_batch_info_nce(q, k, 0.1, key_gradient=True))


def test_the_mean_of_both_directions_is_clips_loss() -> None:
    q, k = (x.double() for x in random_views(6, 4))
    both = (in_batch_info_nce(q, k, 0.2, key_gradient=True) + in_batch_info_nce(k, q, 0.2, key_gradient=True)) / 2
    torch.testing.assert_close(both, clip_loss(q, k, q.new_tensor(5.0)))


def test_in_batch_info_nce_has_moco_v3s_known_values() -> None:
    """Twice the temperature times both directions: 4 t ln N where all keys are one, and perfect pairs."""
    for n, t, expected in ((4096, 1.0, 33.271), (4096, 0.2, 6.654), (256, 0.2, 4.436)):
        same = torch.ones(n, 4, dtype=torch.float64)
        assert 4 * t * in_batch_info_nce(same, same, t, key_gradient=False).item() == pytest.approx(expected, abs=1e-3)
    apart = torch.eye(64, dtype=torch.float64)
    found = 4 * 0.2 * in_batch_info_nce(apart, apart, 0.2, key_gradient=False).item()
    assert found == pytest.approx(4 * 0.2 * math.log(1 + 63 * math.exp(-5)), rel=1e-9)


def test_keys_get_gradient_where_it_is_asked_for() -> None:
    for wanted in (False, True):
        q, k = (x.requires_grad_() for x in random_views(4, 3))
        in_batch_info_nce(q, k, 0.2, key_gradient=wanted).backward()
        assert q.grad is not None
        assert (k.grad is not None) == wanted


def test_in_batch_info_nce_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match=r"needs two \(N, D\) tensors, got \(3, 2\) and \(4, 2\)"):
        in_batch_info_nce(torch.zeros(3, 2), torch.zeros(4, 2), 0.1, key_gradient=False)
    with pytest.raises(ValueError, match="needs a temperature above 0, got 0"):
        in_batch_info_nce(torch.zeros(3, 2), torch.zeros(3, 2), 0, key_gradient=False)


# DenseCL


def draw_maps(n: int = 3, d: int = 4, channels: int = 5, side: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, and both maps of the backbone."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(n, d, side, side)] * 2 + [(n, channels, side, side)] * 2
    query, key, query_map, key_map = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes)
    return query, key, query_map, key_map


def slow_dense(maps: tuple[Tensor, Tensor, Tensor, Tensor], queue: Tensor, temperature: float) -> float:
    query, key, query_map, key_map = maps
    n, _, h, w = query.shape
    cells = [(i, j) for i in range(h) for j in range(w)]
    losses = []
    for sample in range(n):
        for i, j in cells:
            one = query_map[sample, :, i, j]
            others = [key_map[sample, :, y, x] for y, x in cells]
            cosines = [float(one @ other / (one.norm() * other.norm())) for other in others]
            y, x = cells[cosines.index(max(cosines))]
            q, k = query[sample, :, i, j][None], key[sample, :, y, x][None]
            losses.append(slow_queue_info_nce(q, k, queue, temperature))
    return sum(losses) / len(losses)


def test_dense_info_nce_is_the_papers_sum() -> None:
    maps, queue = draw_maps(), F.normalize(random_views(7, 4)[0].double(), dim=1)
    assert dense_info_nce(*maps, queue, 0.2).item() == pytest.approx(slow_dense(maps, queue, 0.2), rel=1e-12)


@pytest.mark.peer("lightly")
def test_dense_info_nce_is_that_of_lightlys_selection_with_its_gradient() -> None:
    from lightly.models.utils import most_similar_index, select_most_similar

    query, key, query_map, key_map = draw_maps()
    queue = F.normalize(random_views(7, 4)[0].double(), dim=1)
    rows = [x.flatten(2).transpose(1, 2) for x in (query_map, key_map, key)]
    assert torch.equal(most_similar_cells(query_map, key_map), most_similar_index(*rows[:2]))
    chosen, query = select_most_similar(*rows), query.requires_grad_()
    ours = dense_info_nce(query, key, query_map, key_map, queue, 0.2)
    theirs = queue_info_nce(query.flatten(2).transpose(1, 2).flatten(0, 1), chosen.flatten(0, 1), queue, 0.2)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, query), torch.autograd.grad(theirs, query))


def test_a_shifted_map_shifts_the_match_and_leaves_the_loss() -> None:
    """Keys are found by what the backbone makes of cells, not by the heads' output, and wherever they lie."""
    query, _, query_map, _ = draw_maps(side=3)
    queue = F.normalize(random_views(7, 4)[0].double(), dim=1)
    places = torch.arange(9).expand(3, 9)
    assert torch.equal(most_similar_cells(query_map, query_map), places)
    moved = query_map.roll(1, dims=3)
    assert torch.equal(most_similar_cells(query_map, moved), places.view(3, 3, 3).roll(-1, dims=2).flatten(1))
    before = dense_info_nce(query, query, query_map, query_map, queue, 0.2)
    torch.testing.assert_close(dense_info_nce(query, query.roll(1, dims=3), query_map, moved, queue, 0.2), before)
    assert dense_info_nce(query, query.roll(1, dims=3), query_map, query_map, queue, 0.2) > before


def test_a_cell_is_matched_within_its_own_sample() -> None:
    query, key, query_map, key_map = draw_maps()
    queue = F.normalize(random_views(7, 4)[0].double(), dim=1)
    alone = [dense_info_nce(*(x[i : i + 1] for x in (query, key, query_map, key_map)), queue, 0.2) for i in range(3)]
    torch.testing.assert_close(torch.stack(alone).mean(), dense_info_nce(query, key, query_map, key_map, queue, 0.2))


def test_neither_keys_nor_the_choice_of_cells_carry_gradient() -> None:
    maps = tuple(x.requires_grad_() for x in draw_maps())
    queue = F.normalize(random_views(7, 4)[0].double(), dim=1).requires_grad_()
    gradients = torch.autograd.grad(dense_info_nce(*maps, queue, 0.2), (*maps, queue), allow_unused=True)
    assert gradients[0].abs().sum() > 0
    assert gradients[1:] == (None,) * 4
    with pytest.raises(ValueError, match=r"got \(3, 4, 2, 2\), \(2, 4, 2, 2\)"):
        dense_info_nce(maps[0], maps[1][:2], *maps[2:], queue, 0.2)


def test_instance_softmax_is_the_papers_sum_and_rows_get_no_gradient() -> None:
    features, bank = (F.normalize(x.double(), dim=1) for x in (random_views(6, 4)[0], random_views(9, 4, 1)[0]))
    own = torch.tensor([3, 0, 8, 5, 1, 7])
    expected = 0.0
    for i, j in enumerate(own.tolist()):
        scores = [float(features[i] @ row) / 0.1 for row in bank]
        expected += (math.log(sum(map(math.exp, scores))) - scores[j]) / 6
    features.requires_grad_()
    bank.requires_grad_()
    loss = instance_softmax(features, bank, own, 0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert features.grad is not None
    assert bank.grad is None


@pytest.mark.parametrize(("drawn", "samples"), [(5, 20), (16, 4), (1, 1000)])
def test_noise_contrast_is_a_sum_of_two_way_cross_entropies(drawn: int, samples: int) -> None:
    similarity, z = random_views(6, 1 + drawn)[0].double(), 30.0
    density = drawn / samples
    expected = 0.0
    for row in similarity.tolist():
        own, *others = (math.exp(s) / z for s in row)
        expected -= math.log(own / (own + density + 1e-7))
        expected -= sum(math.log(density / (p + density + 1e-7)) for p in others)
    found = noise_contrastive(similarity, torch.tensor(z, dtype=torch.float64), samples)
    assert found.item() == pytest.approx(expected / 6, rel=1e-9)
