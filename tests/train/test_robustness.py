"""Robustness: a frozen encoder and a head of clean features, on corrupted pictures and on other sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.pipeline import Batch, ViewSpec, center_view
from headrace.pipeline.corruptions import FAMILIES, SCORED, corrupt
from headrace.shards import ShardSet, open_shards, write_shards
from headrace.train import RunError
from headrace.train.probes import (
    CorruptionConfig,
    CorruptionOutcomes,
    LinearHead,
    corruption_outcomes,
    extract_features,
    fit_linear,
    shift_outcomes,
)
from headrace.train.probes.robustness import ALEXNET
from tests.conftest import DIGIT_FIELDS, digit_samples

VIEWS = center_view(28)


def pixels(batch: Batch) -> Tensor:
    return F.avg_pool2d(batch.normalized()[0], 4).flatten(1)


def as_they_are(labels: np.ndarray) -> np.ndarray:
    return labels


@pytest.fixture(scope="module")
def head(digits_webdataset: ShardSet) -> LinearHead:
    return fit_linear(*extract_features(pixels, digits_webdataset, VIEWS), penalties=[0.1])


def test_the_same_pictures_are_corrupted_and_classified_one_by_one(
    digits_webdataset: ShardSet, head: LinearHead
) -> None:
    names = ("gaussian_noise", "contrast", "elastic_transform", "pixelate")
    config = CorruptionConfig(corruptions=names, severities=(2, 5), seed=9)
    found = corruption_outcomes(pixels, head, digits_webdataset, VIEWS, as_they_are, config, batch_size=64)
    again = corruption_outcomes(pixels, head, digits_webdataset, VIEWS, as_they_are, config, batch_size=33, threads=2)
    seen = np.stack([digits_webdataset.read(i)["image"] for i in range(len(digits_webdataset))])
    labels = digits_webdataset.ints()

    def right(images: np.ndarray) -> np.ndarray:
        views = [torch.from_numpy(images).permute(0, 3, 1, 2)]
        return head.predict(pixels(Batch.of_views(views, [VIEWS.views[0].normalize])).numpy()) == labels

    assert np.array_equal(found.clean, right(seen))
    assert found.clean.mean() > 0.9
    for name in names:
        assert np.array_equal(found.corrupted[name], again.corrupted[name])
        for row, severity in zip(found.corrupted[name], config.severities, strict=True):
            copies = np.stack([corrupt(x, name, severity, seed=9, sample=i) for i, x in enumerate(seen)])
            assert np.array_equal(row, right(copies))
    assert found.scores()["corrupted"].value > found.scores()["clean"].value


def test_a_jpeg_in_between_is_another_setting(digits_webdataset: ShardSet, head: LinearHead) -> None:
    def shown(quality: int | None) -> list[Tensor]:
        seen: list[Tensor] = []

        def encode(batch: Batch) -> Tensor:
            seen.append(batch.views[0])
            return pixels(batch)

        config = CorruptionConfig(corruptions=("contrast",), severities=(1,), saved_quality=quality)
        found = corruption_outcomes(encode, head, digits_webdataset, VIEWS, as_they_are, config, batch_size=200)
        assert found.settings["saved as a JPEG of quality"] == quality
        assert found.settings["parameters"] == "the authors' for 32 pixels"
        return seen

    (clean, plain), (also_clean, saved) = shown(None), shown(85)
    assert torch.equal(clean, also_clean)
    assert 0.1 < (plain.float() - saved.float()).abs().mean() < 5


def outcomes(size: int, classes: int, right: dict[str, float]) -> CorruptionOutcomes:
    """Of ten samples, of which a share is right at every severity."""
    rows = {name: np.tile(np.arange(10) < 10 * share, (5, 1)) for name, share in right.items()}
    config = CorruptionConfig(corruptions=tuple(right))
    return CorruptionOutcomes(clean=np.ones(10, bool), corrupted=rows, size=size, classes=classes, config=config)


def test_scores_by_hand() -> None:
    right = {name: 0.2 if name in FAMILIES["blur"] else 0.7 for name in SCORED}
    found = outcomes(224, 1000, right).scores()
    assert found["clean"].value == 0
    assert found["blur"].value == pytest.approx(0.8)
    assert found["noise"].value == pytest.approx(0.3)
    assert found["corrupted"].value == pytest.approx((4 * 0.8 + 11 * 0.3) / 15)
    assert found["added"].value == pytest.approx(found["corrupted"].value)
    ratios = [(1 - right[name]) / ALEXNET[name] for name in SCORED]
    assert found["mCE, AlexNet-normalised, ImageNet-C-like"].value == pytest.approx(np.mean(ratios))
    assert found["blur"].low < 0.8 < found["blur"].high
    assert outcomes(224, 1000, right).curves()["fog"] == pytest.approx([0.3] * 5)


def test_nothing_is_divided_by_alexnet_where_it_means_nothing() -> None:
    right = dict.fromkeys(SCORED, 0.5)
    for size, classes, some in ((32, 1000, right), (224, 10, right), (224, 1000, {"fog": 0.5})):
        assert not any("AlexNet" in name for name in outcomes(size, classes, some).scores())
    assert "weather" not in outcomes(224, 1000, {"fog": 0.5}).scores()


def test_alexnets_errors_stand_by_the_names_of_their_corruptions() -> None:
    assert sorted(ALEXNET, key=ALEXNET.__getitem__)[:2] == ["brightness", "jpeg_compression"]
    assert max(ALEXNET, key=ALEXNET.__getitem__) == "impulse_noise"
    assert set(ALEXNET) == set(SCORED)


def test_another_set_of_the_same_classes(digits_webdataset: ShardSet, head: LinearHead, tmp_path: Path) -> None:
    """Sevens and ones alone, whose classes are numbered otherwise."""
    few = [
        sample | {"label": "71".index(str(sample["label"]))}
        for sample in digit_samples(20)
        if sample["label"] in (1, 7)
    ]
    fields = DIGIT_FIELDS | {"label": replace(DIGIT_FIELDS["label"], classes=("7", "1"))}
    write_shards(tmp_path / "few", iter(few), fields)
    labels = digits_webdataset.ints()
    same = head.predict(extract_features(pixels, digits_webdataset, VIEWS)[0]) == labels
    with open_shards(tmp_path / "few") as other:
        found = shift_outcomes(pixels, head, digits_webdataset, other, VIEWS)
        assert sorted(found) == sorted(same[(labels == 1) | (labels == 7)])
        confused = replace(head, classifier=(head.classifier[0], head.classifier[1] + 100 * torch.eye(10)[3]))
        assert not shift_outcomes(pixels, confused, digits_webdataset, other, VIEWS).any()
        assert shift_outcomes(pixels, confused, digits_webdataset, other, VIEWS, present_only=True).mean() > 0.9


@pytest.mark.parametrize(
    ("field", "value"),
    [("severities", (0, 1)), ("severities", ()), ("corruptions", ("rain",)), ("corruptions", ("fog", "fog"))],
)
def test_bad_settings(field: str, value: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=f"CorruptionConfig.{field} must be different ones"):
        CorruptionConfig(**{field: value})
    with pytest.raises(ValueError, match="saved_quality"):
        CorruptionConfig(saved_quality=0)


def test_what_cannot_be_scored(digits_webdataset: ShardSet, head: LinearHead) -> None:
    with pytest.raises(RunError, match="single images"):
        corruption_outcomes(pixels, head, digits_webdataset, {"image": VIEWS}, as_they_are)
    tiny = ViewSpec([replace(VIEWS.views[0], size=4)])
    with pytest.raises(RunError, match="at least 8"):
        corruption_outcomes(pixels, head, digits_webdataset, tiny, as_they_are)
