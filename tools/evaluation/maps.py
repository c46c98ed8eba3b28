"""Protocols on feature maps: segmentation, detection, depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from headrace.models import Method
from headrace.models.parts.feature_maps import feature_maps
from headrace.pipeline import View, ViewSpec
from headrace.tools.evaluation import drawn
from headrace.tools.evaluation.protocol import Outcome, Protocol, Task
from headrace.train.dense.depth import DepthConfig, depth_maps, depth_probe
from headrace.train.dense.detection import DetectionConfig, detection_probe
from headrace.train.dense.scenes import DRAWN, read_picture
from headrace.train.dense.segmentation import Maps, SegmentationConfig, raw_patches, segmentation_probe
from headrace.train.errors import ConfigError, RunError
from headrace.train.probes.intervals import DRAWS, Measured, Statistic, trainings_interval

DETECTION_DRAWS = 200
"""Of pictures, for each of which AP is counted anew."""


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings(SegmentationConfig):
    """Of `segmentation`."""

    field: str = ""
    """The field of maps of classes; empty takes COCO's instances, and counts the background as a class."""
    size: int = 0
    """Side of the square to which pictures are squashed, in pixels; 0 takes what the method was shown."""
    seeds: int = 1
    """Fits, of the seeds from `seed` on; scores are means over them."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.seeds) < 1 or self.size < 0:
            raise ConfigError("steps, batch_size and seeds must be at least 1, and size not negative")


@dataclass(frozen=True, kw_only=True)
class DepthSettings(DepthConfig):
    """Of `depth`."""

    field: str = "depth"
    """The field of maps of depths."""
    size: int = 0
    """Side of the square to which pictures are squashed, in pixels; 0 takes what the method was shown."""
    seeds: int = 1
    """Fits, of the seeds from `seed` on; scores are means over them."""


@dataclass(frozen=True, kw_only=True)
class DetectionSettings(DetectionConfig):
    """Of `detection`."""

    seeds: int = 1
    """Trainings, of the seeds from `seed` on; scores are means over them."""


def measure_segmentation(task: Task) -> Outcome:
    settings: SegmentationSettings = task.settings
    view, test = _shown(task.method), task.required_test("segmentation is scored")

    def maps(images: Tensor) -> Tensor:
        return feature_maps(task.method.backbone, images)[0]

    found = [
        segmentation_probe(
            _refusing(raw_patches if task.encoder == "input" else maps),
            task.learn,
            test,
            size=settings.size or view.size,
            normalize=view.normalize,
            field=settings.field or None,
            config=config,
            device=task.device,
        )
        for config in _of_seeds(settings)
    ]
    pictures = [drawn.class_maps(read_picture(test, i), *each) for i, each in enumerate(found[0].drawn)]
    metrics = _over_seeds([each.statistics() for each in found], len(found[0].pixels))
    return Outcome(metrics=metrics, details={"IoU": found[0].class_ious()}, pictures=pictures)


def measure_depth(task: Task) -> Outcome:
    settings: DepthSettings = task.settings
    view, test = _shown(task.method), task.required_test("depth is scored")
    maps = raw_patches if task.encoder == "input" else depth_maps(task.method.backbone, settings.layers)
    found = [
        depth_probe(
            _refusing(maps),
            task.learn,
            test,
            size=settings.size or view.size,
            normalize=view.normalize,
            field=settings.field,
            config=config,
            device=task.device,
        )
        for config in _of_seeds(settings)
    ]
    pictures = [drawn.depth_maps(read_picture(test, i), *each) for i, each in enumerate(found[0].drawn)]
    metrics = _over_seeds([each.statistics() for each in found], len(found[0].errors))
    return Outcome(metrics=metrics, details={"pictures": len(found[0].errors)}, pictures=pictures)


def measure_detection(task: Task) -> Outcome:
    test = task.required_test("detection is scored")
    view = _shown(task.method)
    found, *others = (
        detection_probe(task.method.backbone, task.learn, test, view.normalize, config, device=task.device)
        for config in _of_seeds(task.settings)
    )
    pictures = [
        drawn.detections(read_picture(test, i), found.true[i], found.found[i], found.classes)
        for i in range(min(DRAWN, len(test)))
    ]
    details = {"scores": dict(found.scores), "classes": list(found.classes)}
    statistics = [{name: each.average_precision for name, each in one.matches.items()} for one in (found, *others)]
    metrics = _over_seeds(statistics, len(test), draws=DETECTION_DRAWS)
    return Outcome(metrics=metrics, details=details, pictures=pictures)


def _of_seeds(settings: Any) -> Iterator[Any]:
    """The settings of each training."""
    return (replace(settings, seed=settings.seed + number) for number in range(settings.seeds))


def _over_seeds(
    trainings: Sequence[Mapping[str, Statistic]], samples: int, *, draws: int = DRAWS
) -> dict[str, Measured]:
    """Means over trainings with their intervals."""
    return {name: trainings_interval([each[name] for each in trainings], samples, draws=draws) for name in trainings[0]}


def _shown(method: Method) -> View:
    """What an encoder of images is shown; RunError for another."""
    inputs = method.probe_inputs
    if not isinstance(inputs, ViewSpec):
        raise RunError(f"{type(method).__name__} is shown something else than single images, which this wants")
    return inputs.views[0]


def _refusing(maps: Maps) -> Maps:
    """With RunError in the place of ValueError, which a backbone without maps raises."""

    def made(images: Tensor) -> Tensor:
        try:
            return maps(images)
        except ValueError as error:
            raise RunError(str(error)) from None

    return made


SEGMENTATION = Protocol(
    name="segmentation",
    version=1,
    title="segmented",
    metric="mIoU",
    measure=measure_segmentation,
    settings=SegmentationSettings(),
    definition="A 1 x 1 convolution is fitted by AdamW on standardised maps of the frozen encoder's last layer, of "
    "whole pictures squashed to a square, without augmentation. Logits are enlarged bilinearly to the labels, in the "
    "test to each picture's own size. The score is the mean over classes of intersection over union, of one confusion "
    "of all pixels; classes that are neither there nor said to be do not count, ignored pixels (255) neither. The raw "
    "input is the pixels of patches.",
    source="The linear layer of DINOv2, arXiv 2304.07193, section 7.4, without its windows and augmentation",
    cost="One pass of the encoder over both sets; maps of the training set must fit the memory in float16.",
    incomparable="Windows of larger pictures, several layers, a trained decoder; the background counted or not (class "
    "0 of COCO's layout counts); IoU averaged over pictures.",
)
DETECTION = Protocol(
    name="detection",
    version=1,
    title="detected",
    metric="box AP",
    measure=measure_detection,
    settings=DetectionSettings(),
    definition="torchvision's Mask R-CNN with a feature pyramid (a simple pyramid for a ViT, which sees padded "
    "squares) is trained on a copy of the backbone, every layer and norm of it, on sets of COCO's layout. Scores are "
    "COCO's, by faster-coco-eval; the untrained encoder is the baseline from scratch under the same recipe.",
    source="torchvision FPN protocol: the schedule of torchvision's references/detection. The pyramid of ViTs: ViTDet, "
    "arXiv 2203.16527",
    cost="26 epochs of a detector at 800 pixels, for each encoder: hours on a GPU for COCO.",
    incomparable="MoCo's protocol of Detectron2 (C4 heads, SyncBN in heads, 24,000 steps) and ViTDet's (1024 pixels, "
    "jitter of scale, 100 epochs); frozen norms or stages; another size or length of training.",
    encoders=("untrained", "trained"),
)
DEPTH = Protocol(
    name="depth",
    version=1,
    title="depth RMSE",
    metric="RMSE",
    measure=measure_depth,
    settings=DepthSettings(),
    definition="DINOv2's linear head: class tokens beside the patches of the frozen encoder's last layer, 256 bins "
    "whose mean is the depth, and the scale-invariant loss without its gradient term; whole pictures squashed to a "
    "square. Errors are means over pictures at their own sizes, without crop and mirrored copies; RMSE is in metres, "
    "the lower the better. The raw input is the pixels of patches.",
    source="DINOv2, arXiv 2304.07193, section 7.4; facebookresearch/dinov2 at b8931f7, eval/depth",
    cost="One pass of the encoder over both sets; maps of the training set must fit the memory in float16.",
    incomparable="Four layers, a trained decoder (DPT), the crops of Eigen or Garg, the mean with a mirrored copy, "
    "another largest depth, 38,400 steps.",
    share=False,
)
