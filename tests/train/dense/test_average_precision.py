"""AP against COCO's meter, and what is known of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.train.dense.average_precision import Kind, Matches, coco_scores
from headrace.train.dense.targets import run_lengths
from headrace.train.probes.intervals import bootstrap

pytestmark = pytest.mark.peer("faster-coco-eval")
SIZE = (64, 80)
Instance = dict[str, Any]


def mask_of(box: list[float]) -> Any:
    mask = np.zeros(SIZE, bool)
    x, y, width, height = (round(number) for number in box)
    mask[y : y + height, x : x + width] = True
    return run_lengths(mask)


def random_scenes(pictures: int, seed: int = 0) -> tuple[list[list[Instance]], list[list[Instance]]]:
    """What is true, and detections around it, some of them wrong, in several scores; one in eight is a crowd."""
    random = np.random.default_rng(seed)
    true, found = [], []
    for _ in range(pictures):
        here: list[Instance] = []
        said: list[Instance] = []
        for _ in range(int(random.integers(0, 6))):
            box = [*random.uniform(0, 30, 2).round().tolist(), *random.uniform(4, 30, 2).round().tolist()]
            category = int(random.integers(3))
            crowd = int(random.random() < 1 / 8)
            here.append({"category": category, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd})
            for _ in range(int(random.integers(0, 3))):
                near = np.maximum(np.array(box) + random.normal(0, 2, 4).round(), 1).tolist()
                said.append({"category": category, "bbox": near, "score": float(random.random().__round__(1))})
        said.append({"category": 1, "bbox": [50.0, 40.0, 9.0, 9.0], "score": float(random.random())})
        for each in [*here, *said]:
            each["segmentation"] = mask_of(each["bbox"])
        true.append(here)
        found.append(said)
    return found, true


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_bootstraps_ap_is_cocos(kind: Kind) -> None:
    found, true = random_scenes(30)
    wanted = coco_scores(found, true, [SIZE] * 30, kind)
    assert 0.1 < wanted["AP"] < 0.9
    assert Matches(found, true, kind).average_precision() == pytest.approx(wanted["AP"], abs=1e-6)


def test_a_picture_that_counts_twice() -> None:
    """It is as if it were there twice, but for equal scores, of which there are none here."""
    found, true = random_scenes(12, seed=3)
    for i, picture in enumerate(found):
        for j, each in enumerate(picture):
            each["score"] = (37 * (i + 12 * j) % 101) / 101
    counts = np.ones(12, np.int64)
    counts[[2, 5]] = 0
    fewer = [i for i in range(12) if counts[i]]
    wanted = coco_scores([found[i] for i in fewer], [true[i] for i in fewer], [SIZE] * len(fewer), "bbox")["AP"]
    assert Matches(found, true, "bbox").average_precision(counts) == pytest.approx(wanted, abs=1e-6)


def test_perfect_boxes_score_1_and_those_of_other_pictures_hardly_anything() -> None:
    _, true = random_scenes(40, seed=1)
    true = [[{**each, "iscrowd": 0} for each in picture] for picture in true]
    perfect = [[{**each, "score": 1.0} for each in picture] for picture in true]
    for kind in ("bbox", "segm"):
        scores = coco_scores(perfect, true, [SIZE] * 40, kind)
        assert {scores[name] for name in ("AP", "AP50", "AP75", "APs")} == {1.0}
        assert "APl" not in scores  # nothing is so large
        interval = bootstrap(Matches(perfect, true, kind).average_precision, 40, draws=20)
        assert interval == pytest.approx((1.0, 1.0, 1.0))
        moved = [*perfect[7:], *perfect[:7]]
        assert coco_scores(moved, true, [SIZE] * 40, kind)["AP"] < 0.1


def test_nothing_is_found() -> None:
    _, true = random_scenes(3, seed=2)
    assert coco_scores([[], [], []], true, [SIZE] * 3, "bbox") == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    assert Matches([[], [], []], true, "bbox").average_precision() == 0.0
