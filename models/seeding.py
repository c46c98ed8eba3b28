"""The only place where torch's default generator is set, for the length of a `with` block and no longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(*key: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run the block with the default generators of the CPU and of `device` seeded from `key`.

    Initialisers and dropout layers draw from those generators and take no other. Inside the block the draws are
    a function of `key` (non-negative integers) alone; afterwards the generators are as they were.
    """
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for cuda in devices:
            with torch.cuda.device(cuda):
                torch.cuda.manual_seed(seed)
        yield
