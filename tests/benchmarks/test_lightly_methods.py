"""Methods of lightly's parts in the benchmark: what is drawn in a step is a function of the run's seed."""

from __future__ import annotations

import random

import pytest
import torch

from headrace.models import Context
from headrace.models.seeding import seeded
from tests.models.tiny_methods import tiny


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # of lightly's
@pytest.mark.peer("lightly")
def test_ibots_masks_are_a_function_of_torchs_generator() -> None:
    from headrace.benchmarks.peers.lightly_methods import build_peer

    method = tiny("ibot")
    context = Context(step=0, epoch=0, steps_per_epoch=5, epochs=2, batch_size=8)
    with seeded(1):
        views = [torch.randn(8, 3, size, size) for size in (16, 16, 8)]
    found = []
    for seed, python in ((2, 0), (2, 1), (3, 1)):
        peer = build_peer("ibot", method, seed=0)
        random.seed(python)
        before = random.getstate()
        with seeded(seed):
            found.append(peer.loss(views, context).item())
        assert random.getstate() == before
    assert found[0] == found[1] != found[2]
