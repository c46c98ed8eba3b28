"""What a row has to show so that its method is said to learn, and the methods that have none, with the reasons."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

SEEDS = 3
"""The fewest of a row that counts."""

_ONE_SEED = "one seed so far, better than untrained by one probe at least"

UNLEARNT: dict[str, str] = {
    **dict.fromkeys(
        (
            "moco_v1", "deepcluster_v2", "moco_v3", "simsiam", "nnclr", "densecl", "ressl", "vicreg", "w_mse", "tico",
            "lejepa", "instance_discrimination", "ijepa", "aim", "data2vec2", "simmim", "maskfeat", "data2vec", "beit",
            "autoencoder", "denoising_autoencoder", "vae", "inpainting", "context_prediction", "jigsaw", "block_order",
        ),
        _ONE_SEED,
    ),
    **dict.fromkeys(("ibot", "dinov2", "dinov2_gram", "msn", "colorization"), "not trained yet for this table"),
    "capi": "not trained yet for this table",
}  # fmt: skip
"""By method; shown below the table."""


def learns(trained: Sequence[float], untrained: Sequence[float]) -> bool:
    """Whether scores after trainings are above those before by more than either spreads, from lowest to highest, over
    at least three seeds."""
    spread = max(max(scores) - min(scores) for scores in (trained, untrained))
    return len(trained) >= SEEDS and statistics.mean(trained) - statistics.mean(untrained) > spread
