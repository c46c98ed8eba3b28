"""Every protocol, by name."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.tools.evaluation.captioned import CAPTIONS
from headrace.tools.evaluation.collapse import METERS
from headrace.tools.evaluation.finetuned import FINETUNE, FINETUNE_BEIT, FINETUNE_MAE
from headrace.tools.evaluation.frozen import FEWSHOT, KNN, LINEAR
from headrace.tools.evaluation.maps import DEPTH, DETECTION, SEGMENTATION
from headrace.tools.evaluation.perplexed import PERPLEXITY
from headrace.tools.evaluation.protocol import Protocol
from headrace.tools.evaluation.retrieved import RETRIEVAL, RETRIEVAL_TEXT, ZEROSHOT
from headrace.tools.evaluation.robust import ROBUSTNESS
from headrace.tools.evaluation.sgd import LINEAR_DINO, LINEAR_DINOV2, LINEAR_MAE, LINEAR_SIMCLR

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        KNN,
        LINEAR,
        LINEAR_SIMCLR,
        LINEAR_MAE,
        LINEAR_DINO,
        LINEAR_DINOV2,
        FEWSHOT,
        FINETUNE,
        FINETUNE_MAE,
        FINETUNE_BEIT,
        ROBUSTNESS,
        SEGMENTATION,
        DETECTION,
        DEPTH,
        RETRIEVAL,
        RETRIEVAL_TEXT,
        ZEROSHOT,
        PERPLEXITY,
        METERS,
        CAPTIONS,
    )
}
"""In the order of tables."""
