"""Numbers of orders, and the head that compares things two by two."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor, nn

from headrace.models.parts.orders import Orders, PairwiseHead


@pytest.mark.parametrize("things", [2, 3, 4, 5])
def test_orders_are_numbered_as_itertools_lists_them(things: int) -> None:
    """xudejing/video-clip-order-prediction at 7a1710d, train_vcop.py, order_class_index."""
    every = torch.tensor(list(permutations(range(things))))
    orders = Orders(things, reversible=False)
    assert orders.count == len(every)
    assert orders(every).tolist() == list(range(len(every)))


@pytest.mark.parametrize(("things", "count"), [(3, 3), (4, 12), (5, 60)])
def test_an_order_and_its_reverse_have_one_number(things: int, count: int) -> None:
    every = torch.tensor(list(permutations(range(things))))
    orders = Orders(things, reversible=True)
    assert orders.count == count
    numbers = orders(every)
    assert torch.equal(orders(every.flip(1)), numbers)
    assert (numbers.bincount() == 2).all()
    assert numbers.unique().tolist() == list(range(count))


def test_nothing_of_the_table_is_in_the_state_dict() -> None:
    assert not Orders(4, reversible=True).state_dict()


def head(batch_norm: bool, dropout: float = 0.0) -> PairwiseHead:
    return PairwiseHead(5, 4, 12, hidden_dim=3, batch_norm=batch_norm, dropout=dropout)


def test_six_pairs_of_four_things_share_one_weight() -> None:
    ours = head(batch_norm=False)
    shapes = {name: tuple(p.shape) for name, p in ours.named_parameters()}
    assert shapes == {"pair.weight": (3, 10), "pair.bias": (3,), "last.weight": (12, 18), "last.bias": (12,)}
    things = torch.randn(2, 4, 5)
    slow = [torch.relu(ours.pair(torch.cat([things[:, i], things[:, j]], dim=1))) for i, j in combinations(range(4), 2)]
    torch.testing.assert_close(ours(things), ours.last(torch.cat(slow, dim=1)))


def test_each_pair_is_normed_by_itself() -> None:
    """HsinYingLee/OPN at d0ba14e, train_opn.prototxt, bn7_1 to bn7_6 and scale7_1 to scale7_6."""
    ours = head(batch_norm=True)
    assert isinstance(ours.norm, nn.BatchNorm1d)
    assert ours.norm.num_features == 18
    things = torch.randn(16, 4, 5)
    louder = things.clone()
    louder[:, 3] *= 7
    with torch.no_grad():
        ours.last.weight.zero_()
        ours.last.weight[:, :3] = 1.0  # the first pair alone
        torch.testing.assert_close(ours(louder), ours(things))


def test_the_earlier_shown_one_comes_first() -> None:
    ours = head(batch_norm=False)
    with torch.no_grad():
        ours.pair.weight.zero_()
        ours.pair.weight[0, 0] = 1.0  # of the first of a pair
        ours.pair.bias.zero_()
        ours.last.weight.fill_(1.0)
        ours.last.bias.zero_()
    things = torch.zeros(1, 4, 5)
    things[0, :, 0] = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    assert ours(things)[0, 0].item() == 3 * 1 + 2 * 10 + 1 * 100


def wave(*shape: int, by: float) -> Tensor:
    return (torch.arange(math.prod(shape), dtype=torch.float64) * by).sin().view(*shape)


def test_it_is_what_the_authors_network_gives() -> None:
    """VCOPN of xudejing/video-clip-order-prediction at f7353de, models/vcopn.py, with these weights."""
    ours = PairwiseHead(5, 3, 6, hidden_dim=512, batch_norm=False, dropout=0.5).double().eval()
    ours.load_state_dict(
        {
            "pair.weight": wave(512, 10, by=0.7),
            "pair.bias": wave(512, by=0.3),
            "last.weight": wave(6, 1536, by=1.1) / 20,
            "last.bias": wave(6, by=0.9),
        }
    )
    expected = [
        [-0.055262676872, 0.763296413243, 0.995531741885, 0.483761015948, -0.369688789798, -0.911818299362],
        [-0.119042150233, 0.673400105639, 0.908611550694, 0.427946737607, -0.376334099209, -0.867144032504],
    ]
    found = ours(wave(2, 3, 5, by=1.7))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-11)


def test_dropout_is_of_the_layer_of_pairs() -> None:
    torch.manual_seed(0)
    ours = head(batch_norm=False, dropout=0.5)
    things = torch.randn(2, 4, 5)
    assert not torch.equal(ours(things), ours(things))
    ours.eval()
    assert torch.equal(ours(things), ours(things))
