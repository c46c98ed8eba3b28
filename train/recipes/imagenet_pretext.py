"""Methods that take labels from the images themselves, on ImageNet: the runs that their authors published.

Their networks were AlexNets, where these are ResNet-50s, and were judged by what they became when they were fine-tuned;
Headrace has run none of these.
"""

from __future__ import annotations

from headrace.models.methods.pretext.block_order import BlockOrderConfig
from headrace.models.methods.pretext.context_prediction import ContextPredictionConfig
from headrace.models.methods.pretext.jigsaw import JigsawConfig
from headrace.models.methods.pretext.rotation import RotationConfig
from headrace.train.config import OptimConfig, RunConfig, ScheduleConfig


def context_prediction_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 64 with 512 patches, 1.7 million steps: a mean average precision of 51.4 % on VOC 2007, fine-tuned, in the
    authors' README.

    SGD with a constant learning rate of 1e-5 for the sum over about 2,000 pairs, 0.02 for their mean, without momentum
    and decay (cdoersch/deepcontext at 5307282, train.py and solver_mko.prototxt).
    """
    return RunConfig(
        method="context_prediction",
        model=ContextPredictionConfig(),
        data=data,
        out=out,
        epochs=85,
        batch_size=64,
        optim=OptimConfig(name="sgd", lr=0.02, momentum=0.0, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0),
    )


def jigsaw_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 256, 350,000 steps. A ResNet-50 of facebookresearch/vissl, trained for 105 epochs at a learning rate of
    0.1, reached 48.57 % with 100 orders and 46.73 % with 2,000, by a linear classifier.

    SGD with learning rate 0.01, weight decay 5e-4, biases twice as fast and without decay
    (MehdiNoroozi/JigsawPuzzleSolver at 8c7ec09, solver_cfn_jps.prototxt). Their rate falls to a tenth every 100,000
    steps, which are 20 epochs.
    """
    return RunConfig(
        method="jigsaw",
        model=JigsawConfig(),
        data=data,
        out=out,
        epochs=70,
        batch_size=256,
        optim=OptimConfig(name="sgd", lr=0.01, weight_decay=5e-4),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0, drops={20: 0.1, 40: 0.1, 60: 0.1}),
    )


def block_order_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 256, 400,000 steps. The authors' repository names no score.

    SGD with learning rate 0.001, weight decay 5e-4, biases twice as fast and without decay (rfsantacruz/deep-perm-net
    at d3dccc3, models/solver_trainval_grid3.prototxt). Their rate falls to a tenth every 150,000 steps, which are 30
    epochs.
    """
    return RunConfig(
        method="block_order",
        model=BlockOrderConfig(),
        data=data,
        out=out,
        epochs=80,
        batch_size=256,
        optim=OptimConfig(name="sgd", lr=0.001, weight_decay=5e-4),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0, drops={30: 0.1, 60: 0.1}),
    )


def rotation_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 192, four turns of each, 50 epochs; VISSL's benchmark, with a schedule of its own, has 48.2 % by a linear
    classifier for a ResNet-50.

    SGD with learning rate 0.01, a tenth after epochs 15, 30 and 45 each, weight decay 5e-4
    (gidariss/FeatureLearningRotNet at edafaba, config/ImageNet_RotNet_AlexNet.py, whose 0.1 never comes into force).
    Their momentum is Nesterov's.
    """
    return RunConfig(
        method="rotation",
        model=RotationConfig(),
        data=data,
        out=out,
        epochs=50,
        batch_size=192,
        optim=OptimConfig(name="sgd", lr=0.01, weight_decay=5e-4),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0, drops={15: 0.1, 30: 0.1, 45: 0.1}),
    )
