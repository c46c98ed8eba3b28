"""ROUGE-L: the longest common subsequence of a caption and its references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BETA = 1.2
"""Recall weighs so much more than precision."""


def rouge_l(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> np.ndarray:
    """ROUGE-L of each image, float64 (n,), from 0 to 1; the corpus has their mean.

    Precision and recall are the best of any reference, and may be of two.

    Source: tylin/coco-caption at 3a9afb2, pycocoevalcap/rouge/rouge.py; ROUGE-L is Lin, 2004.
    """
    found = np.zeros(len(hypotheses))
    for number, (of_image, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        words = hypothesis.split(" ")
        common = [(_common(words, others := reference.split(" ")), len(others)) for reference in of_image]
        precision = max(length for length, _ in common) / len(words)
        recall = max(length / others for length, others in common)
        if precision and recall:
            found[number] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return found


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = row
        row = [0]
        for place, other in enumerate(second):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
    return row[-1]
