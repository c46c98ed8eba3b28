"""Average precision of boxes and masks: COCO's meter, and what a bootstrap over pictures needs beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from headrace.train.dense.scenes import coco_masks

Kind = Literal["bbox", "segm"]
Instances = Sequence[Sequence[Mapping[str, Any]]]
"""Those of each picture, with `category`, a number from 0, and `bbox` [x, y, width, height] in pixels. What is true
has `area`, `iscrowd` and, for "segm", run lengths as `segmentation`; what is found has `score` and likewise."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of intersection over union."""
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Detections of a category in a picture."""
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def coco_scores(found: Instances, true: Instances, sizes: Sequence[tuple[int, int]], kind: Kind) -> dict[str, float]:
    """Scores of NAMES, 0 to 1, by `faster_coco_eval`; those of sizes that nothing has are left out.

    Args:
        found, true: of n pictures.
        sizes: their heights and widths, in pixels.
        kind: boxes or masks.

    Raises:
        ImportError: with the line that installs it.
    """
    coco_masks()  # which says what to install
    from faster_coco_eval import COCO, COCOeval_faster

    categories = sorted({int(each["category"]) for picture in true for each in picture})
    listed = {
        "images": [{"id": i + 1, "height": height, "width": width} for i, (height, width) in enumerate(sizes)],
        "categories": [{"id": number + 1, "name": str(number)} for number in categories],
        "annotations": _numbered(true, ("bbox", "area", "iscrowd", "segmentation")),
    }
    results = _numbered(found, ("bbox", "score", "segmentation") if kind == "segm" else ("bbox", "score"))
    if not results:
        return dict.fromkeys(NAMES[:3], 0.0)
    truth = COCO(listed)
    meter = COCOeval_faster(truth, truth.loadRes(results), kind, print_function=lambda *_: None)
    meter.evaluate()
    meter.accumulate()
    meter.summarize()
    return {name: float(score) for name, score in zip(NAMES, meter.stats, strict=False) if score >= 0}


def _numbered(instances: Instances, kept: Sequence[str]) -> list[dict[str, Any]]:
    """All instances in one list, as COCO's files have them; an id of 0 would count as none."""
    each = [(i, instance) for i, picture in enumerate(instances) for instance in picture]
    return [
        {"id": number, "image_id": i + 1, "category_id": int(instance["category"]) + 1}
        | {name: instance[name] for name in kept if name in instance}
        for number, (i, instance) in enumerate(each, 1)
    ]


@dataclass(frozen=True)
class _Category:
    """What was found of one category, best scores first."""

    picture: np.ndarray
    """int64 (d,)."""
    right: np.ndarray
    """bool (d, thresholds)."""
    ignored: np.ndarray
    """bool (d, thresholds): neither right nor wrong, such as parts of a crowd."""
    wanted: np.ndarray
    """int64 (n,): true instances in each picture."""

    def precision(self, counts: np.ndarray) -> np.ndarray:
        """float64 (thresholds,): AP where picture i counts as often as `counts` says; nan where nothing is true."""
        wanted = counts @ self.wanted
        if not wanted:
            return np.full(len(THRESHOLDS), np.nan)
        weight = counts[self.picture][:, None]
        right = (weight * self.right).cumsum(0)
        wrong = (weight * (~self.right & ~self.ignored)).cumsum(0)
        precision = right / np.maximum(right + wrong, np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        scores = np.zeros(len(THRESHOLDS))
        for place in range(len(THRESHOLDS)):
            reached = np.searchsorted(right[:, place] / wanted, RECALLS, side="left")
            known = reached[reached < len(precision)]
            scores[place] = precision[known, place].sum() / len(RECALLS)
        return scores


class Matches:
    """What of the detections is right, for AP over pictures that are drawn anew; arguments as of `coco_scores`."""

    def __init__(self, found: Instances, true: Instances, kind: Kind) -> None:
        self.pictures = len(true)
        numbers = sorted({int(each["category"]) for picture in true for each in picture})
        self._categories = [_matched(found, true, number, kind) for number in numbers]

    def average_precision(self, counts: np.ndarray | None = None) -> float:
        """AP, 0 to 1, as COCO has it; nan where nothing is true."""
        if counts is None:
            counts = np.ones(self.pictures, np.int64)
        scores = np.array([category.precision(counts) for category in self._categories])
        return float(np.nanmean(scores)) if not np.isnan(scores).all() else float("nan")


def _matched(found: Instances, true: Instances, category: int, kind: Kind) -> _Category:
    """Each detection, best first, takes the free true instance that it overlaps most, as pycocotools' evaluateImg."""
    pictures, scores, right, ignored = [], [], [], []
    wanted = np.zeros(len(true), np.int64)
    for i in range(len(true)):
        here = [each for each in true[i] if each["category"] == category]
        here.sort(key=lambda each: int(each["iscrowd"]))
        crowd = np.array([bool(each["iscrowd"]) for each in here], bool)
        wanted[i] = (~crowd).sum()
        said = [each for each in found[i] if each["category"] == category]
        said = sorted(said, key=lambda each: -float(each["score"]))[:MOST]
        if not said:
            continue
        hit, free = _hits(_overlaps(said, here, kind), crowd)
        pictures += [i] * len(said)
        scores += [float(each["score"]) for each in said]
        right.append(hit)
        ignored.append(free)
    order = np.argsort(-np.array(scores), kind="stable")
    empty = np.zeros((0, len(THRESHOLDS)), bool)
    return _Category(
        picture=np.array(pictures, np.int64)[order],
        right=np.concatenate([empty, *right])[order],
        ignored=np.concatenate([empty, *ignored])[order],
        wanted=wanted,
    )


def _overlaps(said: Sequence[Mapping[str, Any]], true: Sequence[Mapping[str, Any]], kind: Kind) -> np.ndarray:
    """float64 (said, true); of a crowd the share of what is said that lies in it."""
    if not true:
        return np.zeros((len(said), 0))
    name = "bbox" if kind == "bbox" else "segmentation"
    shapes: list[Any] = [[each[name] for each in group] for group in (said, true)]
    if kind == "bbox":
        shapes = [np.asarray(group, np.float64) for group in shapes]
    overlaps = coco_masks().iou(*shapes, [int(each["iscrowd"]) for each in true])
    return np.asarray(overlaps, np.float64)


def _hits(overlaps: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool (said, thresholds) twice: what hits a true instance, and what a crowd. Crowds come last."""
    hit = np.zeros((len(overlaps), len(THRESHOLDS)), bool)
    free = np.zeros_like(hit)
    for place, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(crowd), bool)
        for one, row in enumerate(overlaps):
            least = min(threshold, 1 - 1e-10)
            single = np.where(taken | crowd, -1.0, row)
            if len(single) and single.max() >= least:
                taken[len(single) - 1 - int(single[::-1].argmax())] = True  # of equals COCO takes the last
                hit[one, place] = True
            elif (row[crowd] >= least).any():
                free[one, place] = True
    return hit, free
