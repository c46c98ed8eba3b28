"""As `tests.models.peer_loops`, of methods that hide patches: around what lightly and `transformers` have of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn

from headrace.models.seeding import seeded
from headrace.pipeline import Batch
from tests.models.methods.test_beit import beit_of_transformers
from tests.models.methods.test_data2vec import networks_of_transformers, target_of
from tests.models.peer_loops import DECAY, EPOCHS, LR, STEPS_PER_EPOCH, Loop, carry, optimizer_of, step_by


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


def beit(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    model = beit_of_transformers(method).double().train()
    cls_token = model.beit.embeddings.cls_token
    trained = [p for p in model.parameters() if p is not cls_token]
    kernels = {"params": [p for p in trained if p.ndim > 1]}
    others = {"params": [cls_token, *(p for p in trained if p.ndim <= 1)], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([kernels, others], lr=LR["adamw"], weight_decay=DECAY)
    for batch in batches:
        (images,), (masks,) = batch.views, batch.masks
        # Difference: the words are our clusters' and not DALL-E's, which `transformers` has no tokenizer of either.
        words = method.words_of(method.described(images))[masks.masked]
        yield step_by(optimizer, model(images, bool_masked_pos=masks.masked, labels=words).loss)


def data2vec(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    """`transformers` has the network alone: the target, the last layer and the slow network's pace are the paper's."""
    model, slow = (network.double().train() for network in networks_of_transformers(method))
    norm, predict = copy.deepcopy(method.backbone.norm), copy.deepcopy(method.predict)
    cls_token = model.embeddings.cls_token
    trained = [p for module in (model, norm, predict) for p in module.parameters() if p is not cls_token]
    kernels = {"params": [p for p in trained if p.ndim > 1]}
    others = {"params": [cls_token, *(p for p in trained if p.ndim <= 1)], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([kernels, others], lr=LR["adamw"], weight_decay=DECAY)
    for batch in batches:
        (images,), (masks,) = batch.views, batch.masks
        with torch.no_grad():
            target = target_of(slow, images, masks.masked)
        tokens = model(images, bool_masked_pos=masks.masked).last_hidden_state[:, 1:]
        loss = F.smooth_l1_loss(predict(norm(tokens[masks.masked])), target, beta=method.config.beta)
        yield step_by(optimizer, loss)
        with torch.no_grad():
            for theirs, ours in zip(slow.parameters(), model.parameters(), strict=True):
                theirs.mul_(method.config.momentum).add_(ours, alpha=1 - method.config.momentum)


class PlacesTable(nn.Module):
    """In the place of timm's rotary embedding: sines and cosines of whatever places there are.

    Difference: timm's takes its frequencies from another range, and places of the grid alone; CAPI's registers have
    places of their own in each sample. Timm's turns neighbours into each other, CAPI's the halves of a head: `order`
    puts the numbers that belong together side by side.
    """

    def __init__(self, frequencies: Tensor) -> None:
        super().__init__()
        self.order = torch.arange(frequencies.shape[1]).view(2, -1).T.flatten()
        self.frequencies = frequencies[:, self.order]
        self.places = torch.empty(0, 2, dtype=torch.float64)

    def get_embed(self) -> Tensor:
        angles = self.places @ self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def capi_predictor(method: Any) -> Any:
    """Lightly's with the weights and the layers of ours."""
    from lightly.models.modules.capi_predictor_timm import CAPIPredictorTIMM

    config, ours = method.config, method.student
    predictor = CAPIPredictorTIMM(config.dim, config.size // config.patch, config.predictor_depth, config.heads)
    predictor.rope = PlacesTable(ours.predictor[0].attention.frequencies)
    # Difference: the authors' norms have neither mean nor bias, and the last one nothing to learn.
    predictor.norm = nn.RMSNorm(config.dim, eps=1e-5, elementwise_affine=False)
    predictor.mask_token = copy.deepcopy(ours.mask_token)

    def paired(weight: Tensor) -> Tensor:
        return weight.unflatten(0, (config.heads, -1))[:, predictor.rope.order].flatten(0, 1)

    def linear(*weights: Tensor) -> nn.Linear:
        """Difference: the authors' layers have no biases."""
        weight = torch.cat(weights).detach().clone()
        layer = nn.Linear(*reversed(weight.shape), bias=False)
        layer.weight = nn.Parameter(weight)
        return layer

    for block, mine in zip(predictor.blocks, ours.predictor, strict=True):
        attention = mine.attention
        block.query_norm, block.mlp_norm = copy.deepcopy(mine.norm1), copy.deepcopy(mine.norm2)
        block.context_norm = nn.Identity()  # Difference: lightly norms once more what the encoder's last norm has left.
        block.to_query = linear(paired(attention.query.weight))
        block.to_key_value = linear(paired(attention.key.weight), attention.value.weight)
        # Difference: lightly's predictor drops no paths, the authors' does.
        block.projection = nn.Sequential(linear(attention.project.weight), DropPath(config.drop_path))
        block.mlp = nn.Sequential(
            linear(mine.mlp.fc1.weight), nn.GELU(), linear(mine.mlp.fc2.weight), DropPath(config.drop_path)
        )
    return predictor


def capi(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import CAPILoss
    from lightly.models.modules.heads import CAPIProjectionHead
    from lightly.models.utils import update_momentum

    config = method.config
    # Difference: the encoder of lightly's example is a plain ViT with absolute positions, and it shows its predictor no
    # registers. The encoder is a copy of ours.
    encoder, slow_encoder = copy.deepcopy(method.student), copy.deepcopy(method.backbone)
    for each in (encoder, slow_encoder):
        del each.predictor, each.mask_token
    predictor = capi_predictor(method).double().train()
    head = CAPIProjectionHead(config.dim, config.clusters, weight_norm=True)
    carry(method.head, head)
    # Difference: lightly's lengths of the rows stay 1, the authors' begin there.
    head.layer.weight_g.requires_grad_(True)
    clusters = CAPIProjectionHead(config.dim, config.clusters, bias=True)
    carry(method.clusters, clusters)
    criterion = CAPILoss(config.target_temperature, config.temperature, config.iterations)
    weight, bias = encoder.patch_embed.parameters()
    trained = [p for module in (encoder, predictor, head) for p in module.parameters()]
    trained = [p for p in trained if p is not weight and p is not bias]
    slower = {"lr": 0.2 * LR["adamw"]}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.1 * DECAY},
        {"params": [weight], **slower},
        {"params": [bias], **slower, "weight_decay": 0.0},
        {"params": list(clusters.parameters())},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR["adamw"], weight_decay=DECAY)
    steps = EPOCHS * STEPS_PER_EPOCH
    warmup = round(config.momentum_warmup * steps)
    rising = np.cos(np.pi * config.cosine_share * np.arange(steps - warmup) / (steps - warmup))
    momenta = [*np.linspace(1.0, config.momentum, warmup), *(1.0 + 0.5 * (config.momentum - 1.0) * (1 + rising))]
    registers = config.registers
    for step, batch in enumerate(batches):
        (images,), (masks,) = batch.views, batch.masks
        with torch.no_grad():
            patches = slow_encoder.patches(images)
        similarity = clusters(patches)
        with seeded(0, step):  # which paths are dropped
            encoded, places = encoder.encode(images, masks.visible)
            predictor.rope.places = torch.cat([encoder.places, places[:, :registers].flatten(0, 1)])
            of_registers = len(encoder.places) + torch.arange(registers * len(batch)).view(-1, registers)
            seen = torch.cat([of_registers, masks.visible], dim=1)
            named = head(predictor(encoded, seen, masks.predicted))
        loss = criterion(similarity, named, masks.predicted) + criterion(similarity, similarity)
        yield step_by(optimizer, loss)
        # Difference: the momentum of lightly's example rises on a cosine.
        update_momentum(encoder, slow_encoder, float(momenta[step]))


LOOPS: dict[str, tuple[str, Literal["sgd", "adamw"], Loop]] = {
    "ijepa": ("lightly", "adamw", ijepa),
    "capi": ("lightly", "adamw", capi),
    "beit": ("transformers", "adamw", beit),
    "data2vec": ("transformers", "adamw", data2vec),
}
"""See `tests.models.peer_loops.LOOPS`."""
