"""What a loader does about samples that cannot be decoded."""

from __future__ import annotations

from typing import Literal

import numpy as np

from headrace.pipeline.random import key_word
from headrace.shards import ShardError

OnError = Literal["error", "substitute", "skip"]
POLICIES: tuple[OnError, ...] = ("error", "substitute", "skip")
SUBSTITUTES = 16
"""Samples that are tried in the place of a bad one."""

_STREAM = key_word(0x73756273)  # the word "subs"


class FaultLog:
    """The bad samples that a loader has met, up to a limit.

    Args:
        limit: different bad samples to put up with.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: dict[int, str] = {}

    def note(self, sample: int, error: ShardError) -> None:
        """One more. Raises ShardError, from `error`, above the limit."""
        self.reasons[sample] = str(error)
        if len(self.reasons) > self.limit:
            raise ShardError(f"{len(self.reasons)} bad samples, more than max_bad={self.limit}; the last: {error}")


def substitutes(seed: int, epoch: int, sample: int, samples: int) -> np.ndarray:
    """int64 (SUBSTITUTES,): who may stand in for a bad sample, the same wherever and whenever it is met."""
    key = np.array([key_word(seed), _STREAM], np.uint64)
    counter = np.array([0, 0, key_word(sample), key_word(epoch)], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(SUBSTITUTES)
    return (words % np.uint64(samples)).astype(np.int64)
