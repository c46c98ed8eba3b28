"""Methods put together from lightly's parts, as its examples do it, for batches of Headrace's loader.

lightly-ai/lightly, examples/pytorch: one file a method. Backbone, dimensions, temperatures and momentum come from
the config of Headrace's method.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from headrace.models import Context, Method, ParameterGroup
from headrace.models.method import kernels_and_vectors
from headrace.models.parts.backbones import build_backbone, map_and_features
from headrace.models.seeding import seeded
from headrace.pipeline import Batch


class Peer(nn.Module):
    """One method with lightly's heads and loss.

    Args:
        method: Headrace's, whose config and dimension of features count.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.config: Any = method.config
        self.dim = method.feature_dim
        self.backbone, _ = build_backbone(self.config.backbone)

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        """Of normalised views (B, 3, H, W)."""
        raise NotImplementedError

    def parameter_groups(self) -> list[ParameterGroup]:
        """As Headrace's method has it, so that the optimisers do the same."""
        return kernels_and_vectors(self)

    def after_backward(self, context: Context) -> None:
        """Between the backward pass and the optimiser's step."""

    def encode(self, batch: Batch) -> Tensor:
        """Features (B, D) for probes."""
        (view,) = batch.normalized()
        features: Tensor = self.backbone(view)
        return features


def _all_in_one(peer: Peer) -> list[ParameterGroup]:
    return [ParameterGroup(params=[p for p in peer.parameters() if p.requires_grad])]


class SimCLRPeer(Peer):
    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import NTXentLoss
        from lightly.models.modules.heads import SimCLRProjectionHead

        c = self.config
        self.head = SimCLRProjectionHead(self.dim, c.projection_hidden, c.projection_dim)
        self.criterion = NTXentLoss(temperature=c.temperature)

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        first, second = (self.head(self.backbone(view)) for view in views)
        return self.criterion(first, second)


class MoCoV2Peer(Peer):
    """Without parts of a batch for batch norm, which lightly does not have."""

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import NTXentLoss

        c = self.config
        self.head = self.make_head()
        self.slow = copy.deepcopy(nn.ModuleList([self.backbone, self.head])).requires_grad_(False)
        self.criterion = NTXentLoss(temperature=c.temperature, memory_bank_size=(c.queue, c.projection_dim))

    def make_head(self) -> nn.Module:
        from lightly.models.modules.heads import MoCoProjectionHead

        head: nn.Module = MoCoProjectionHead(self.dim, self.dim, self.config.projection_dim)
        return head

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        from lightly.models.utils import batch_shuffle, batch_unshuffle, update_momentum

        update_momentum(self.backbone, self.slow[0], self.config.momentum)
        update_momentum(self.head, self.slow[1], self.config.momentum)
        query = self.head(self.backbone(views[0]))
        with torch.no_grad():
            images, order = batch_shuffle(views[1])
            key = batch_unshuffle(self.slow[1](self.slow[0](images)), order)
        return self.criterion(query, key)

    def parameter_groups(self) -> list[ParameterGroup]:
        return _all_in_one(self)


class MoCoV1Peer(MoCoV2Peer):
    def make_head(self) -> nn.Module:
        from lightly.models.modules.heads import ProjectionHead

        head: nn.Module = ProjectionHead([(self.dim, self.config.projection_dim, None, None)])
        return head


class DenseCLPeer(Peer):
    """Without parts of a batch for batch norm, and with a bank of all places, as lightly's example has it."""

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import NTXentLoss
        from lightly.models.modules.heads import DenseCLProjectionHead

        c = self.config
        self.whole, self.dense = (DenseCLProjectionHead(self.dim, c.hidden_dim, c.projection_dim) for _ in range(2))
        self.slow = copy.deepcopy(nn.ModuleList([self.backbone, self.whole, self.dense])).requires_grad_(False)
        size = (c.queue, c.projection_dim)
        self.criterion, self.dense_criterion = (NTXentLoss(c.temperature, memory_bank_size=size) for _ in range(2))

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        from lightly.models.utils import batch_shuffle, batch_unshuffle, select_most_similar, update_momentum

        fast = (self.backbone, self.whole, self.dense)
        for module, slow in zip(fast, self.slow, strict=True):
            update_momentum(module, slow, self.config.momentum)
        query, dense_query, query_cells = _dense(views[0], *fast)
        with torch.no_grad():
            images, order = batch_shuffle(views[1])
            key, dense_key, key_cells = (batch_unshuffle(x, order) for x in _dense(images, *self.slow))
            dense_key = select_most_similar(query_cells, key_cells, dense_key)
        whole = self.criterion(query, key)
        dense = self.dense_criterion(dense_query.flatten(0, 1), dense_key.flatten(0, 1))
        weight: float = self.config.dense_weight
        return (1 - weight) * whole + weight * dense

    def parameter_groups(self) -> list[ParameterGroup]:
        return _all_in_one(self)


