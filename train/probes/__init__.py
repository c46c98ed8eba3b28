"""How good features are, by the accuracy of simple classifiers on them."""

from headrace.train.probes.classes import matched_labels
from headrace.train.probes.features import (
    Features,
    band_features,
    extract_features,
    image_views,
    pixel_features,
    word_features,
)
from headrace.train.probes.fewshot import few_labels
from headrace.train.probes.finetune import FinetuneConfig, finetune_probe
from headrace.train.probes.frozen import FROZEN_PROBES, frozen_scores, held_out
from headrace.train.probes.knn import knn_probe
from headrace.train.probes.linear import LinearHead, fit_linear, linear_probe
from headrace.train.probes.robustness import (
    CorruptionConfig,
    CorruptionOutcomes,
    corruption_outcomes,
    shift_outcomes,
)

__all__ = [
    "FROZEN_PROBES",
    "CorruptionConfig",
    "CorruptionOutcomes",
    "Features",
    "FinetuneConfig",
    "LinearHead",
    "band_features",
    "corruption_outcomes",
    "extract_features",
    "few_labels",
    "finetune_probe",
    "fit_linear",
    "frozen_scores",
    "held_out",
    "image_views",
    "knn_probe",
    "linear_probe",
    "matched_labels",
    "pixel_features",
    "shift_outcomes",
    "word_features",
]
