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
            "lejepa", "instance_discrimination", "ijepa", "data2vec2", "simmim", "maskfeat", "data2vec", "beit",
            "autoencoder", "denoising_autoencoder", "vae", "inpainting", "context_prediction", "jigsaw", "block_order",
            "colorization",
        ),
        _ONE_SEED,
    ),
    "aim": f"{_ONE_SEED}, from before its head's positions moved in front of the first layer",
    **dict.fromkeys(("ibot", "dinov2", "dinov2_gram", "msn"), "not trained yet for this table"),
    "capi": (
        "it learns its task, and features get worse. In a run of 744 steps on digits (seed 0), a third of the small "
        "recipe's, the loss of the prediction was 4.29, 4.12, 3.93, 3.74, 3.73 and 3.58 at steps 10, 50, 100, 200, "
        "400 and 600 (ln 64 is 4.16), that of the clusters 8.72, 10.08, 8.41, 3.66, 2.07 and 1.87; all clusters "
        "were used, and the rank of features rose from 10 to 19. Accuracy on held-out training samples fell from "
        "49.0 to 43.9 % by k-NN and from 65.8 to 55.6 % by the linear probe, and also that of the encoder's patches "
        "and registers. With 16 clusters that learn 20 times as fast it fell to 36.3 and 53.9 %. A likely reason: "
        "at each place 64 samples are shared out equally, so that a target depends on who else is in the batch, "
        "where the authors share out 16,384, for 500,000 steps. No budget is known at which it learns here"
    ),
}  # fmt: skip
"""By method; shown below the table."""


def learns(trained: Sequence[float], untrained: Sequence[float]) -> bool:
    """Whether scores after trainings are above those before by more than either spreads, from lowest to highest, over
    at least three seeds."""
    spread = max(max(scores) - min(scores) for scores in (trained, untrained))
    return len(trained) >= SEEDS and statistics.mean(trained) - statistics.mean(untrained) > spread
