"""Draws that are a function of their key."""

from __future__ import annotations

import torch

from headrace.models.seeding import seeded


def test_seeded_draws_repeat_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()

    def draw(*key: int) -> torch.Tensor:
        with seeded(*key):
            return torch.rand(4)

    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(2, 1))
    assert torch.equal(torch.get_rng_state(), before)
