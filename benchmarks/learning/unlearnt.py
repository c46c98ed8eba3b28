"""What a row has to show so that its method is said to learn, and the methods that have none, with the reasons."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

SEEDS = 3
"""The fewest of a row that counts."""

_ONE_SEED = "one seed so far, better than untrained by one probe at least"
_NOT_TRAINED = "not trained yet for this table"
_SHORT = "not trained yet for this table; by k-NN / linear, one seed cut short"

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
    **dict.fromkeys(
        (
            "ibot", "dinov2", "dinov2_gram", "msn", "vjepa2", "frame_order", "sorting", "speediness", "odd_one_out",
            "time_contrastive", "rho_simclr", "rho_moco", "rho_byol", "rho_swav", "sfmlearner", "roberta", "t5",
            "albert", "bart", "simcse", "modernbert", "wav2vec2", "data2vec_audio", "cpc", "byol_a",
        ),
        _NOT_TRAINED,
    ),
    "videomae_v2": f"{_SHORT}, 4 of 36 epochs of moving digits: 17.6 / 42.5, untrained 16.1 / 37.0",
    "vjepa": f"{_SHORT}, 128 of 2,230 steps on moving digits: 13.9 / 24.3, untrained 14.1 / 25.4",
    "pace": f"{_SHORT}, 5 of 36 epochs of moving digits: 28.5 / 38.4, untrained 22.8 / 31.8",
    "clip_order": f"{_SHORT}, 5 of 36 epochs of moving digits: 31.4 / 49.3, untrained 28.9 / 37.3",
    "cvrl": f"{_SHORT}, 5 of 36 epochs of moving digits: 52.8 / 68.3, untrained 27.6 / 36.6",
    "arrow_of_time": f"{_NOT_TRAINED}; what moves in both sets of clips may move either way, so that nothing tells",
    "monodepth2": f"{_SHORT}, 71 steps: the error of depths is 1.044, untrained 1.045, of a constant depth 1.045",
    "electra": f"{_SHORT}, 2 of 9 epochs of glosses: 20.8 / 38.7, untrained 40.9 / 43.0",
    "hubert": f"{_SHORT}, 168 of 768 steps on prompts: 57.6 / 77.6, untrained 47.3 / 63.1",
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
