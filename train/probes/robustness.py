"""A frozen encoder and a linear head that learnt on clean pictures, scored on corrupted ones and on other sets.

Source: arXiv 1903.12261; hendrycks/robustness at 8190fe3. What is ours in the corruptions, so that scores are
"ImageNet-C-like", is said in `headrace.pipeline.corruptions`. There pictures are resized to 256 pixels and the centre
of 224 is cut out; here the largest centred square is resized to what the encoder is shown.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headrace.pipeline import Batch, Inputs, Loader, ViewSpec
from headrace.pipeline.corruptions import CORRUPTIONS, FAMILIES, SCORED, SEVERITIES, SMALLEST, corrupt, table_of
from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardSet
from headrace.shards.machine import cores
from headrace.train.errors import NotFiniteError, RunError
from headrace.train.probes.classes import Relabel, matched_labels
from headrace.train.probes.features import evaluating, extract_features
from headrace.train.probes.intervals import Measured, mean_interval
from headrace.train.probes.linear import LinearHead

ALEXNET: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's errors on ImageNet-C, means over severities, by which the paper divides."""
IMAGENET_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """Which corrupted copies of the test set score."""

    corruptions: tuple[str, ...] = SCORED
    """Names out of `headrace.pipeline.corruptions.CORRUPTIONS`."""
    severities: tuple[int, ...] = SEVERITIES
    """1 to 5; 0 would be the clean picture."""
    seed: int = 0
    """Of the corruptions: with it, the corruption, the severity and the sample's place in the set, they are given."""
    saved_quality: int | None = None
    """Quality of the JPEG that each corrupted picture is saved as before it is shown; the authors' files have 85. None
    shows the levels as they are."""

    def __post_init__(self) -> None:
        for name, known in (("corruptions", CORRUPTIONS), ("severities", SEVERITIES)):
            asked: tuple[Any, ...] = getattr(self, name)
            if not asked or len(set(asked)) < len(asked) or not set(asked) <= set(known):
                listed = ", ".join(map(str, known))
                raise ValueError(f"CorruptionConfig.{name} must be different ones of {listed}, got {asked}")
        if self.saved_quality is not None and not 1 <= self.saved_quality <= 95:
            raise ValueError(f"CorruptionConfig.saved_quality must lie in [1, 95], got {self.saved_quality}")


@dataclass(frozen=True, kw_only=True)
class CorruptionOutcomes:
    """What became of each of the n samples that have a label, in stored order. S severities."""

    clean: np.ndarray
    """bool (n,): rightly classified without corruption."""
    corrupted: Mapping[str, np.ndarray]
    """bool (S, n) by the corruption's name."""
    size: int
    """Side of the pictures, in pixels."""
    classes: int
    """Among which the head chose."""
    config: CorruptionConfig

    @property
    def settings(self) -> dict[str, Any]:
        """What scores depend on beside encoder and data."""
        return {
            "corruptions": list(self.config.corruptions),
            "severities": list(self.config.severities),
            "seed": self.config.seed,
            "size": self.size,
            "parameters": f"the authors' for {table_of(self.size)} pixels",
            "saved as a JPEG of quality": self.config.saved_quality,
        }

    def curves(self) -> dict[str, list[float]]:
        """Errors, 0 to 1, of each corruption at each severity."""
        return {name: [float(1 - row.mean()) for row in rows] for name, rows in self.corrupted.items()}

    def scores(self) -> dict[str, Measured]:
        """Errors with their intervals, the lower the better.

        "clean"; "corrupted", the mean over corruptions and severities; "added", the difference of the two; a family of
        corruptions by its name, where all of it was asked for; and "mCE, AlexNet-normalised, ImageNet-C-like", the
        paper's ratio, where it means anything: for pictures of 224 pixels, 1000 classes, all 15 corruptions and all
        severities.
        """
        clean = 1.0 - self.clean
        of_each = {name: 1.0 - rows.mean(0) for name, rows in self.corrupted.items()}
        overall = np.mean(list(of_each.values()), axis=0)
        found = {"clean": clean, "corrupted": overall, "added": overall - clean}
        for family, names in FAMILIES.items():
            if set(names) <= set(of_each):
                found[family] = np.mean([of_each[name] for name in names], axis=0)
        complete = set(of_each) >= set(SCORED) and set(self.config.severities) == set(SEVERITIES)
        if complete and self.size == 224 and self.classes == IMAGENET_CLASSES:
            label = "mCE, AlexNet-normalised, ImageNet-C-like"
            found[label] = np.mean([of_each[name] / ALEXNET[name] for name in SCORED], axis=0)
        return {name: mean_interval(outcomes) for name, outcomes in found.items()}


