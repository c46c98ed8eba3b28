"""Protocols that train the encoder too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headrace.tools.evaluation.protocol import Outcome, Protocol, Task, confusion
from headrace.train.probes.finetune import BEIT_BASE, MAE_BASE, FinetuneConfig, finetune_predictions
from headrace.train.probes.intervals import nested_interval


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(FinetuneConfig):
    """Of `finetune` and its papers' forms."""

    seeds: int = 1
    """Trainings, of the seeds from `seed` on; scores are means over them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds < 1:
            raise ValueError("seeds must be at least 1")


def measure_finetune(task: Task) -> Outcome:
    settings: FinetuneSettings = task.settings
    test = task.required_test("fine-tuning is scored")
    right: list[np.ndarray] = []
    details: dict[str, Any] = {}
    for seed in range(settings.seeds):
        config = replace(settings, seed=settings.seed + seed)
        truth, predicted = finetune_predictions(
            task.method, task.learn, test, config, device=task.device, max_bad=task.max_bad
        )
        details = details or confusion(task, truth, predicted)
        right.append(truth == predicted)
    return Outcome(metrics={"accuracy": nested_interval(np.stack(right))}, details=details)


COMMON: Mapping[str, Any] = {
    "metric": "accuracy",
    "measure": measure_finetune,
    "encoders": ("untrained", "trained"),
    "cost": "As many passes forward and backward over the training set as there are epochs, for each encoder and seed.",
    "incomparable": "Other augmentation, another decay of layers, the best epoch in the place of the last, another "
    "resolution or crop at the test.",
}
DEFINITION = (
    "A copy of the backbone and a linear classifier are trained on all labels by AdamW, each layer at a share of "
    "the next one's learning rate, and judged after the last epoch on centred squares. The test set is looked at once."
)
FINETUNE = Protocol(
    name="finetune",
    version=1,
    title="fine-tuned",
    settings=FinetuneSettings(),
    definition=f"{DEFINITION} Crop and flip of the method's first view, no mixing: for small sets.",
    source="The shape of MAE's fine-tuning, arXiv 2111.06377, table 9",
    **COMMON,
)
FINETUNE_MAE = Protocol(
    name="finetune_mae",
    version=2,
    title="fine-tuned as MAE",
    settings=FinetuneSettings(**vars(MAE_BASE)),
    definition=f"{DEFINITION} MAE's values for a ViT-B: RandAugment, random erasing, mixup 0.8, CutMix 1.0, "
    "smoothing 0.1, dropped paths 0.1.",
    source="MAE, arXiv 2111.06377, table 9; facebookresearch/mae at efb2a80, FINETUNE.md",
    **COMMON,
)
FINETUNE_BEIT = Protocol(
    name="finetune_beit",
    version=2,
    title="fine-tuned as BEiT",
    settings=FinetuneSettings(**vars(BEIT_BASE)),
    definition=f"{DEFINITION} BEiT's values for a ViT-B: MAE's with a longer warm-up and twice the learning rate.",
    source="BEiT, arXiv 2106.08254, table 10; microsoft/unilm, beit/README.md",
    **COMMON,
)
