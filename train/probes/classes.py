"""The labels of one set as another counts them: each numbers its classes by itself, and what they share is names."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardSet
from headrace.train.errors import RunError

SHOWN = 10
"""Names that a message lists."""
WORDNET_ID = re.compile(r"(n\d{8})( .*)?")
"""What ImageNet's classes are told by, with their words behind it or without."""


Relabel = Callable[[np.ndarray], np.ndarray]
"""Labels of one set, int64 (n,), to what another set calls them."""


def matched_labels(learn: ShardSet, score: ShardSet, field: str = "label") -> Relabel:
    """What gives the labels of `score` the numbers that their classes, by name, have in `learn`; -1 is none in both.

    Where one of the sets has no names, numbers are all there is, and they stay.

    Raises:
        RunError: if samples of `score` are of a class that `learn` has not, by its name or, where `score` has no names,
            by its number; with the classes of both. Also if two classes of `learn` have one name.
    """
    ours, theirs = learn.fields[field].classes, score.fields[field].classes
    labels = np.unique(score.ints(field))
    used = labels[labels != NO_LABEL].tolist()
    if not ours or not theirs:
        _check_numbers(learn, score, field, used)
        return lambda labels: labels
    if ours == theirs:
        return lambda labels: labels
    numbers = {identity(name): number for number, name in enumerate(ours)}
    if len(numbers) < len(ours):
        raise RunError(
            f"{learn.path}: two classes have one name, so that those of {score.path} cannot be matched by it"
        )
    table = {label: numbers.get(identity(theirs[label])) for label in used if 0 <= label < len(theirs)}
    foreign = [theirs[label] if label in table else str(label) for label in used if table.get(label) is None]
    if foreign:
        raise RunError(
            f"{score.path} has samples of {len(foreign):,} classes that {learn.path} has not: {listed(foreign)}; it "
            f"names {listed(theirs)}, and {learn.path} names {listed(ours)}"
        )
    known = np.array(used, np.int64)
    places = np.array([table[label] for label in used], np.int64)

    def relabel(labels: np.ndarray) -> np.ndarray:
        none = labels == NO_LABEL
        return np.where(none, NO_LABEL, places[np.searchsorted(known, np.where(none, known[0], labels))])

    return relabel if used else lambda labels: labels


def _check_numbers(learn: ShardSet, score: ShardSet, field: str, used: Sequence[int]) -> None:
    """RunError for a number that the names of `learn` do not reach, a warning where one set alone has names."""
    ours, theirs = learn.fields[field].classes, score.fields[field].classes
    if ours and used and not 0 <= used[0] <= used[-1] < len(ours):
        raise RunError(
            f"{score.path} has labels from {used[0]} to {used[-1]} and no names for them, and {learn.path} has "
            f"{len(ours)} classes: {listed(ours)}"
        )
    if ours or theirs:
        nameless, named = (score, learn) if ours else (learn, score)
        warnings.warn(
            f"{nameless.path} has no names for its classes: its labels are taken as the numbers that {named.path} "
            "gives to its own",
            stacklevel=2,
        )


def identity(name: str) -> str:
    """What two spellings of the name of a class have in common: a Mac writes the accents of file names apart."""
    found = WORDNET_ID.fullmatch(name)
    return found[1] if found else unicodedata.normalize("NFC", name)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
