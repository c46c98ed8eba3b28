"""Protocols that train nothing and ask what is nearest: to a sample of a class, to a text, to the name of a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.tools.errors import UserError
from headrace.tools.evaluation.protocol import Outcome, Protocol, Task, accuracies, confusion
from headrace.train.probes.intervals import Measured, bootstrap, mean_interval
from headrace.train.probes.retrieval import RECALLS, first_ranks, grouped, label_retrieval, weighted_median
from headrace.train.probes.towers import captions_of, embedded_samples, embedded_strings, tower_of
from headrace.train.probes.zeroshot import class_names, templates, zero_shot


def measure_retrieval(task: Task) -> Outcome:
    _, (x, labels) = task.split()
    found = label_retrieval(x, labels, device=task.device)
    known = ~np.isnan(found.precision)
    if not known.any():
        raise UserError("retrieval needs a class with two samples that are scored")
    return Outcome(
        metrics={
            "mAP": mean_interval(found.precision[known]),
            "mAP@R": mean_interval(found.precision_at_r[known]),
            **{f"recall@{k}": mean_interval(hits[known]) for k, hits in found.hits.items()},
        },
        details={"queries": int(known.sum()), "samples": len(labels)},
    )


@dataclass(frozen=True, kw_only=True)
class TextRetrievalSettings:
    """Of `retrieval_text`."""

    field: str | None = None
    """Of the set, with the texts; None takes the first of captions, caption, text and txt."""


def measure_text_retrieval(task: Task) -> Outcome:
    settings: TextRetrievalSettings = task.settings
    shards = task.test or task.learn
    tower_of(task.method, "text")
    images, numbers = embedded_samples(task.method, "image", shards, device=task.device, max_bad=task.max_bad)
    pairs = grouped(captions_of(shards, numbers, settings.field))
    texts = np.concatenate(list(embedded_strings(task.method, pairs.captions, device=task.device)))
    ranks = {
        "image_to_text": first_ranks(images, texts, pairs.belong, device=task.device),
        "text_to_image": first_ranks(texts, images, pairs.belong[:, ::-1], device=task.device),
    }
    metrics = {f"{way}_recall@{k}": mean_interval(found <= k) for way, found in ranks.items() for k in RECALLS}
    both = np.mean([[metrics[f"{way}_recall@{k}"].value for k in RECALLS] for way in ranks])
    medians = {way: _median(found)._asdict() for way, found in ranks.items()}
    details = {"images": len(images), "texts": len(texts), "median_rank": medians, "mean_recall": float(both)}
    return Outcome(metrics=metrics, details=details)


def _median(ranks: np.ndarray) -> Measured:
    return bootstrap(lambda counts: weighted_median(ranks, counts), len(ranks))


@dataclass(frozen=True, kw_only=True)
class ZeroShotSettings:
    """Of `zeroshot`."""

    classes: str = ""
    """File with the names of the classes, a line each, in the order of the labels; empty takes the set's own names."""
    templates: str = ""
    """File with what is said of a class, a line each, {} for its name; empty says its name alone."""


def measure_zero_shot(task: Task) -> Outcome:
    settings: ZeroShotSettings = task.settings
    shards = task.test or task.learn
    own = shards.fields["label"].classes if "label" in shards.fields else None
    names = class_names(Path(settings.classes)) if settings.classes else list(own or ())
    if not names:
        raise UserError(f"{shards.path} has no names for its classes: give some with --classes FILE")
    said = templates(Path(settings.templates)) if settings.templates else ["{}"]
    found = zero_shot(task.method, shards, names, said, device=task.device, max_bad=task.max_bad)
    details: Mapping[str, Any] = {"classes": names, "templates": said}
    return Outcome(
        metrics=accuracies(found.truth, found.predicted),
        details={**details, **confusion(task, found.truth, found.predicted)},
    )


RETRIEVAL = Protocol(
    name="retrieval",
    version=1,
    of_features=True,
    title="retrieval",
    metric="mAP",
    measure=measure_retrieval,
    definition="Every scored sample looks for the others of its class among all other scored samples, by cosine "
    "similarity; itself is left out, and so is as a query the only sample of its class. mAP is of the whole list, and "
    "mAP@R of its first R places, where R is how many others the class has; recall@k is the share of queries with one "
    "of their class among the first k. Cosines closer than one part in a million are equal, and among equals right "
    "answers come last.",
    source="mAP@R: arXiv 2003.08505, equation 4; the small form of DINO's image retrieval, arXiv 2104.14294",
    cost="One pass over the scored set, and the product of all its features; held in blocks.",
    incomparable="Galleries apart from the queries (Oxford, Paris with junk images), several scales, whitening, "
    "precision by the trapezoidal rule, other set sizes and shares of classes: mAP of random features is the classes' "
    "frequency.",
)
RETRIEVAL_TEXT = Protocol(
    name="retrieval_text",
    version=1,
    title="image and text",
    metric="image_to_text_recall@1",
    measure=measure_text_retrieval,
    settings=TextRetrievalSettings(),
    definition="All images and all captions of the scored set (--test, else --data as a whole) are embedded by the "
    "towers; an image finds its texts if one of its captions is among the first k, a text its image. Captions with one "
    "wording are one text, which belongs to every image that has it. Among equals, right answers come last.",
    source="The protocol of Karpathy and Fei-Fei, arXiv 1412.2306, section 4.1; CLIP, arXiv 2103.00020, appendix E.1",
    cost="One pass over the images and texts, and two products of their features, held in blocks.",
    incomparable="Other set sizes (chance is k over it), folds of 1,000 images, one drawn caption in the place of all, "
    "captions that are reranked by a matching head.",
    encoders=("untrained", "trained"),
    labels=False,
)
ZEROSHOT = Protocol(
    name="zeroshot",
    version=1,
    title="zero-shot",
    metric="accuracy",
    measure=measure_zero_shot,
    settings=ZeroShotSettings(),
    definition="The class of an image of the scored set (--test, else --data as a whole) is the one whose row is "
    "nearest: the mean over templates of the text tower's rows of length 1, at length 1 again. accuracy_of_classes is "
    "the mean over classes.",
    source="CLIP, arXiv 2103.00020, section 3.1.4; openai/CLIP at d05afc4, "
    "notebooks/Prompt_Engineering_for_ImageNet.ipynb",
    cost="One pass over the images, and one of the text tower over classes times templates.",
    incomparable="Other names of classes (they are worth 1.5 points on ImageNet) or templates, means of rows that are "
    "not of length 1 (GroupViT), names and templates in a canonical spelling (SigLIP).",
    encoders=("untrained", "trained"),
)