@torch.no_grad()
def corruption_outcomes(
    encode: Callable[[Batch], Tensor],
    head: LinearHead,
    test: ShardSet,
    inputs: Inputs,
    relabel: Relabel,
    config: CorruptionConfig | None = None,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    max_bad: int | None = None,
) -> CorruptionOutcomes:
    """Classify every sample of `test` clean and corrupted; each is decoded once.

    Args:
        encode: a batch of `inputs` on `device` to (B, D); as in `extract_features`.
        head: fitted on clean features of a training set.
        test: a set with labels.
        inputs: one centred view of an image; a method's `probe_inputs`. Corruption comes behind resize and crop, and
            before normalisation.
        relabel: from labels of `test` to those that the head was fitted on; see `matched_labels`.
        config: which corruptions.
        batch_size: for speed alone.
        device: where `encode` computes.
        threads: that decode and corrupt; None takes all cores.
        max_bad: bad samples to put up with, which are left out; None ends with the first.

    Raises:
        RunError: if the encoder is shown no pictures or too small ones, or the set has no labels, or no sample has one.
        NotFiniteError: if features are not finite.
        ShardError: for a sample that cannot be decoded, as `max_bad` says.
    """
    config = config or CorruptionConfig()
    if not isinstance(inputs, ViewSpec):
        raise RunError("corruptions are of single images, and this encoder is shown something else")
    if inputs.views[0].size < SMALLEST:
        raise RunError(
            f"corruptions want at least {SMALLEST} pixels a side, and the encoder is shown {inputs.views[0].size}"
        )
    if "label" not in test.fields:
        raise RunError(f"{test.path}: has no label field, which robustness needs{test.omitted.hint}")
    clean: list[np.ndarray] = []
    corrupted: dict[str, list[np.ndarray]] = {name: [] for name in config.corruptions}
    policy: dict[str, Any] = {} if max_bad is None else {"on_error": "skip", "max_bad": max_bad}
    loader = Loader(test, inputs, batch_size, shuffle=False, drop_last=False, threads=threads, **policy)

    def right(batch: Batch) -> np.ndarray:
        features = encode(batch.to(device)).float().cpu().numpy()
        if not np.isfinite(features).all():
            raise NotFiniteError(f"{test.path}: features of it are not finite, so that no probe means anything")
        assert batch.labels is not None
        return np.asarray(head.predict(features) == relabel(batch.labels.numpy()))

    with loader, evaluating(encode), ThreadPoolExecutor(threads or cores()) as pool:
        for batch in loader:
            assert batch.labels is not None
            known = batch.labels.numpy() != NO_LABEL
            clean.append(right(batch)[known])
            for name in config.corruptions:
                rows = [right(copy)[known] for copy in _copies(batch, name, config, pool)]
                corrupted[name].append(np.stack(rows))
    if not sum(map(len, clean)):
        raise RunError(f"{test.path}: every label is {NO_LABEL}, which stands for none, and robustness needs some")
    return CorruptionOutcomes(
        clean=np.concatenate(clean),
        corrupted={name: np.concatenate(parts, axis=1) for name, parts in corrupted.items()},
        size=inputs.views[0].size,
        classes=len(head.classes),
        config=config,
    )


def _copies(batch: Batch, name: str, config: CorruptionConfig, pool: ThreadPoolExecutor) -> Iterator[Batch]:
    """The batch with its pictures corrupted, at each severity."""
    ((stream, part),) = batch.streams.items()
    pictures = part.views[0].permute(0, 2, 3, 1).contiguous().numpy()  # (B, S, S, 3)

    def one(place: int, severity: int) -> np.ndarray:
        made = corrupt(pictures[place], name, severity, seed=config.seed, sample=int(batch.index[place]))
        return made if config.saved_quality is None else _saved(made, config.saved_quality)

    for severity in config.severities:
        made = np.stack(list(pool.map(lambda place, severity=severity: one(place, severity), range(len(pictures)))))
        view = torch.from_numpy(made).permute(0, 3, 1, 2)  # channels-last in memory
        yield replace(batch, streams={stream: replace(part, views=[view])})


def _saved(pixels: np.ndarray, quality: int) -> np.ndarray:
    """What is left of a picture in a JPEG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, optimize=True)
    return np.asarray(Image.open(stream))


def shift_outcomes(
    encode: Callable[[Batch], Tensor],
    head: LinearHead,
    learn: ShardSet,
    other: ShardSet,
    inputs: Inputs,
    *,
    present_only: bool = False,
    **options: Any,
) -> np.ndarray:
    """bool (n,): which samples of another set of the same classes, such as photographs of another kind, the head
    classifies rightly; their mean is an accuracy under natural shift.

    Args:
        encode, inputs: as in `extract_features`.
        head: fitted on features of `learn`.
        learn, other: classes are told by their names; see `matched_labels`, also for what it raises.
        present_only: choose among the classes that `other` has samples of, as is done where a set has 200 of
            ImageNet's classes (ImageNet-R, arXiv 2006.16241; ImageNet-A, arXiv 1907.07174); by default among all.
        options: of `extract_features`.
    """
    x, labels = extract_features(encode, other, inputs, **options)
    wanted = matched_labels(learn, other)(labels)
    scores = head.scores(x)
    if present_only:
        scores[:, ~np.isin(head.classes, wanted)] = -np.inf
    return np.asarray(head.classes[scores.argmax(1)] == wanted)
