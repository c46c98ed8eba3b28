"""Plain training loops, by hand, around the parts of lightly and of `transformers`, from the weights of our methods.

Each yields the loss of every step. Where a definition of theirs is not the authors', which ours follow, a comment that
begins with "Difference" says so, and the loop takes the authors'.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.parts.backbones import build_backbone
from headrace.models.seeding import seeded
from headrace.pipeline import Batch
from tests.models.methods.test_mae import converted, hugging
from tests.models.methods.test_simmim import swin_of_transformers

STEPS_PER_EPOCH, EPOCHS = 5, 4
LR, MOMENTUM, DECAY = {"sgd": 0.01, "adamw": 0.001}, 0.9, 0.01

Loop = Callable[[Any, list[Batch]], Iterator[Tensor]]
"""From a method as it was built, which it does not change, and float64 batches, to the loss of each."""


def carry(ours: nn.Module, theirs: nn.Module) -> None:
    """Our weights and buffers into their module, which has them in the same order under other names."""
    state, other = ours.state_dict(), theirs.double().state_dict()
    theirs.load_state_dict(dict(zip(other, state.values(), strict=True)))


def optimizer_of(
    *modules: nn.Module, name: str = "sgd", decay_vectors: bool = False, vector_lr: float = 1.0
) -> torch.optim.Optimizer:
    """torch's SGD or AdamW over what is trained."""
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    kernels = {"params": [p for p in trained if p.ndim > 1]}
    vectors = {"params": [p for p in trained if p.ndim <= 1], "lr": LR[name] * vector_lr}
    vectors["weight_decay"] = DECAY if decay_vectors else 0.0
    if name == "adamw":
        return torch.optim.AdamW([kernels, vectors], lr=LR[name], weight_decay=DECAY)
    return torch.optim.SGD([kernels, vectors], lr=LR[name], momentum=MOMENTUM, weight_decay=DECAY)


def step_by(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """One step; the loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach().squeeze()


def simclr(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    backbone = copy.deepcopy(method.backbone)
    head = SimCLRProjectionHead(method.feature_dim, method.config.projection_hidden, method.config.projection_dim)
    carry(method.projector, head)
    # Difference: the last batch norm of google-research/simclr does not shift.
    head.layers[-1].bias.requires_grad_(False)
    criterion = NTXentLoss(temperature=method.config.temperature)  # the mean over 2N views, as ours
    optimizer = optimizer_of(backbone, head)
    for batch in batches:
        # Difference: lightly's example passes each view alone; the authors' batch norms see both.
        first, second = head(backbone(torch.cat(batch.views))).chunk(2)
        yield step_by(optimizer, criterion(first, second))


def with_lightlys_split_norms(module: nn.Module, splits: int) -> nn.Module:
    """`module` with lightly's batch norms of parts in the place of all `BatchNorm2d`, freshly built."""
    from lightly.models.batchnorm import SplitBatchNorm

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, SplitBatchNorm(child.num_features, splits))
        else:
            with_lightlys_split_norms(child, splits)
    return module.double()


def carry_parameters(ours: nn.Module, theirs: nn.Module) -> None:
    """Lightly's running statistics, which are of each part, stay as they are: nothing uses them."""
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine.view_as(other))


