"""Methods that read labels off the time of a video: order, pace, direction."""

from __future__ import annotations

from typing import Any, TypedDict

from headrace.models.methods.video.arrow_of_time import ArrowOfTimeConfig
from headrace.models.methods.video.clip_order import ClipOrderConfig
from headrace.models.methods.video.frame_order import FrameOrderConfig
from headrace.models.methods.video.odd_one_out import OddOneOutConfig
from headrace.models.methods.video.pace import PaceConfig
from headrace.models.methods.video.sorting import SortingConfig
from headrace.models.methods.video.speediness import SpeedinessConfig
from headrace.models.parts.backbones import tiny_resnet
from headrace.models.parts.clip_backbones import tiny_clip_resnet
from headrace.train.config import OptimConfig, RunConfig, ScheduleConfig
from headrace.train.recipes.small import small_run


class SmallFrames(TypedDict):
    """Fields that the configs of several methods have in common."""

    size: int
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    flip: float


def small_frames() -> SmallFrames:
    """Frames of 28 pixels that take most of what the video shows, squares that are not mirrored."""
    return {"size": 28, "crop_scale": (0.7, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0}


def _published(
    method: str,
    model: Any,
    length: tuple[int, int],
    optim: OptimConfig,
    schedule: ScheduleConfig,
    *,
    data: str,
    out: str,
) -> RunConfig:
    """Of so many epochs and so large batches."""
    return RunConfig(
        method=method,
        model=model,
        data=data,
        out=out,
        epochs=length[0],
        batch_size=length[1],
        optim=optim,
        schedule=schedule,
    )


def frame_order_ucf101(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 128, 100,000 steps: 50.9 % on the first split of UCF101 and 19.8 % on that of HMDB51, fine-tuned, in the
    authors' README. Headrace has not run it.

    SGD with learning rate 0.001, which falls to a tenth after 80,000 steps, and weight decay 5e-4
    (imisra/shuffle-tuple at 5d27dfa, networks/tuple_solver.prototxt). Epochs are of the 9,537 videos of the split.
    """
    optim = OptimConfig(name="sgd", lr=1e-3, weight_decay=5e-4)
    schedule = ScheduleConfig(warmup_epochs=0, final=1.0, drops={1074: 0.1})
    return _published("frame_order", FrameOrderConfig(), (1342, 128), optim, schedule, data=data, out=out)


def frame_order_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet, and a layer that sees the three frames together: without it their features could only be added up.
    The five places that they come from are two frames apart, nine frames in all."""
    model = FrameOrderConfig(
        **small_frames(), strides=(2,), frame_dim=128, hidden_dim=128, dropout=0.0, backbone=tiny_resnet()
    )
    return small_run("frame_order", model, OptimConfig(lr=3e-3), data=data, out=out)


def sorting_ucf101(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 64, 170,000 steps: 56.3 % on UCF101, fine-tuned, by the paper. Headrace has not run it.

    SGD with learning rate 0.01, which falls to a tenth after 130,000 steps, and weight decay 5e-4 (HsinYingLee/OPN at
    d0ba14e, solver_opn.prototxt). Epochs are of the 9,537 videos of a split.
    """
    optim = OptimConfig(name="sgd", lr=0.01, weight_decay=5e-4)
    schedule = ScheduleConfig(warmup_epochs=0, final=1.0, drops={872: 0.1})
    return _published("sorting", SortingConfig(), (1141, 64), optim, schedule, data=data, out=out)


def sorting_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and four frames in ten, which stray by two pixels."""
    model = SortingConfig(
        **small_frames(), jitter=2, strides=(3,), frame_dim=128, pair_dim=64, dropout=0.0, backbone=tiny_resnet()
    )
    return small_run("sorting", model, OptimConfig(lr=3e-3), data=data, out=out)


def clip_order_ucf101(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 8, 300 epochs. Headrace has not run it.

    SGD with a constant learning rate of 0.001 and weight decay 5e-4 (xudejing/video-clip-order-prediction at 7a1710d,
    train_vcop.py, where the rate's fall is commented out).
    """
    optim = OptimConfig(name="sgd", lr=1e-3, weight_decay=5e-4)
    schedule = ScheduleConfig(warmup_epochs=0, final=1.0)
    return _published("clip_order", ClipOrderConfig(), (300, 8), optim, schedule, data=data, out=out)


def clip_order_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny R3D and three clips of three frames in nine."""
    model = ClipOrderConfig(
        **small_frames(), frames=3, interval=0, pair_dim=64, dropout=0.0, backbone=tiny_clip_resnet()
    )
    return small_run("clip_order", model, OptimConfig(lr=3e-3), data=data, out=out)


def pace_ucf101(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 30, 18 epochs of ten times the set: 77.1 % on UCF101, fine-tuned, by the paper, with its contrast of clips,
    which is not here. Headrace has not run it.

    SGD with learning rate 0.001, which falls to a tenth after every 6 epochs, and weight decay 0.005
    (laura-wang/video-pace at cc1e561, README.md and train.py).
    """
    optim = OptimConfig(name="sgd", lr=1e-3, weight_decay=0.005)
    schedule = ScheduleConfig(warmup_epochs=0, final=1.0, drops={60: 0.1, 120: 0.1})
    return _published("pace", PaceConfig(), (180, 30), optim, schedule, data=data, out=out)


def pace_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny R3D and four frames in four, seven or ten. Colours change less than the authors', which hide what there is
    to see in small frames."""
    model = PaceConfig(**small_frames(), strength=0.25, frames=4, strides=(1, 2, 3), backbone=tiny_clip_resnet())
    return small_run("pace", model, OptimConfig(lr=3e-3), data=data, out=out)


def speediness_k400(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 64 on Kinetics-400. The paper's optimiser and its length could not be checked: SGD with learning rate 0.01,
    weight decay 5e-4 and a cosine over 100 epochs are Headrace's. Headrace has not run it."""
    optim = OptimConfig(name="sgd", lr=0.01, weight_decay=5e-4)
    return _published(
        "speediness", SpeedinessConfig(), (100, 64), optim, ScheduleConfig(warmup_epochs=5), data=data, out=out
    )


def speediness_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny R3D and four frames at the authors' rates."""
    model = SpeedinessConfig(**small_frames(), frames=4, backbone=tiny_clip_resnet())
    return small_run("speediness", model, OptimConfig(lr=3e-3), data=data, out=out)


def odd_one_out_ucf101(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 64 on UCF101, of which the paper reports 60.3 %, fine-tuned. Its optimiser and its length could not be
    checked: SGD with learning rate 0.01, weight decay 5e-4 and a cosine over 200 epochs are Headrace's, which has not
    run it."""
    optim = OptimConfig(name="sgd", lr=0.01, weight_decay=5e-4)
    return _published(
        "odd_one_out", OddOneOutConfig(), (200, 64), optim, ScheduleConfig(warmup_epochs=5), data=data, out=out
    )


def odd_one_out_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet on the five differences of six frames, and questions of four clips."""
    model = OddOneOutConfig(**small_frames(), clips=4, hidden_dim=64, backbone=tiny_resnet())
    return small_run("odd_one_out", model, OptimConfig(lr=3e-3), data=data, out=out)


def arrow_of_time_ucf101(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 96, 20 epochs of 5,000 parts of 32 (donglaiw/AoT_TCAM, README.md): 336 epochs of 9,537 videos, each in
    both directions. Their learning rates could not be checked: SGD with 0.01, a cosine and weight decay 5e-4 are
    Headrace's, which has not run it."""
    optim = OptimConfig(name="sgd", lr=0.01, weight_decay=5e-4)
    return _published(
        "arrow_of_time", ArrowOfTimeConfig(), (336, 96), optim, ScheduleConfig(warmup_epochs=0), data=data, out=out
    )


def arrow_of_time_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet on two segments of three differences. What moves alike in both directions teaches nothing."""
    model = ArrowOfTimeConfig(**small_frames(), length=3, hidden_dim=64, dropout=0.0, backbone=tiny_resnet())
    return small_run("arrow_of_time", model, OptimConfig(lr=3e-3), data=data, out=out)
