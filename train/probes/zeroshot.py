"""Classification by names: the class whose texts are nearest to an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from headrace.models import Method
from headrace.shards import ShardSet
from headrace.train.errors import RunError
from headrace.train.probes.features import evaluating, extract_features
from headrace.train.probes.towers import embedded_strings, tower_of

PLACE = "{}"
"""Where a template has the name of the class."""
BATCH = 256


class NamedClasses(NamedTuple):
    """What an image tower's rows were told from."""

    truth: np.ndarray
    """int64 (n,): labels of the samples that have one."""
    predicted: np.ndarray
    """int64 (n,)."""


def class_names(path: Path) -> list[str]:
    """The names of the classes, a line each, in the order of their labels.

    Raises:
        RunError: naming the line that is empty or is there twice.
    """
    names = _lines(path)
    lines: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if lines.setdefault(name, number) != number:
            raise RunError(f"{path}:{number}: the class {name!r} stands in line {lines[name]} already")
    return names


def templates(path: Path) -> list[str]:
    """What is said of a class, a line each, with `{}` in the place of its name.

    Raises:
        RunError: naming the line that is empty or has not one place for a name.
    """
    found = _lines(path)
    for number, template in enumerate(found, 1):
        if template.count(PLACE) != 1:
            raise RunError(f"{path}:{number}: a template has {PLACE} once, for the name of the class: {template!r}")
    return found


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read as lines of text ({error})") from None
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if lines == [""]:
        raise RunError(f"{path}: is empty")
    for number, line in enumerate(lines, 1):
        if not line:
            raise RunError(f"{path}:{number}: is empty")
    return lines


@torch.no_grad()
def class_rows(
    method: Method, names: Sequence[str], templates: Sequence[str], *, device: torch.device | str = "cpu"
) -> np.ndarray:
    """The classifier, float32 (classes, D): of each class the mean over templates of the text tower's rows of length 1,
    at length 1 again.

    Source: openai/CLIP at d05afc4, notebooks/Prompt_Engineering_for_ImageNet.ipynb; arXiv 2103.00020, section 3.1.4.

    Raises:
        RunError: if the method has no tower of texts, or finds no token in a prompt.
    """
    prompts = [template.replace(PLACE, name) for name in names for template in templates]
    sums: np.ndarray | None = None
    done = 0
    for rows in embedded_strings(method, prompts, batch_size=BATCH, device=device):
        if sums is None:
            sums = np.zeros((len(names), rows.shape[1]))
        of_class = np.arange(done, done + len(rows)) // len(templates)
        np.add.at(sums, of_class, rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12))
        done += len(rows)
    if sums is None:
        raise RunError("zero-shot classification needs a class and a template")
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)


def zero_shot(
    method: Method,
    shards: ShardSet,
    names: Sequence[str],
    templates: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    max_bad: int | None = None,
) -> NamedClasses:
    """The class of each sample of a set by the nearest of `class_rows`, the first of equals.

    Args:
        names: of the classes, in the order of the set's labels.
        max_bad: as in `extract_features`.

    Raises:
        RunError: if the method has no towers of images and texts, the set has no labels, or another number of classes.
    """
    image = tower_of(method, "image")
    if "label" not in shards.fields:
        raise RunError(f"{shards.path}: has no label field, which zero-shot classification is scored by")
    if (theirs := shards.fields["label"].classes) and len(theirs) != len(names):
        raise RunError(f"{shards.path} has {len(theirs)} classes, and {len(names)} are named")
    classifier = class_rows(method, names, templates, device=device)
    with evaluating(method):
        rows, truth = extract_features(
            image.embed, shards, image.inputs, device=device, threads=threads, max_bad=max_bad
        )
    if not 0 <= truth.min() <= truth.max() < len(names):
        raise RunError(f"{shards.path} has labels from {truth.min()} to {truth.max()}, and {len(names)} are named")
    return NamedClasses(truth, (rows @ classifier.T).argmax(axis=1))
