"""Losses as pure functions in their papers' symbols, one file a family.

Letters in shapes: N samples of this rank, W ranks, D dimensions of a projection, K prototypes or rows of a queue, V
views, L patches or tokens, P numbers of a patch. All are computed in float32 at least, also under autocast.
"""

from headrace.models.losses.adversarial import discriminator_loss, generator_loss
from headrace.models.losses.colours import colour_regression, soft_bin_loss
from headrace.models.losses.contrastive import (
    clip_loss,
    dense_info_nce,
    in_batch_info_nce,
    instance_softmax,
    most_similar_cells,
    noise_contrastive,
    nt_xent,
    queue_info_nce,
)
from headrace.models.losses.distillation import (
    centred_targets,
    cosine_regression,
    dino_loss,
    masked_distillation,
    relation_loss,
)
from headrace.models.losses.features import averaged_layers, feature_loss
from headrace.models.losses.gaussian import centre_distance, sigreg
from headrace.models.losses.gradients import (
    cells_from_patches,
    cells_of_patches,
    drawn_gradients,
    oriented_gradients,
)
from headrace.models.losses.latent import absolute_regression, contextual_targets, scaled_regression, target_regression
from headrace.models.losses.prototypes import (
    assignment_loss,
    cluster_cross_entropy,
    crossed_views,
    masked_siamese_terms,
    sharpened_assignments,
    sinkhorn,
    swapped_prediction,
)
from headrace.models.losses.puzzles import placement_loss, placements
from headrace.models.losses.reconstruction import (
    gaussian_kl,
    masked_patch_loss,
    masked_pixel_loss,
    next_patch_loss,
    normalize_channels,
    normalize_patches,
    pixel_cross_entropy,
    weighted_squared_error,
    with_statistics_of,
)
from headrace.models.losses.redundancy import barlow_twins_loss, second_moment, tico_loss, vicreg_terms
from headrace.models.losses.regularizers import gram_loss, koleo_loss
from headrace.models.losses.speech import (
    cluster_loss,
    frame_info_nce,
    frame_regression,
    future_info_nce,
    normalized_layers,
)
from headrace.models.losses.time_contrast import time_contrastive_loss
from headrace.models.losses.tokens import masked_token_loss, next_token_loss, replaced_token_loss
from headrace.models.losses.whitening import w_mse_loss, whitened

__all__ = [
    "absolute_regression",
    "assignment_loss",
    "averaged_layers",
    "barlow_twins_loss",
    "cells_from_patches",
    "cells_of_patches",
    "centre_distance",
    "centred_targets",
    "clip_loss",
    "cluster_cross_entropy",
    "cluster_loss",
    "colour_regression",
    "contextual_targets",
    "cosine_regression",
    "crossed_views",
    "dense_info_nce",
    "dino_loss",
    "discriminator_loss",
    "drawn_gradients",
    "feature_loss",
    "frame_info_nce",
    "frame_regression",
    "future_info_nce",
    "gaussian_kl",
    "generator_loss",
    "gram_loss",
    "in_batch_info_nce",
    "instance_softmax",
    "koleo_loss",
    "masked_distillation",
    "masked_patch_loss",
    "masked_pixel_loss",
    "masked_siamese_terms",
    "masked_token_loss",
    "most_similar_cells",
    "next_patch_loss",
    "next_token_loss",
    "noise_contrastive",
    "normalize_channels",
    "normalize_patches",
    "normalized_layers",
    "nt_xent",
    "oriented_gradients",
    "pixel_cross_entropy",
    "placement_loss",
    "placements",
    "queue_info_nce",
    "relation_loss",
    "replaced_token_loss",
    "scaled_regression",
    "second_moment",
    "sharpened_assignments",
    "sigreg",
    "sinkhorn",
    "soft_bin_loss",
    "swapped_prediction",
    "target_regression",
    "tico_loss",
    "time_contrastive_loss",
    "vicreg_terms",
    "w_mse_loss",
    "weighted_squared_error",
    "whitened",
    "with_statistics_of",
]
