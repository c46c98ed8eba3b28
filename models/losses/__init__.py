"""Losses as pure functions in their papers' symbols, one file a family.

Letters in shapes: N samples of this rank, W ranks, D dimensions of a projection, K prototypes or rows of a queue, V
views, L patches or tokens, P numbers of a patch. All are computed in float32 at least, also under autocast.
"""

from headrace.models.losses.contrastive import clip_loss, in_batch_info_nce, nt_xent, queue_info_nce
from headrace.models.losses.distillation import cosine_regression, dino_loss, relation_loss
from headrace.models.losses.features import averaged_layers, feature_loss
from headrace.models.losses.gaussian import centre_distance, sigreg
from headrace.models.losses.gradients import (
    cells_from_patches,
    cells_of_patches,
    drawn_gradients,
    oriented_gradients,
)
from headrace.models.losses.prototypes import sinkhorn, swapped_prediction
from headrace.models.losses.reconstruction import (
    masked_patch_loss,
    masked_pixel_loss,
    normalize_channels,
    normalize_patches,
    with_statistics_of,
)
from headrace.models.losses.redundancy import barlow_twins_loss, second_moment, tico_loss, vicreg_terms
from headrace.models.losses.tokens import masked_token_loss

__all__ = [
    "averaged_layers",
    "barlow_twins_loss",
    "cells_from_patches",
    "cells_of_patches",
    "centre_distance",
    "clip_loss",
    "cosine_regression",
    "dino_loss",
    "drawn_gradients",
    "feature_loss",
    "in_batch_info_nce",
    "masked_patch_loss",
    "masked_pixel_loss",
    "masked_token_loss",
    "normalize_channels",
    "normalize_patches",
    "nt_xent",
    "oriented_gradients",
    "queue_info_nce",
    "relation_loss",
    "second_moment",
    "sigreg",
    "sinkhorn",
    "swapped_prediction",
    "tico_loss",
    "vicreg_terms",
    "with_statistics_of",
]