def _dense(images: Tensor, backbone: Any, whole: Any, dense: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What the heads make of features and of places (B, HW, C), and the places."""
    cells, features = map_and_features(backbone, images)
    cells = cells.flatten(2).permute(0, 2, 1)
    return whole(features), dense(cells), cells


class BYOLPeer(Peer):
    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead

        c = self.config
        self.head = BYOLProjectionHead(self.dim, c.hidden_dim, c.projection_dim)
        self.predictor = BYOLPredictionHead(c.projection_dim, c.hidden_dim, c.projection_dim)
        self.slow = copy.deepcopy(nn.ModuleList([self.backbone, self.head])).requires_grad_(False)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        momentum = cosine_schedule(context.step, context.total_steps, self.config.momentum, 1.0)
        update_momentum(self.backbone, self.slow[0], momentum)
        update_momentum(self.head, self.slow[1], momentum)
        predictions = [self.predictor(self.head(self.backbone(view))) for view in views]
        with torch.no_grad():
            targets = [self.slow[1](self.slow[0](view)) for view in views]
        both = self.criterion(predictions[0], targets[1]) + self.criterion(predictions[1], targets[0])
        return both / 2


class BarlowTwinsPeer(Peer):
    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import BarlowTwinsLoss
        from lightly.models.modules.heads import BarlowTwinsProjectionHead

        c = self.config
        self.head = BarlowTwinsProjectionHead(self.dim, c.hidden_dim, c.projection_dim)
        self.criterion = BarlowTwinsLoss(lambda_param=c.lambd)

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        first, second = (self.head(self.backbone(view)) for view in views)
        return self.criterion(first, second)


class SimSiamPeer(Peer):
    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead

        c = self.config
        self.head = SimSiamProjectionHead(self.dim, c.hidden_dim, c.projection_dim)
        self.predictor = SimSiamPredictionHead(c.projection_dim, c.predictor_dim, c.projection_dim)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        first, second = (self.head(self.backbone(view)) for view in views)
        p1, p2 = self.predictor(first), self.predictor(second)
        return (self.criterion(p1, second.detach()) + self.criterion(p2, first.detach())) / 2

    def parameter_groups(self) -> list[ParameterGroup]:
        return _all_in_one(self)


class VICRegPeer(Peer):
    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import VICRegLoss
        from lightly.models.modules.heads import VICRegProjectionHead

        c = self.config
        self.head = VICRegProjectionHead(self.dim, c.hidden_dim, c.projection_dim, num_layers=3)
        self.criterion = VICRegLoss(c.invariance, c.variance, c.covariance)

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        first, second = (self.head(self.backbone(view)) for view in views)
        return self.criterion(first, second)


class NNCLRPeer(Peer):
    """Whose loss counts both views of all other samples, as SimCLR's does."""

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import NTXentLoss
        from lightly.models.modules import NNMemoryBankModule
        from lightly.models.modules.heads import NNCLRPredictionHead, NNCLRProjectionHead

        c = self.config
        self.head = NNCLRProjectionHead(self.dim, c.hidden_dim, c.projection_dim)
        self.predictor = NNCLRPredictionHead(c.projection_dim, c.predictor_dim, c.projection_dim)
        self.bank = NNMemoryBankModule(size=(c.queue, c.projection_dim))
        self.criterion = NTXentLoss(temperature=c.temperature)

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        first, second = (self.head(self.backbone(view)) for view in views)
        p1, p2 = self.predictor(first), self.predictor(second)
        near1, near2 = self.bank(first.detach(), update=False), self.bank(second.detach(), update=True)
        return (self.criterion(near1, p2) + self.criterion(near2, p1)) / 2


class TiCoPeer(Peer):
    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import TiCoLoss
        from lightly.models.modules.heads import TiCoProjectionHead

        c = self.config
        self.head = TiCoProjectionHead(self.dim, c.hidden_dim, c.projection_dim)
        self.slow = copy.deepcopy(nn.ModuleList([self.backbone, self.head])).requires_grad_(False)
        self.criterion = TiCoLoss(beta=c.beta, rho=c.rho)

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        momentum = cosine_schedule(context.step, context.total_steps, self.config.momentum, 1.0)
        update_momentum(self.backbone, self.slow[0], momentum)
        update_momentum(self.head, self.slow[1], momentum)
        first = self.head(self.backbone(views[0]))
        with torch.no_grad():
            second = self.slow[1](self.slow[0](views[1]))
        return self.criterion(first, second)


class WMSEPeer(Peer):
    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss.wmse_loss import WMSELoss
        from lightly.models.modules.heads import ProjectionHead

        c = self.config
        norm = nn.BatchNorm1d(c.hidden_dim)
        self.head = ProjectionHead(
            [(self.dim, c.hidden_dim, norm, nn.ReLU()), (c.hidden_dim, c.projection_dim, None, None)]
        )
        self.criterion = WMSELoss(
            embedding_dim=c.projection_dim, eps=c.eps, w_iter=c.partitions, w_size=c.group, num_samples=c.draws
        )

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        loss: Tensor = self.criterion(self.head(torch.cat([self.backbone(view) for view in views])))
        return loss

    def parameter_groups(self) -> list[ParameterGroup]:
        return _all_in_one(self)


class SwAVPeer(Peer):
    """Without a queue."""

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import SwaVLoss
        from lightly.models.modules.heads import SwaVProjectionHead, SwaVPrototypes

        c = self.config
        self.head = SwaVProjectionHead(self.dim, c.hidden_dim, c.projection_dim)
        self.prototypes = SwaVPrototypes(c.projection_dim, c.prototypes)
        self.criterion = SwaVLoss(
            temperature=c.temperature, sinkhorn_iterations=c.sinkhorn_iterations, sinkhorn_epsilon=c.epsilon
        )

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        self.prototypes.normalize()
        scores = [
            self.prototypes(nn.functional.normalize(self.head(self.backbone(view)), dim=1, p=2)) for view in views
        ]
        return self.criterion(scores[:2], scores[2:]).squeeze()

    def parameter_groups(self) -> list[ParameterGroup]:
        return _all_in_one(self)

    def after_backward(self, context: Context) -> None:
        if context.epoch < self.config.frozen_epochs:
            for parameter in self.prototypes.parameters():
                parameter.grad = None


class DINOPeer(Peer):
    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import DINOLoss

        c = self.config
        self.student, self.student_head = copy.deepcopy(self.backbone), self._head()
        self.head = self._head()
        self.head.load_state_dict(self.student_head.state_dict())
        self.backbone.requires_grad_(False)
        self.head.requires_grad_(False)
        self.criterion = DINOLoss(
            output_dim=c.prototypes,
            warmup_teacher_temp=c.warmup_teacher_temperature,
            teacher_temp=c.teacher_temperature,
            warmup_teacher_temp_epochs=c.warmup_teacher_epochs,
            student_temp=c.student_temperature,
            center_momentum=c.center_momentum,
        )

    def _head(self) -> Any:
        from lightly.models.modules.heads import DINOProjectionHead

        c = self.config
        return DINOProjectionHead(
            self.dim,
            c.hidden_dim,
            c.bottleneck_dim,
            c.prototypes,
            batch_norm=c.head_batch_norm,
            freeze_last_layer=c.frozen_epochs,
            norm_last_layer=c.norm_last_layer,
        )

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        momentum = cosine_schedule(context.step, context.total_steps, self.config.momentum, 1.0)
        update_momentum(self.student, self.backbone, momentum)
        update_momentum(self.student_head, self.head, momentum)
        with torch.no_grad():
            teacher = [self.head(self.backbone(view)) for view in views[:2]]
        student = [self.student_head(self.student(view)) for view in views]
        return self.criterion(teacher, student, epoch=context.epoch)

    def after_backward(self, context: Context) -> None:
        self.student_head.cancel_last_layer_gradients(context.epoch)


class MSNPeer(Peer):
    """Prototypes are trained, and patches of small views are kept, as the authors have it and lightly's example has
    not."""

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import MSNLoss
        from lightly.models.modules import MaskedVisionTransformerTIMM
        from lightly.models.modules.heads import MSNProjectionHead

        c = self.config
        options = {"img_size": c.size, "dynamic_img_size": True, **c.backbone.options}
        vit, _ = build_backbone(replace(c.backbone, options=options))
        self.student = MaskedVisionTransformerTIMM(vit, pos_embed_initialization="skip")
        self.student_head = MSNProjectionHead(self.dim, c.hidden_dim, c.projection_dim)
        self.slow, self.head = (copy.deepcopy(m).requires_grad_(False) for m in (self.student, self.student_head))
        self.student.mask_token.requires_grad_(False)
        self.backbone = self.slow.vit
        self.prototypes = nn.Linear(c.projection_dim, c.prototypes, bias=False)
        self.criterion = MSNLoss(c.temperature, c.sinkhorn_iterations, c.entropy_weight)

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        from lightly.models.utils import random_token_mask, update_momentum
        from lightly.utils.scheduler import cosine_schedule

        momentum = cosine_schedule(context.step, context.total_steps, self.config.momentum, 1.0)
        update_momentum(self.student, self.slow, momentum)
        update_momentum(self.student_head, self.head, momentum)
        target, anchor, *focal = views
        with torch.no_grad():
            targets = self.head(self.slow(target))
        size = (len(anchor), self.student.sequence_length)
        keep, _ = random_token_mask(size, self.config.mask_ratio, device=anchor.device)
        anchors = [self.student_head(self.student(anchor, idx_keep=keep))]
        if focal:
            anchors.append(self.student_head(self.student(torch.cat(focal))))
        return self.criterion(torch.cat(anchors), targets, self.prototypes.weight, self.config.sharpening)


class IBOTPeer(Peer):
    """With masks of lightly's own, on half of the large views; its centre is of hidden patches."""

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        from lightly.loss import DINOLoss, IBOTPatchLoss
        from lightly.models.modules.heads import DINOProjectionHead
        from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM

        c, ours = self.config, cast(Any, method)
        self.grid = ours.inputs.masks[0].grid
        self.student = MaskedVisionTransformerTIMM(
            copy.deepcopy(ours.student.vit), weight_initialization="skip", pos_embed_initialization="skip"
        )
        self.backbone = copy.deepcopy(ours.backbone)
        self.student_head, self.head = (
            DINOProjectionHead(
                self.dim,
                c.hidden_dim,
                c.bottleneck_dim,
                c.prototypes,
                batch_norm=c.head_batch_norm,
                freeze_last_layer=c.frozen_epochs,
                norm_last_layer=c.norm_last_layer,
            )
            for _ in range(2)
        )
        self.head.load_state_dict(self.student_head.state_dict())
        self.head.requires_grad_(False)
        self.criterion = DINOLoss(
            output_dim=c.prototypes,
            warmup_teacher_temp=c.warmup_teacher_temperature,
            teacher_temp=c.teacher_temperature,
            warmup_teacher_temp_epochs=c.warmup_teacher_epochs,
            student_temp=c.student_temperature,
            center_momentum=c.center_momentum,
        )
        self.patch_criterion = IBOTPatchLoss(
            output_dim=c.prototypes,
            teacher_temp=c.patch_teacher_temperature,
            student_temp=c.student_temperature,
            center_momentum=c.center_momentum,
        )

    def loss(self, views: list[Tensor], context: Context) -> Tensor:
        from lightly.models.utils import random_block_mask, update_momentum
        from lightly.utils.scheduler import cosine_schedule

        momentum = cosine_schedule(context.step, context.total_steps, self.config.momentum, 1.0)
        update_momentum(self.student.vit, self.backbone, momentum)
        update_momentum(self.student_head, self.head, momentum)
        teacher_backbone: Any = self.backbone
        large = torch.cat(views[:2])
        low, high = self.config.mask_ratio
        size = len(large), *self.grid
        with _python_seeded():
            mask = random_block_mask(
                size, min_image_mask_ratio=low, max_image_mask_ratio=high, min_num_masks_per_block=1
            )
        masked = mask.flatten(1).to(large.device)
        with torch.no_grad():
            seen = teacher_backbone.forward_features(large)
            teacher, targets = self.head(seen[:, 0]), self.head(seen[:, 1:][masked])
        tokens = self.student.encode(large, mask=nn.functional.pad(masked, (1, 0)))
        student = list(self.student_head(tokens[:, 0]).chunk(2))
        student += [self.student_head(self.student(view)) for view in views[2:]]
        patches = self.student_head(tokens[:, 1:][masked])
        of_class = self.criterion(list(teacher.chunk(2)), student, epoch=context.epoch)
        return of_class + self.patch_criterion(targets, patches, mask.to(large.device))

    def after_backward(self, context: Context) -> None:
        self.student_head.cancel_last_layer_gradients(context.epoch)


@contextmanager
def _python_seeded() -> Iterator[None]:
    """Python's own generator, from which lightly draws blocks, is a function of torch's, which the loop seeds."""
    before = random.getstate()
    random.seed(int(torch.randint(2**62, ())))
    try:
        yield
    finally:
        random.setstate(before)


PEERS: dict[str, Callable[[Method], Peer]] = {
    "simclr": SimCLRPeer,
    "moco_v1": MoCoV1Peer,
    "moco_v2": MoCoV2Peer,
    "densecl": DenseCLPeer,
    "byol": BYOLPeer,
    "barlow_twins": BarlowTwinsPeer,
    "swav": SwAVPeer,
    "dino": DINOPeer,
    "ibot": IBOTPeer,
    "simsiam": SimSiamPeer,
    "nnclr": NNCLRPeer,
    "vicreg": VICRegPeer,
    "tico": TiCoPeer,
    "w_mse": WMSEPeer,
    "msn": MSNPeer,
}
"""By the name of Headrace's method."""


def build_peer(name: str, method: Method, *, seed: int) -> Peer:
    """The peer of `method`, in training mode; its backbone begins with the same weights."""
    with seeded(seed):
        return PEERS[name](method).train()