def of_parts(samples: int, splits: int) -> tuple[Tensor, Tensor]:
    """An order for lightly's norm, and the way back.

    Difference: the parts of lightly's norm take every second image, ours (as devices do) neighbours.
    """
    order = torch.arange(samples).view(splits, samples // splits).T.flatten()
    return order, torch.argsort(order)


def moco_v1(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.models.modules.heads import ProjectionHead

    # Lightly has no head of version 1; the authors' is one layer with a bias.
    layer = (method.feature_dim, method.config.projection_dim, None, None)
    yield from moco(method, batches, lambda: ProjectionHead([layer]))


def moco_v2(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.models.modules import MoCoProjectionHead

    dim = method.feature_dim
    yield from moco(method, batches, lambda: MoCoProjectionHead(dim, dim, method.config.projection_dim))


def moco(method: Any, batches: list[Batch], make_head: Callable[[], nn.Module]) -> Iterator[Tensor]:
    from lightly.loss import NTXentLoss
    from lightly.models.utils import batch_shuffle, batch_unshuffle, update_momentum

    config, splits = method.config, method.config.batch_norm_splits
    backbone, slow_backbone = (
        with_lightlys_split_norms(build_backbone(config.backbone)[0], splits).train() for _ in range(2)
    )
    head, slow_head = (make_head().double() for _ in range(2))
    pairs = [
        (method.backbone, backbone), (method.slow_backbone, slow_backbone),
        (method.projector, head), (method.slow_projector, slow_head),
    ]  # fmt: skip
    for ours, theirs in pairs:
        carry_parameters(ours, theirs)

    def by_parts(network: nn.Module, images: Tensor) -> Tensor:
        there, back = of_parts(len(images), splits)
        return network(images[there])[back]

    criterion = NTXentLoss(temperature=config.temperature, memory_bank_size=(config.queue, config.projection_dim))
    # Difference: both queues begin with directions drawn at random; the same ones here.
    criterion.double().memory_bank.bank.copy_(method.queue.rows)
    optimizer = optimizer_of(backbone, head, decay_vectors=True)
    for step, batch in enumerate(batches):
        first, second = batch.views
        update_momentum(backbone, slow_backbone, config.momentum)  # before the keys, as the authors do
        update_momentum(head, slow_head, config.momentum)
        query = head(by_parts(backbone, first))
        with seeded(0, step), torch.no_grad():
            images, shuffle = batch_shuffle(second)
            key = batch_unshuffle(slow_head(by_parts(slow_backbone, images)), shuffle)
        yield step_by(optimizer, criterion(query, key))


class DenseCLNetwork(nn.Module):
    """A backbone with lightly's heads: what they make of features and of the cells of a map, and those cells."""

    def __init__(self, method: Any) -> None:
        from lightly.models.modules.heads import DenseCLProjectionHead

        super().__init__()
        c = method.config
        self.backbone = with_lightlys_split_norms(build_backbone(c.backbone)[0], c.batch_norm_splits).train()
        self.whole, self.dense = (
            DenseCLProjectionHead(method.feature_dim, c.hidden_dim, c.projection_dim) for _ in range(2)
        )
        self.splits = c.batch_norm_splits

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        there, back = of_parts(len(images), self.splits)
        cells = self.backbone[0].forward_features(images[there])[back]
        features = self.backbone[1](self.backbone[0].forward_head(cells))
        cells = cells.flatten(2).permute(0, 2, 1)
        return self.whole(features), self.dense(cells), cells


def densecl(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import NTXentLoss
    from lightly.models.utils import batch_shuffle, batch_unshuffle, select_most_similar, update_momentum

    config = method.config
    fast, slow = DenseCLNetwork(method).double(), DenseCLNetwork(method).double()
    for network, backbone, heads in (
        (fast, method.backbone, method.projector),
        (slow, method.slow_backbone, method.slow_projector),
    ):
        carry_parameters(backbone, network.backbone)
        carry_parameters(heads.whole, network.whole)
        carry_parameters(heads.dense, network.dense)
    size = (config.queue, config.projection_dim)
    criterion, dense_criterion = (NTXentLoss(config.temperature, memory_bank_size=size).double() for _ in range(2))
    criterion.memory_bank.bank.copy_(method.queue.rows)
    dense_criterion.memory_bank.bank.copy_(method.dense_queue.rows)
    optimizer = optimizer_of(fast, decay_vectors=True)
    for step, batch in enumerate(batches):
        first, second = batch.views
        update_momentum(fast, slow, config.momentum)
        query, dense_query, query_cells = fast(first)
        with seeded(0, step), torch.no_grad():
            images, shuffle = batch_shuffle(second)
            key, dense_key, key_cells = (batch_unshuffle(x, shuffle) for x in slow(images))
            pooled = dense_key.mean(dim=1)
            dense_key = select_most_similar(query_cells, key_cells, dense_key)
        loss = (1 - config.dense_weight) * criterion(query, key)
        # Difference: lightly's bank would take the matched key of every cell, the authors' queue takes each sample's
        # mean key.
        before = copy.deepcopy(dense_criterion.memory_bank.state_dict())
        loss = loss + config.dense_weight * dense_criterion(dense_query.flatten(0, 1), dense_key.flatten(0, 1))
        dense_criterion.memory_bank.load_state_dict(before)
        dense_criterion.memory_bank(F.normalize(pooled, dim=1), update=True)
        yield step_by(optimizer, loss)


def byol(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules.heads import ProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule

    def head_like(ours: nn.Module, dim: int) -> nn.Module:
        """Difference: lightly's heads have a bias in the second layer, the authors' in the first."""
        hidden, out = method.config.hidden_dim, method.config.projection_dim
        head = ProjectionHead(
            [(dim, hidden, nn.BatchNorm1d(hidden), nn.ReLU(), True), (hidden, out, None, None, False)]
        )
        carry(ours, head)
        return head

    backbone, slow_backbone = copy.deepcopy(method.backbone), copy.deepcopy(method.slow_backbone)
    head, slow_head = (head_like(ours, method.feature_dim) for ours in (method.projector, method.slow_projector))
    predictor = head_like(method.predictor, method.config.projection_dim)
    criterion = NegativeCosineSimilarity()
    optimizer = optimizer_of(backbone, head, predictor)
    for step, batch in enumerate(batches):
        predictions = [predictor(head(backbone(view))) for view in batch.views]
        with torch.no_grad():
            targets = [slow_head(slow_backbone(view)) for view in batch.views]
        # Difference: lightly has the mean of the two -cos; the authors the sum of two 2 - 2 cos.
        mean = 0.5 * (criterion(predictions[0], targets[1]) + criterion(predictions[1], targets[0]))
        yield step_by(optimizer, 4 + 4 * mean)
        # Difference: lightly's momentum is 1 at the last step, the authors' would be at the step behind it. Lightly's
        # example moves the slow network before the keys, the authors' code behind the optimiser's step.
        momentum = cosine_schedule(step, EPOCHS * STEPS_PER_EPOCH + 1, method.config.momentum, 1.0)
        update_momentum(backbone, slow_backbone, momentum)
        update_momentum(head, slow_head, momentum)


def barlow_twins(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules.heads import ProjectionHead

    hidden, out = method.config.hidden_dim, method.config.projection_dim
    backbone = copy.deepcopy(method.backbone)
    # Difference: lightly's projector has a bias in its last layer, the authors' has none.
    head = ProjectionHead(
        [
            (method.feature_dim, hidden, nn.BatchNorm1d(hidden), nn.ReLU()),
            (hidden, hidden, nn.BatchNorm1d(hidden), nn.ReLU()),
            (hidden, out, None, None, False),
        ]
    )
    carry(method.projector, head)
    criterion = BarlowTwinsLoss(lambda_param=method.config.lambd)  # lightly's default is 0.005, the authors' 0.0051
    optimizer = optimizer_of(backbone, head, vector_lr=method.config.vector_lr)
    for batch in batches:
        first, second = (head(backbone(view)) for view in batch.views)
        yield step_by(optimizer, criterion(first, second))


def simsiam(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead

    config, backbone = method.config, copy.deepcopy(method.backbone)
    projector = SimSiamProjectionHead(method.feature_dim, config.hidden_dim, config.projection_dim)
    predictor = SimSiamPredictionHead(config.projection_dim, config.predictor_dim, config.projection_dim)
    carry(method.projector, projector)
    carry(method.predictor, predictor)
    criterion = NegativeCosineSimilarity()
    optimizer = optimizer_of(backbone, projector, predictor, decay_vectors=True)
    for batch in batches:
        z1, z2 = (projector(backbone(view)) for view in batch.views)
        p1, p2 = predictor(z1), predictor(z2)
        yield step_by(optimizer, 0.5 * (criterion(p1, z2.detach()) + criterion(p2, z1.detach())))


class AmongPredictions(nn.Module):
    """The cross entropy of lightly's NT-Xent as the paper's equation 2 has it."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        # Difference: lightly's loss is SimCLR's, in which predictions look for neighbours, too, and each side for its
        # own among itself. In the paper only neighbours, the first half, look for predictions, which come first.
        samples = len(logits) // 2
        return F.cross_entropy(logits[:samples, :samples], labels[:samples])


def nnclr(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import NNCLRPredictionHead, NNCLRProjectionHead, NNMemoryBankModule

    config, out = method.config, method.config.projection_dim
    backbone = copy.deepcopy(method.backbone)
    projector = NNCLRProjectionHead(method.feature_dim, config.hidden_dim, out)
    predictor = NNCLRPredictionHead(out, config.predictor_dim, out)
    carry(method.projector, projector)
    carry(method.predictor, predictor)
    bank = NNMemoryBankModule((config.queue, out)).double()
    # Difference: both queues begin with directions drawn at random; the same ones here.
    bank.bank.copy_(method.queue.rows)
    criterion = NTXentLoss(temperature=config.temperature)
    criterion.cross_entropy = AmongPredictions()
    optimizer = optimizer_of(backbone, projector, predictor)
    for batch in batches:
        z1, z2 = (projector(backbone(view)) for view in batch.views)
        p1, p2 = predictor(z1), predictor(z2)
        # Difference: in lightly's example the second view enters the bank, here the first as in solo-learn.
        near2 = bank(z2.detach(), update=False)
        near1 = bank(z1.detach(), update=True)
        yield step_by(optimizer, 0.5 * (criterion(near1, p2) + criterion(near2, p1)))


def vicreg(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import VICRegLoss
    from lightly.models.modules.heads import ProjectionHead

    hidden, out = method.config.hidden_dim, method.config.projection_dim
    backbone = copy.deepcopy(method.backbone)
    # Difference: lightly's projector has biases in its last layer instead of before the norms.
    head = ProjectionHead(
        [
            (method.feature_dim, hidden, nn.BatchNorm1d(hidden), nn.ReLU(), True),
            (hidden, hidden, nn.BatchNorm1d(hidden), nn.ReLU(), True),
            (hidden, out, None, None, False),
        ]
    )
    carry(method.projector, head)
    criterion, optimizer = VICRegLoss(), optimizer_of(backbone, head)
    for batch in batches:
        z1, z2 = (head(backbone(view)) for view in batch.views)
        yield step_by(optimizer, criterion(z1, z2))


def tico(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import TiCoLoss
    from lightly.models.modules.heads import TiCoProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule

    config = method.config
    backbone, slow_backbone = copy.deepcopy(method.backbone), copy.deepcopy(method.slow_backbone)
    head, slow_head = (
        TiCoProjectionHead(method.feature_dim, config.hidden_dim, config.projection_dim) for _ in range(2)
    )
    carry(method.projector, head)
    carry(method.slow_projector, slow_head)
    criterion = TiCoLoss(beta=config.beta, rho=config.rho)
    optimizer = optimizer_of(backbone, head)
    for step, batch in enumerate(batches):
        first, second = batch.views
        z1 = head(backbone(first))
        with torch.no_grad():
            z2 = slow_head(slow_backbone(second))
        yield step_by(optimizer, criterion(z1, z2))
        # Difference: lightly's momentum is 1 at the last step, ours would be at the step behind it; its example moves
        # the slow network before the loss.
        momentum = cosine_schedule(step, EPOCHS * STEPS_PER_EPOCH + 1, config.momentum, 1.0)
        update_momentum(backbone, slow_backbone, momentum)
        update_momentum(head, slow_head, momentum)


def w_mse(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss.wmse_loss import WMSELoss
    from lightly.models.modules.heads import ProjectionHead

    config, hidden, out = method.config, method.config.hidden_dim, method.config.projection_dim
    backbone = copy.deepcopy(method.backbone)
    # Lightly has no head of its own for it; the authors' first layer has a bias in front of batch norm.
    head = ProjectionHead(
        [(method.feature_dim, hidden, nn.BatchNorm1d(hidden), nn.ReLU(), True), (hidden, out, None, None)]
    )
    carry(method.projector, head)
    criterion = WMSELoss(embedding_dim=out, w_iter=config.partitions, w_size=config.group).double()
    optimizer = optimizer_of(backbone, head, decay_vectors=True)
    for step, batch in enumerate(batches):
        z = head(torch.cat([backbone(view) for view in batch.views]))
        with seeded(0, step):  # the groups
            loss = criterion(z)
        yield step_by(optimizer, loss)


def swav(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import SwaVLoss
    from lightly.loss.memory_bank import MemoryBankModule
    from lightly.models.modules import SwaVPrototypes
    from lightly.models.modules.heads import ProjectionHead

    config, hidden, out = method.config, method.config.hidden_dim, method.config.projection_dim
    backbone = copy.deepcopy(method.backbone)
    # Difference: lightly's first layer has no bias in front of batch norm, the authors' has one.
    head = ProjectionHead(
        [(method.feature_dim, hidden, nn.BatchNorm1d(hidden), nn.ReLU(), True), (hidden, out, None, None)]
    )
    carry(method.projector, head)
    frozen = config.frozen_epochs * STEPS_PER_EPOCH
    prototypes = SwaVPrototypes(out, config.prototypes, n_steps_frozen_prototypes=frozen)
    prototypes.heads[0].register_parameter("bias", None)  # Difference: the authors' have none.
    carry(method.prototypes, prototypes)
    banks = [MemoryBankModule((config.queue, out), feature_dim_first=False).double() for _ in range(2)]
    criterion = SwaVLoss(config.temperature, config.sinkhorn_iterations, config.epsilon)
    optimizer = optimizer_of(backbone, head, prototypes, decay_vectors=True)
    kept = 0
    for step, batch in enumerate(batches):
        prototypes.normalize()
        # Difference: lightly's example passes each view alone; the authors' batch norms see all of one size in the
        # backbone, and all in the projector.
        features = torch.cat([backbone(torch.cat(batch.views[:2])), backbone(torch.cat(batch.views[2:]))])
        z = F.normalize(head(features), dim=1)
        scores = prototypes(z, step).chunk(len(batch.views))
        # Difference: lightly's queue fills from the first step on; the authors' from its epoch on, and takes part when
        # it is full.
        earlier = None
        if step >= config.queue_epoch * STEPS_PER_EPOCH:
            with torch.no_grad():
                rows = [bank(x, update=True)[1] for bank, x in zip(banks, z.detach().chunk(len(scores)), strict=False)]
                if kept >= config.queue:
                    earlier = [prototypes(x, step) for x in rows]
            kept += len(batch)
        yield step_by(optimizer, criterion(list(scores[:2]), list(scores[2:]), earlier))


def dino(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule

    config = method.config
    student, teacher = copy.deepcopy(method.student), copy.deepcopy(method.backbone)
    head, slow_head = (
        DINOProjectionHead(
            method.feature_dim, config.hidden_dim, config.bottleneck_dim, config.prototypes,
            freeze_last_layer=config.frozen_epochs, norm_last_layer=config.norm_last_layer,
        )
        for _ in range(2)
    )  # fmt: skip
    carry(method.student_head, head)
    carry(method.head, slow_head)
    criterion = DINOLoss(
        config.prototypes, config.warmup_teacher_temperature, config.teacher_temperature, config.warmup_teacher_epochs,
        config.student_temperature, config.center_momentum,
    ).double()  # fmt: skip
    optimizer = optimizer_of(student, head, name="adamw")
    for step, batch in enumerate(batches):
        large, small = torch.cat(batch.views[:2]), torch.cat(batch.views[2:])
        epoch = step // STEPS_PER_EPOCH
        with torch.no_grad():
            targets = slow_head(teacher(large)).chunk(2)
        with seeded(0, step):  # which paths are dropped
            # Difference: lightly's example passes each view alone; the authors those of one size together.
            scores = torch.cat([head(student(large)), head(student(small))]).chunk(len(batch.views))
        loss = criterion(list(targets), list(scores), epoch=epoch)
        optimizer.zero_grad()
        loss.backward()
        head.cancel_last_layer_gradients(epoch)
        optimizer.step()
        yield loss.detach()
        # Difference: lightly's momentum is 1 at the last step, the authors' would be at the step behind it. Lightly's
        # example moves the teacher before the loss, the authors' code behind the optimiser's step.
        momentum = cosine_schedule(step, EPOCHS * STEPS_PER_EPOCH + 1, config.momentum, 1.0)
        update_momentum(student, teacher, momentum)
        update_momentum(head, slow_head, momentum)


def lejepa(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import LeJEPALoss
    from lightly.loss.lejepa_loss import SIGReg
    from lightly.models.modules import LeJEPAProjectionHead

    class Float32Directions(SIGReg):
        def _generate_unit_vectors(self, device: torch.device, dtype: torch.dtype, num_features: int) -> Tensor:
            """Difference: lightly draws in the precision of what it is shown, ours always in float32."""
            drawn: Tensor = super()._generate_unit_vectors(device, torch.float32, num_features)
            return drawn.to(dtype)

    config, backbone = method.config, copy.deepcopy(method.backbone)
    head = LeJEPAProjectionHead(method.feature_dim, config.hidden_dim, config.projection_dim)
    # Difference: lightly's layers have no bias in front of batch norm, the authors' have one.
    for number in (0, 3):
        head.layers[number] = nn.Linear(*reversed(head.layers[number].weight.shape))
    carry(method.projector, head)
    criterion = LeJEPALoss(lambda_param=config.lambd)
    criterion.sigreg = sigreg = Float32Directions(num_vectors=config.directions).double()
    # Difference: lightly rounds the normal distribution at its knots to float32. The steps between them are sixteenths.
    steps = (sigreg.weights / sigreg.phi * 16).round() / 16
    sigreg.phi = torch.exp(-sigreg.t.square() / 2)
    sigreg.weights = steps * sigreg.phi
    optimizer = optimizer_of(backbone, head, name="adamw")
    for step, batch in enumerate(batches):
        large, small = batch.views[:2], batch.views[2:]
        # Difference: lightly's example passes each view alone; the authors' batch norms see all of one size in the
        # backbone, and all in the projector.
        z = head(torch.cat([backbone(torch.cat(large)), backbone(torch.cat(small))])).unflatten(0, (-1, len(batch)))
        with seeded(0, step):  # the directions
            loss = criterion(global_proj=z[: len(large)], local_proj=z[len(large) :])
        yield step_by(optimizer, loss)


def msn(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import MSNLoss
    from lightly.models.modules import MaskedVisionTransformerTIMM
    from lightly.models.modules.heads import MSNProjectionHead
    from lightly.models.utils import update_momentum

    config = method.config
    vit, slow_vit = (
        MaskedVisionTransformerTIMM(
            copy.deepcopy(ours), weight_initialization="skip", pos_embed_initialization="skip"
        ).double()
        for ours in (method.student, method.backbone)
    )
    vit.mask_token.requires_grad_(False)
    head, slow_head = (MSNProjectionHead(method.feature_dim, config.hidden_dim, config.projection_dim) for _ in "ab")
    for ours, theirs in ((method.student_projector, head), (method.projector, slow_head)):
        # Difference: lightly's layers have no bias in front of batch norm, the authors' have one.
        for number in (0, 3):
            theirs.layers[number] = nn.Linear(*reversed(theirs.layers[number].weight.shape))
        carry(ours, theirs)
    # Difference: lightly's example hands the loss prototypes without gradient, so that they are never trained.
    prototypes = nn.Parameter(method.prototypes.detach().clone())
    criterion = MSNLoss(config.temperature, config.sinkhorn_iterations, config.entropy_weight)
    optimizer = optimizer_of(vit, head, name="adamw")
    optimizer.add_param_group({"params": [prototypes], "weight_decay": 0.0})
    for step, batch in enumerate(batches):
        target, anchor, *focal = batch.views
        with torch.no_grad():
            targets = slow_head(slow_vit.encode(target)[:, 0])
        # Difference: lightly's example drops patches of small anchors, too; the authors of the large one alone.
        keep = F.pad(batch.masks[0].visible + 1, (1, 0))
        anchors = [head(vit.encode(anchor, idx_keep=keep)[:, 0]), head(vit.encode(torch.cat(focal))[:, 0])]
        yield step_by(optimizer, criterion(torch.cat(anchors), targets, prototypes, config.sharpening))
        # Difference: lightly's example moves the slow network before the loss, with a momentum on a cosine.
        momentum = config.momentum + (1 - config.momentum) * step / (1.25 * EPOCHS * STEPS_PER_EPOCH)
        update_momentum(vit, slow_vit, momentum)
        update_momentum(head, slow_head, momentum)


def ibot(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import DINOLoss, IBOTPatchLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule

    config, vit = method.config, method.student.vit
    student = MaskedVisionTransformerTIMM(
        copy.deepcopy(vit), copy.deepcopy(method.student.mask_token), "skip", pos_embed_initialization="skip"
    )
    teacher = copy.deepcopy(method.backbone)
    head, slow_head = (
        DINOProjectionHead(
            method.feature_dim, config.hidden_dim, config.bottleneck_dim, config.prototypes,
            freeze_last_layer=config.frozen_epochs, norm_last_layer=config.norm_last_layer,
        )
        for _ in range(2)
    )  # fmt: skip
    carry(method.student_head, head)
    carry(method.head, slow_head)
    criterion = DINOLoss(
        config.prototypes, config.warmup_teacher_temperature, config.teacher_temperature, config.warmup_teacher_epochs,
        config.student_temperature, config.center_momentum,
    ).double()  # fmt: skip
    of_patches = IBOTPatchLoss(config.prototypes, student_temp=config.student_temperature).double()
    ends = config.warmup_patch_teacher_temperature, config.patch_teacher_temperature
    temperatures = torch.linspace(*ends, config.warmup_teacher_epochs).tolist()
    optimizer = optimizer_of(student, head, name="adamw")
    for step, batch in enumerate(batches):
        large, small = torch.cat(batch.views[:2]), torch.cat(batch.views[2:])
        masked = torch.cat([masks.masked for masks in batch.masks])
        epoch = step // STEPS_PER_EPOCH
        with torch.no_grad():
            seen = teacher.forward_features(large)
            targets, patch_targets = slow_head(seen[:, 0]).chunk(2), slow_head(seen[:, 1:].flatten(0, 1))
        with seeded(0, step):  # which paths are dropped
            tokens = student.encode(large, mask=F.pad(masked, (1, 0)))
            classes = torch.cat([tokens[:, 0], student.encode(small)[:, 0]])
        loss = criterion(list(targets), list(head(classes).chunk(len(batch.views))), epoch=epoch)
        # Difference: lightly's centre is of hidden patches, the authors' of all of them.
        center = of_patches.center.value.clone()
        hidden, chosen = head(tokens[:, 1:][masked]), patch_targets[masked.flatten()]
        temperature = temperatures[min(epoch, len(temperatures) - 1)]
        loss = loss + of_patches(chosen, hidden, masked.view(-1, 4, 4), teacher_temp=temperature)
        momentum = config.center_momentum
        of_patches.center.center = momentum * center + (1 - momentum) * patch_targets.mean(dim=0)
        optimizer.zero_grad()
        loss.backward()
        head.cancel_last_layer_gradients(epoch)
        optimizer.step()
        yield loss.detach()
        momentum = cosine_schedule(step, EPOCHS * STEPS_PER_EPOCH + 1, config.momentum, 1.0)  # as in DINO
        update_momentum(student.vit, teacher, momentum)
        update_momentum(head, slow_head, momentum)


def dinov2(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule

    config = method.config
    student = MaskedVisionTransformerTIMM(
        copy.deepcopy(method.student.vit),
        copy.deepcopy(method.student.mask_token),
        "skip",
        pos_embed_initialization="skip",
    )
    teacher = copy.deepcopy(method.backbone)

    def head_like(ours: nn.Module, bottleneck: int, prototypes: int) -> nn.Module:
        head = DINOProjectionHead(
            method.feature_dim, config.hidden_dim, bottleneck, prototypes,
            freeze_last_layer=config.frozen_epochs, norm_last_layer=False,
        )  # fmt: skip
        carry(ours, head)
        return head

    sizes, own = (config.bottleneck_dim, config.prototypes), (config.patch_bottleneck_dim, config.patch_prototypes)
    head, slow_head = (head_like(ours, *sizes) for ours in (method.student_head, method.head))
    patch_head, slow_patch_head = (head_like(ours, *own) for ours in (method.student_patch_head, method.patch_head))
    temperature = config.teacher_temperature  # from the start
    criterion = DINOLoss(config.prototypes, student_temp=config.student_temperature).double()
    of_patches = IBOTPatchLoss(config.patch_prototypes, student_temp=config.student_temperature).double()
    koleo = KoLeoLoss()
    optimizer = optimizer_of(student, head, patch_head, name="adamw")
    embedding = list(student.vit.patch_embed.parameters())
    for group in list(optimizer.param_groups):  # each parameter of the patches' projection for itself
        inside = [p for p in group["params"] if any(p is other for other in embedding)]
        group["params"] = [p for p in group["params"] if all(p is not other for other in inside)]
        slower = {"lr": group["lr"] * config.patch_embed_lr, "weight_decay": group["weight_decay"]}
        optimizer.add_param_group({"params": inside, **slower})
    for step, batch in enumerate(batches):
        large, small = torch.cat(batch.views[:2]), torch.cat(batch.views[2:])
        masked = torch.cat([masks.masked for masks in batch.masks])
        epoch = step // STEPS_PER_EPOCH
        with torch.no_grad():
            seen = teacher.forward_features(large)
            targets, patch_targets = slow_head(seen[:, 0]).chunk(2), slow_patch_head(seen[:, 1:][masked])
        with seeded(0, step):  # which paths are dropped
            tokens = student.encode(large, mask=F.pad(masked, (1, 0)))
            classes = torch.cat([tokens[:, 0], student.encode(small)[:, 0]])
        loss = criterion(list(targets), list(head(classes).chunk(len(batch.views))), teacher_temp=temperature)
        patches = patch_head(tokens[:, 1:][masked])
        loss = loss + of_patches(patch_targets, patches, masked.view(-1, 4, 4), teacher_temp=temperature)
        loss = loss + config.koleo_weight * sum(koleo(x) for x in tokens[:, 0].chunk(2))
        optimizer.zero_grad()
        loss.backward()
        head.cancel_last_layer_gradients(epoch)
        patch_head.cancel_last_layer_gradients(epoch)
        optimizer.step()
        yield loss.detach()
        momentum = cosine_schedule(step, EPOCHS * STEPS_PER_EPOCH + 1, config.momentum, 1.0)  # as in DINO
        for fast, slow in ((student.vit, teacher), (head, slow_head), (patch_head, slow_patch_head)):
            update_momentum(fast, slow, momentum)


def mae(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    model = ViTMAEForPreTraining(hugging(ViTMAEConfig)).double().train()
    model.load_state_dict(converted(method))
    optimizer = optimizer_of(model, name="adamw")
    for batch in batches:
        (images,), (masks,) = batch.views, batch.masks
        visible: Tensor = masks.visible
        # `transformers` draws noise and shows the patches with the least of it, in its order.
        ranks = torch.linspace(0, 0.5, visible.shape[1]).expand(visible.shape)
        noise = torch.ones(len(batch), 16).scatter(1, visible, ranks)
        yield step_by(optimizer, model(images, noise=noise).loss)


def simmim(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    model = swin_of_transformers(method).double().train()
    token = model.swin.embeddings.mask_token
    trained = [p for p in model.parameters() if p is not token]
    kernels = {"params": [p for p in trained if p.ndim > 1]}
    others = {"params": [token, *(p for p in trained if p.ndim <= 1)], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([kernels, others], lr=LR["adamw"], weight_decay=DECAY)
    for batch in batches:
        (images,), (masks,) = batch.views, batch.masks
        units = torch.ones(len(batch), 16, dtype=torch.bool).scatter(1, masks.visible, False).unflatten(1, (4, 4))
        patches = units.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).flatten(1)
        loss = model(images, bool_masked_pos=patches).loss
        # Difference: `transformers` adds 1e-5 to a count in float32, where nothing is left of it.
        pixels = 4 * patches.sum()
        yield step_by(optimizer, loss * (pixels.double() / (pixels.double() + 1e-5)))


def aim(method: Any, batches: list[Batch]) -> Iterator[Tensor]:
    from lightly.models import utils
    from lightly.models.modules import AIMPredictionHead, MaskedCausalVisionTransformer

    config, patch = method.config, method.patch
    # Difference: in lightly's example patches are not normed in front of the blocks, nor behind them, and layers have
    # biases.
    vit = MaskedCausalVisionTransformer(
        **config.backbone.options, num_classes=0, class_token=False, global_pool="avg", fc_norm=False,
        embed_norm_layer="layernorm", qkv_bias=False, proj_bias=False,
    )  # fmt: skip
    # Difference: lightly's head adds 1e-5 to variances, the authors' norms 1e-6.
    norm: Any = partial(nn.LayerNorm, eps=1e-6)
    head = AIMPredictionHead(
        method.feature_dim, 3 * patch**2, config.head_dim, num_blocks=config.head_depth, norm_layer=norm
    )
    carry(method.backbone, vit)
    carry(method.head, head)
    vit.pos_embed.requires_grad_(False)
    # Difference: lightly computes sines in float32, the authors of MAE, whose they are, in float64. Theirs are ours but
    # for that.
    rows, positions = config.size // patch, method.head.positions
    for table in (vit.pos_embed[0], positions):
        theirs = utils.get_2d_sine_cosine_positional_embedding(table.shape[1], rows, cls_token=False)
        torch.testing.assert_close(table.float(), torch.from_numpy(theirs), rtol=0, atol=1e-6)
    criterion, optimizer = nn.MSELoss(), optimizer_of(vit, head, name="adamw")
    for batch in batches:
        (images,), (masks,) = batch.views, batch.masks
        behind = torch.arange(rows**2) >= masks.prefix[:, None]
        tokens = vit.forward_features(images, mask=behind)
        predictions = head(tokens + positions)  # as lightly's example, whose author asked the paper's about the head
        patches = utils.normalize_mean_var(utils.patchify(images, patch))
        # Difference: in lightly's example each patch foretells itself, which it sees, and those of the prefix count. In
        # the paper each foretells the next, and only those behind the prefix count.
        wanted = behind[:, 1:]
        yield step_by(optimizer, criterion(predictions[:, :-1][wanted], patches[:, 1:][wanted]))


LOOPS: dict[str, tuple[str, Literal["sgd", "adamw"], Loop]] = {
    "simclr": ("lightly", "sgd", simclr),
    "moco_v1": ("lightly", "sgd", moco_v1),
    "moco_v2": ("lightly", "sgd", moco_v2),
    "densecl": ("lightly", "sgd", densecl),
    "byol": ("lightly", "sgd", byol),
    "swav": ("lightly", "sgd", swav),
    "barlow_twins": ("lightly", "sgd", barlow_twins),
    "dino": ("lightly", "adamw", dino),
    "ibot": ("lightly", "adamw", ibot),
    "dinov2": ("lightly", "adamw", dinov2),
    "simsiam": ("lightly", "sgd", simsiam),
    "nnclr": ("lightly", "sgd", nnclr),
    "vicreg": ("lightly", "sgd", vicreg),
    "tico": ("lightly", "sgd", tico),
    "w_mse": ("lightly", "sgd", w_mse),
    "lejepa": ("lightly", "adamw", lejepa),
    "msn": ("lightly", "adamw", msn),
    "mae": ("transformers", "adamw", mae),
    "aim": ("lightly", "adamw", aim),
    "simmim": ("transformers", "adamw", simmim),
}
"""By our method's name: whose parts, the optimiser, and the loop."""
