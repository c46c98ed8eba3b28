"""What twenty steps of vturrisi/solo-learn lose, and the weights and batches that they begin with.

Its package is not among those that tests can install, so its run is kept as figures. They have to hold on any machine:
weights and batches are float64 from uniform numbers, unlike torch's float32 normal ones and the loader's views, whose
last bits may depend on the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from headrace.models import build_method
from headrace.pipeline import Batch, ViewSpec
from headrace.pipeline.batch import Views
from tests.models.peer_loops import EPOCHS, STEPS_PER_EPOCH
from tests.models.tiny_methods import TINY

SAMPLES = 40
"""Of a step."""
SET = STEPS_PER_EPOCH * SAMPLES + 10
"""Digits in all: each epoch leaves out ten."""

CHANGES: dict[str, dict[str, Any]] = {"ressl": {"queue": 120}}
"""To a method's tiny form."""


def drawn_method(name: str) -> Any:
    """Kernels uniform as He's, vectors near what they are without training, rows of queues on the unit sphere."""
    method: Any = build_method(name, **{**TINY[name], **CHANGES.get(name, {})}).double().train()
    generator = np.random.default_rng(1)
    with torch.no_grad():
        for key, parameter in method.named_parameters():
            if parameter.requires_grad:
                drawn = torch.from_numpy(2 * generator.random(tuple(parameter.shape)) - 1)
                if parameter.ndim > 1:
                    parameter.copy_(drawn * (6 / parameter[0].numel()) ** 0.5)
                else:
                    parameter.copy_(0.1 * drawn + (1 if key.endswith(".weight") else 0))
        for part in ("backbone", "projector"):
            if hasattr(method, f"slow_{part}"):
                getattr(method, f"slow_{part}").load_state_dict(getattr(method, part).state_dict())
        if hasattr(method, "queue"):
            rows = torch.from_numpy(2 * generator.random(tuple(method.queue.rows.shape)) - 1)
            method.queue.rows.copy_(F.normalize(rows, dim=1))
    return method


def drawn_batches(method: Any) -> list[Batch]:
    """Of all epochs."""
    generator = np.random.default_rng(2)
    batches = []
    for epoch in range(EPOCHS):
        order = torch.from_numpy(np.argsort(generator.random(SET)))
        batches += [_batch(part, method.inputs, generator, epoch) for part in order.split(SAMPLES)[:STEPS_PER_EPOCH]]
    return batches


def first_pass(views: ViewSpec) -> Iterator[Batch]:
    """As many samples as an epoch has, in the order of the set."""
    generator = np.random.default_rng(3)
    for part in torch.arange(SET).split(SAMPLES)[:STEPS_PER_EPOCH]:
        yield _batch(part, views, generator, 0)


@cache
def _digits() -> Any:
    return load_digits()


def _batch(index: Tensor, views: ViewSpec, generator: np.random.Generator, epoch: int) -> Batch:
    digits = _digits()
    drawn = [_view(digits.images[index.numpy()] / 16, view.size, generator) for view in views.views]
    part = Views(views=drawn, normalize=tuple(view.normalize for view in views.views))
    return Batch(streams={"image": part}, index=index, labels=torch.from_numpy(digits.target)[index], epoch=epoch)


def _view(pixels: NDArray[np.float64], size: int, generator: np.random.Generator) -> Tensor:
    """Enlarged (N, 8, 8), mirrored at random, at a random brightness, with noise: (N, 3, size, size)."""
    n = len(pixels)
    flip, brightness = generator.random((n, 1, 1)) < 0.5, 1 + generator.random((n, 1, 1))
    pixels = np.where(flip, pixels[:, :, ::-1], pixels) * brightness
    large = pixels.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    return torch.from_numpy(large[:, None] + generator.random((n, 3, size, size)) - 1)


LOSSES: dict[str, list[float]] = {
    # `MoCoV3`, its form for ViTs. Difference: it moves the slow network behind a step with that step's momentum, the
    # authors' code in front of the next step with the next one's; its `update_tau` comes before the move here.
    "moco_v3": [
        3.5246526579582986, 3.4279776681341136, 3.414699841964093, 3.3388845301087926, 3.379266988559043,
        3.483558657343581, 3.4362323360447147, 3.383957860467212, 3.3959080972976046, 3.5050900409077266,
        3.4275358440399213, 3.4365740875124633, 3.404809360600451, 3.64712097076471, 3.4667744760501122,
        3.7336697017946534, 3.7065940155125836, 3.2688742597485914, 3.383680710720146, 3.3527172395161937,
    ],
    # `ReSSL`. Difference: its momentum rises on a cosine, the authors' is constant; it ends where it begins here.
    # Difference: it has no parts of batch norms and does not shuffle keys; its backbones are ours, with parts, and the
    # slow one gets its images in the order that torch draws in `seeded(0, step)`.
    "ressl": [
        4.848785197800064, 5.979556498131946, 5.636902129583435, 6.466565138484716, 6.578152689884436,
        6.671977805613824, 5.957869625372156, 6.08749990835048, 5.629940875288636, 5.804981101897307,
        6.231461139703415, 5.640516363449209, 6.465196609877054, 6.0943631938027085, 5.959939281643083,
        6.500173164354306, 5.8358281200280775, 5.39537174461721, 5.798753642908071, 5.880770010140751,
    ],
    # `DeepClusterV2`: its projector, prototypes, loss, memory and k-means, in a step of the loop's own.
    # Difference: it has no clusters in the first epoch, the authors have those of a pass over the set; that of
    # `first_pass` enters its memory here.
    # Difference: it passes each view alone and gives no loss to small ones; here those of one size pass the backbone
    # together and all of them the projector, and its loss gets all. What it remembers is of the large ones, as it was.
    # Difference: its clusterings have as many clusters as each other; its loss is asked for each, and the mean taken.
    # Difference: its k-means begins with samples that torch's default generator draws in the order in which they came;
    # here they are ours, drawn in the order of the set with a seed for each epoch and clustering.
    "deepcluster_v2": [
        3.760777430256378, 3.3182953162713456, 3.971872024618863, 3.667837975053522, 3.8480597650374486,
        3.5115088216210593, 3.5757421545564543, 3.214283027362141, 3.160448468494253, 3.188223657903487,
        2.9755448048908537, 2.998769589250422, 3.013137326626672, 2.98658689544755, 2.73392524637006,
        2.596104072026287, 2.570512745246401, 2.4971559591398496, 2.458272753545929, 2.4884925841945567,
    ],
}  # fmt: skip
"""Of the classes of solo/methods in vturrisi/solo-learn at 9187ea39c2c3f43c455ab06664d2b019a9802954, in one process.

A plain loop takes the place of Lightning's: `training_step`, backward pass, the optimiser of `configure_optimizers`,
`on_train_batch_end`. That is SGD with the settings of `peer_loops`, without a schedule, and with
`exclude_bias_n_norm_wd` where our method leaves vectors without decay. The loss of its linear classifier, which sends
no gradient into the backbone, is left out. float64 is torch's default, in which its k-means adds up.

Weights are those of `drawn_method`, with its backbone; batches are those of `drawn_batches`. Where a definition is not
the authors', which ours follow, a comment that begins with "Difference" says so, and the authors' was put in.
"""
