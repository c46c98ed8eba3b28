"""As `tests.models.peer_loops`, of methods that hide patches: around what lightly and `transformers` have of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.pipeline import Batch
from tests.models.peer_loops import EPOCHS, STEPS_PER_EPOCH, Loop, optimizer_of, step_by


def ijepa(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.models.modules import IJEPAPredictorTIMM, MaskedVisionTransformerTIMM
    from lightly.models.utils import apply_masks, repeat_interleave_batch, update_momentum

    config, dim = method.config, method.feature_dim
    encoder, slow_encoder = (
        MaskedVisionTransformerTIMM(
            copy.deepcopy(ours), weight_initialization="skip", pos_embed_initialization="skip"
        ).double()
        for ours in (method.student, method.backbone)
    )
    encoder.mask_token.requires_grad_(False)
    predictor = IJEPAPredictorTIMM(
        encoder.sequence_length, config.predictor_depth, dim, config.predictor_dim, config.predictor_heads
    ).double()
    state, outer = predictor.state_dict(), {"embed": "predictor_embed", "project": "predictor_proj"}
    for key, value in method.predictor.state_dict().items():
        part, _, rest = key.partition(".")
        name = f"{outer[part]}.{rest}" if part in outer else f"decoder.{key}"
        state[name] = value.view_as(state[name])
    # Difference: lightly computes its table of positions in float32; ours is rounded to it at the end.
    state["decoder.pos_embed"] = method.predictor.positions[None]
    predictor.load_state_dict(state)
    optimizer = optimizer_of(encoder, predictor, name="adamw")
    for step, batch in enumerate(batches):
        (images,), (masks,) = batch.views, batch.masks
        with torch.no_grad():
            whole = F.layer_norm(slow_encoder.encode(images), (dim,))
        # Difference: lightly's collator, as the authors' code, draws the size of the targets once for a batch and cuts
        # all contexts to the smallest; ours have sizes of their own. Here samples with the same sizes go together.
        sizes = torch.stack([masks.context_count, masks.target_count[:, 0]], dim=1)
        loss = torch.zeros((), dtype=torch.float64)
        for seen, wanted in sizes.unique(dim=0).tolist():
            rows = (sizes == torch.tensor([seen, wanted])).all(dim=1).nonzero()[:, 0]
            context = [masks.context[rows, :seen]]
            targets = list(masks.targets[rows, :, :wanted].unbind(dim=1))
            predicted = predictor(encoder.encode(images[rows], idx_keep=context[0]), context, targets)
            expected = repeat_interleave_batch(apply_masks(whole[rows], targets), len(rows), repeat=len(context))
            loss = loss + len(rows) / len(batch) * F.smooth_l1_loss(predicted, expected)
        yield step_by(optimizer, loss)
        momentum = config.momentum + step * (1 - config.momentum) / (EPOCHS * STEPS_PER_EPOCH)
        update_momentum(encoder, slow_encoder, momentum)


LOOPS: dict[str, tuple[str, Literal["sgd", "adamw"], Loop]] = {
    "ijepa": ("lightly", "adamw", ijepa),
}
"""See `tests.models.peer_loops.LOOPS`."""
