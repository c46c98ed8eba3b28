"""The papers' linear probes as protocols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headrace.tools.evaluation.protocol import Outcome, Protocol, Task, confusion
from headrace.tools.evaluation.shown import ShownPixels
from headrace.train.probes.intervals import nested_interval
from headrace.train.probes.sgd_linear import DINO, DINOV2, MAE, SIMCLR, Chosen, SgdLinearConfig, sgd_linear


@dataclass(frozen=True, kw_only=True)
class SgdLinearSettings(SgdLinearConfig):
    """Of a paper's linear probe."""

    seeds: int = 1
    """Trainings, of the seeds from `seed` on; scores are means over them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds < 1:
            raise ValueError("seeds must be at least 1")


def measure_sgd(task: Task) -> Outcome:
    settings: SgdLinearSettings = task.settings
    test = task.required_test("a head trained by SGD is scored")
    method = task.method
    if task.encoder == "input":
        method, settings = ShownPixels(method), replace(settings, features=("output",))
    found: list[Chosen] = []
    for seed in range(settings.seeds):
        config = replace(settings, seed=settings.seed + seed)
        found.append(sgd_linear(method, task.learn, test, config, device=task.device, max_bad=task.max_bad))
    right = np.stack([each.predicted == each.truth for each in found])
    chosen = [{"features": each.features, "rate": each.rate, "heads": each.heads} for each in found]
    return Outcome(
        metrics={"accuracy": nested_interval(right)},
        details={"chosen": chosen, **confusion(task, found[0].truth, found[0].predicted)},
    )


COMMON: Mapping[str, Any] = {
    "version": 1,
    "metric": "accuracy",
    "measure": measure_sgd,
    "cost": "As many passes of the frozen encoder over the training set as there are epochs, for each encoder and "
    "seed; several heads share them.",
}
DEFINITION = (
    "The encoder is frozen and in evaluation mode, so that its statistics stay. Heads see random crops and flips, are "
    "judged after the last epoch on centred squares, and the test set is looked at once. The raw input is the same "
    "pictures' pixels, averaged to 32 a side."
)
LINEAR_SIMCLR = Protocol(
    name="linear_simclr",
    title="linear as SimCLR",
    settings=SgdLinearSettings(**vars(SIMCLR)),
    definition=f"{DEFINITION} One head that begins with zeros, by SGD with momentum, a learning rate of 0.1 for 256 "
    "samples and half a cosine over 90 epochs of batches of 4,096.",
    source="SimCLR, arXiv 2002.05709, appendix B.6; google-research/simclr at 383d414. For CIFAR-10 it has batches of "
    "512, 100 epochs and no weight decay",
    incomparable="Other epochs (lightly's and MoCo v3's are 90, MoCo's 100 with a learning rate of 30), the best epoch "
    "in the place of the last, bicubic in the place of bilinear crops.",
    **COMMON,
)
LINEAR_MAE = Protocol(
    name="linear_mae",
    title="linear as MAE",
    settings=SgdLinearSettings(**vars(MAE)),
    definition=f"{DEFINITION} Batch norm without affine in front of one head, by LARS, a learning rate of 0.1 for 256 "
    "samples, ten epochs of warm-up and half a cosine over 90 epochs of batches of 16,384.",
    source="MAE, arXiv 2111.06377, table 10; facebookresearch/mae at efb2a80, main_linprobe.py",
    incomparable="A head without batch norm, which matters most for features of masked prediction; the best epoch, "
    "which MAE's own log shows; its sampler of crops, which clamps where this draws again.",
    **COMMON,
)
LINEAR_DINO = Protocol(
    name="linear_dino",
    title="linear as DINO",
    settings=SgdLinearSettings(**vars(DINO)),
    definition=f"{DEFINITION} One head on the class tokens of the last four blocks of a ViT, by SGD with momentum, a "
    "learning rate of 0.001 for 256 samples and half a cosine over 100 epochs of batches of 1,024.",
    source="DINO, arXiv 2104.14294, section 3.2; facebookresearch/dino at 7c446df, eval_linear.py, for a ViT-S. Its "
    "cosine falls by epochs, this one by steps",
    incomparable="One block's token, or the mean of patches beside it, as DINO has for a ViT-B; the best epoch of the "
    "validation set, which its log reports.",
    **COMMON,
)
LINEAR_DINOV2 = Protocol(
    name="linear_dinov2",
    title="linear as DINOv2",
    settings=SgdLinearSettings(**vars(DINOV2)),
    definition=f"{DEFINITION} 52 heads in one pass: thirteen learning rates, class tokens of the last one or four "
    "blocks, with the mean of patches beside them or not. A tenth of the training set, on which none is trained, "
    "chooses.",
    source="DINOv2, arXiv 2304.07193, appendix B.3; facebookresearch/dinov2 at b8931f7, eval/linear.py, which chooses "
    "on the set that it reports. The choice on training data is CAPI's, arXiv 2502.08769",
    incomparable="The best of 52 heads on the test set, as published figures are; other epochs (12,500 steps of 1,024 "
    "samples are ten of ImageNet, and ten of any set here).",
    **COMMON,
)
