"""RandAugment and random erasing beside timm's, on the same draws."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, random_erasing
from torch import Tensor

from headrace.models.seeding import seeded
from headrace.train.probes.augment import CHANGES, Erasing, RandAugment
from headrace.train.probes.finetune import BEIT_BASE, MAE_BASE, FinetuneConfig

FILL = (124, 116, 104)
LEVELS = torch.randint(0, 256, (12, 3, 20, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = LEVELS.float() / 255


def theirs() -> auto_augment.RandAugment:
    parameters = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    return auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", parameters)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


def changed(levels: Tensor, indices: list[int], executor: ThreadPoolExecutor, **settings: Any) -> Tensor:
    keys = {"seed": 0, "epoch": 0, **{name: settings.pop(name) for name in ("seed", "epoch") if name in settings}}
    return RandAugment(**settings).apply(levels, indices, FILL, executor=executor, **keys)


def test_the_changes_are_timms() -> None:
    policy = theirs()
    assert [operation.name for operation in policy.ops] == list(CHANGES)
    assert policy.num_layers == RandAugment().operations
    ours = RandAugment()
    for operation in policy.ops:
        assert (operation.prob, operation.magnitude, operation.magnitude_std) == (
            ours.probability,
            ours.magnitude,
            ours.deviation,
        )


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", CHANGES)
def test_levels_become_timms_arguments(name: str, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.75 if sign < 0 else 0.25)
    timms = auto_augment.LEVEL_TO_ARG[name]
    for level in np.linspace(0, 10, 81):
        expected = timms(level, {}) if timms is not None else ()
        assert CHANGES[name](float(level), sign) == pytest.approx(expected, rel=1e-12)


def test_pictures_are_timms(executor: ThreadPoolExecutor) -> None:
    ours = changed(LEVELS, list(range(len(LEVELS))), executor)
    seen = set()
    for number, levels in enumerate(LEVELS):
        image = Image.fromarray(levels.permute(1, 2, 0).numpy())
        for name, arguments in RandAugment().drawn((0, 0, 0, number)):
            seen.add(name)
            operation = next(each for each in theirs().ops if each.name == name)
            image = operation.aug_fn(image, *arguments, **operation.kwargs)
        assert torch.equal(ours[number], torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert len(seen) > 5


def test_a_picture_is_a_function_of_seed_epoch_and_place(executor: ThreadPoolExecutor) -> None:
    all_of_them = changed(LEVELS, list(range(12)), executor)
    assert torch.equal(changed(LEVELS[5:7], [5, 6], executor), all_of_them[5:7])
    assert not torch.equal(changed(LEVELS, list(range(12)), executor, epoch=1), all_of_them)
    assert not torch.equal(changed(LEVELS, list(range(12)), executor, seed=1), all_of_them)
    assert changed(LEVELS, list(range(12)), executor, magnitude=0.0) is LEVELS


def test_each_change_happens_half_of_the_time() -> None:
    drawn = [RandAugment().drawn((0, 0, 0, number)) for number in range(3000)]
    counts = {name: sum(name == each for changes in drawn for each, _ in changes) for name in CHANGES}
    # Two draws of fifteen with probability a half: 200 of each are expected, with a deviation of 13.6.
    assert 3000 * 2 / 15 / 2 == 200
    assert all(abs(count - 200) < 4.5 * 13.6 for count in counts.values())
    degrees = [arguments[0] for changes in drawn for name, arguments in changes if name == "Rotate"]
    assert all(15 < abs(each) <= 30 for each in degrees)
    assert 0.3 < np.mean(np.array(degrees) > 0) < 0.7
    assert np.abs(degrees).mean() == pytest.approx(27, abs=0.6)


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_rectangles_are_timms(probability: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Erasing(probability=probability)
    timms = random_erasing.RandomErasing(probability, mode="pixel", device="cpu")
    erased = 0
    for number in range(200):
        generator = np.random.default_rng((3, 1, 2, number))
        monkeypatch.setattr(random_erasing.random, "random", generator.random)
        monkeypatch.setattr(random_erasing.random, "uniform", generator.uniform)
        monkeypatch.setattr(random_erasing.random, "randint", lambda low, high, g=generator: int(g.integers(high + 1)))
        with seeded(number):
            of_timm = timms(torch.zeros(3, 20, 28)) != 0
        rectangle = ours.drawn(20, 28, (3, 1, 2, number))
        expected = torch.zeros(3, 20, 28, dtype=torch.bool)
        if rectangle is not None:
            expected[(slice(None), *rectangle)] = True
            erased += 1
        assert torch.equal(of_timm, expected)
    assert erased == 200 if probability == 1.0 else 30 < erased < 70


def test_rectangles_hold_noise_and_nothing_else_changes() -> None:
    with seeded(0):
        erased = Erasing(probability=1.0).apply(IMAGES, list(range(12)), seed=0, epoch=4)
    hidden = erased != IMAGES
    for number in range(12):
        rectangle = Erasing(probability=1.0).drawn(20, 28, (0, 1, 4, number))
        assert rectangle is not None
        rows, columns = rectangle
        assert hidden[(number, slice(None), *rectangle)].all()
        assert hidden[number].sum() == 3 * (rows.stop - rows.start) * (columns.stop - columns.start)
    assert erased[hidden].mean().abs() < 0.1
    assert erased[hidden].std() == pytest.approx(1.0, abs=0.1)
    assert Erasing(probability=0.0).apply(IMAGES, list(range(12)), seed=0, epoch=4) is IMAGES


def test_the_papers_values() -> None:
    for paper in (MAE_BASE, BEIT_BASE):
        assert paper.changes == RandAugment(magnitude=9.0, deviation=0.5, operations=2, probability=0.5)
        assert paper.erasing == Erasing(probability=0.25, area=(0.02, 1 / 3), aspect=(0.3, 1 / 0.3))
    assert FinetuneConfig().changes.magnitude == 0
    assert FinetuneConfig().erasing.probability == 0
    for wrong in ({"rand_augment": 11.0}, {"rand_augment_deviation": -1.0}, {"random_erasing": 1.5}):
        with pytest.raises(ValueError, match="must"):
            FinetuneConfig(**wrong)
