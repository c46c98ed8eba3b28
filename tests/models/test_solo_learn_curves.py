"""Twenty steps of a method lose what those of vturrisi/solo-learn did."""

from __future__ import annotations

import pytest
import torch

from tests.models.solo_learn_curves import LOSSES, SET, drawn_batches, drawn_method, first_pass
from tests.models.test_reference_curves import our_steps


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_every_step_is_that_of_solo_learn(name: str) -> None:
    method = drawn_method(name)
    batches = drawn_batches(method)
    found = torch.stack(list(our_steps(method, batches, "sgd", SET, first_pass)))
    torch.testing.assert_close(found, torch.tensor(LOSSES[name], dtype=torch.float64), rtol=1e-9, atol=0)
