"""Corrupted pictures and other sets of the same classes as a protocol."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headrace.models import Method
from headrace.pipeline import Batch, ViewSpec
from headrace.pipeline.streams import spec_of, streams_of
from headrace.shards import open_shards
from headrace.shards.remote.remote import has_secrets
from headrace.tools.errors import UserError
from headrace.tools.evaluation.protocol import Outcome, Protocol, Task
from headrace.tools.evaluation.shown import shown_pixels
from headrace.train.errors import RunError
from headrace.train.probes import extract_features, matched_labels
from headrace.train.probes.intervals import mean_interval
from headrace.train.probes.linear import fit_linear
from headrace.train.probes.robustness import CorruptionConfig, corruption_outcomes, shift_outcomes


@dataclass(frozen=True, kw_only=True)
class RobustnessSettings(CorruptionConfig):
    """Of `robustness`."""

    shifts: tuple[str, ...] = ()
    """Other shard sets of the same classes that the same head is scored on, uncorrupted."""
    present_only: bool = False
    """Choose on those sets among the classes that they have samples of, as ImageNet-R and ImageNet-A want it; else
    among all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(has_secrets(place) for place in self.shifts):
            raise ValueError("shifts must be without users, passwords and queries, which would be kept with the scores")


def measure_robustness(task: Task) -> Outcome:
    settings: RobustnessSettings = task.settings
    test = task.required_test("robustness is scored")
    inputs = task.method.probe_inputs
    if not isinstance(inputs, ViewSpec):
        raise RunError(f"{type(task.method).__name__} is shown something else than single images, which are corrupted")
    encode: Callable[[Batch], Tensor] = task.method.encode
    if task.encoder == "input":
        encode = shown_pixels
        learnt = extract_features(encode, task.learn, inputs, max_bad=task.max_bad)
    else:
        learnt = task.features(task.learn)
    head = fit_linear(*learnt, device=task.device)
    options: dict[str, Any] = {"device": task.device, "max_bad": task.max_bad}
    found = corruption_outcomes(encode, head, test, inputs, matched_labels(task.learn, test), settings, **options)
    scores = found.scores()
    metrics = {"corruption_error": scores.pop("corrupted"), "clean_error": scores.pop("clean")}
    metrics["added_error"] = scores.pop("added")
    metrics |= {name if "mCE" in name else f"{name}_error": each for name, each in scores.items()}
    for place in settings.shifts:
        name = os.path.basename(os.path.normpath(place))
        if f"{name}_error" in metrics:
            raise UserError(f"shifts: two sets are called {name}, or one as a family of corruptions; rename it")
        with open_shards(place) as other:
            right = shift_outcomes(
                encode, head, task.learn, other, inputs, present_only=settings.present_only, **options
            )
        metrics[f"{name}_error"] = mean_interval(1.0 - right)
    details: dict[str, Any] = {"errors by severity": found.curves(), **found.settings}
    if task.encoder == "trained":
        details["augmented in training by"] = _augmentation(task.method)
    return Outcome(metrics=metrics, details=details)


def _augmentation(method: Method) -> list[str]:
    """What training did to the colours and pixels of views, such as blur: corruptions of that kind are nothing new."""
    specs = [spec_of(stream) for stream in streams_of(method.inputs).values()]
    views = [view for spec in specs if isinstance(spec, ViewSpec) for view in spec.views]
    return sorted({operation for view in views for operation in view.operations})


ROBUSTNESS = Protocol(
    name="robustness",
    version=1,
    title="corrupted",
    metric="corruption_error",
    measure=measure_robustness,
    settings=RobustnessSettings(),
    definition="The regression of `linear` is fitted on clean features of the training set and classifies the test set "
    "clean and in corrupted copies, 15 corruptions at 5 severities, all with the same draws for every encoder. The "
    "score is the mean error over the 75 copies, the lower the better; beside it stand the clean error, their "
    "difference, and the mean of each family. Pictures are resized first and corrupted then, as uint8. Parameters are "
    "the authors' of 224 pixels, or of 32 for pictures up to 84. AlexNet's errors divide only at 224 pixels and 1,000 "
    "classes.",
    source="ImageNet-C, arXiv 1903.12261; hendrycks/robustness at 8190fe3. ImageNet-C-like, and not ImageNet-C: frost "
    "is drawn, motion blur is a line kernel, the largest centred square is resized, and copies are no JPEG files of "
    "quality 85 unless `saved_quality` says so",
    cost="76 passes of the encoder over the test set, and up to two seconds of a core for each of its pictures of 224 "
    "pixels; each is decoded once.",
    incomparable="The files of ImageNet-C or CIFAR-10-C; another size, whose parameters differ; an encoder fine-tuned "
    "or batch norm adapted on corrupted pictures; pre-training whose augmentation has blur, noise or jitter, to which "
    "some of the corruptions are nothing new.",
)
