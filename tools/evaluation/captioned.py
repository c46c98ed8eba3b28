"""The protocol that scores a file of captions against the references of a set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.shards import ShardSet
from headrace.tools.errors import UserError
from headrace.tools.evaluation.protocol import FileTask, Outcome, Protocol
from headrace.train.captions import meteor_words, score_captions
from headrace.train.probes.intervals import bootstrap
from headrace.train.probes.towers import captions_of

IMAGE_ID = "image_id"


@dataclass(frozen=True, kw_only=True)
class CaptionsSettings:
    """Of `captions`."""

    field: str | None = None
    """Of the set, with the references; None takes the first of captions, caption, text and txt."""
    meteor: str = ""
    """METEOR's jar, for its lists of function words and synonyms; empty takes that of pycocoevalcap if it is
    installed. No Java runs."""
    wordnet: str = ""
    """Folder with WordNet's files, for synonyms in the place of the jar's; empty takes the jar's, else Debian's."""


def measure_captions(task: FileTask) -> Outcome:
    settings: CaptionsSettings = task.settings
    captions = read_predictions(task.path, task.shards)
    references = captions_of(task.shards, np.arange(len(task.shards)), settings.field)
    words = meteor_words(jar=_path(settings.meteor), wordnet=_path(settings.wordnet))
    found = score_captions(references, captions, words=words)
    metrics = {name: bootstrap(of_set, found.images) for name, of_set in found.weighed.items()}
    first = "CIDEr-D"
    return Outcome(
        metrics={first: metrics.pop(first), **metrics},
        details={"images": found.images, "references": sum(map(len, references)), "meteor": words.name},
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def read_predictions(path: Path, shards: ShardSet) -> list[str]:
    """The caption of each sample of a set, in stored order, of a JSON file as COCO's server takes it: a list of
    `{"image_id": 42, "caption": "a red apple"}`, or with "key" in the place of "image_id", the sample's key.

    Raises:
        UserError: naming what is wrong: not such a list, a sample that the set has not, one that has two captions or
            none.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: holds no list of captions")
    keys = [shards.key(number) for number in range(len(shards))]
    places: dict[str, Mapping[Any, int]] = {"key": {key: number for number, key in enumerate(keys)}}
    if IMAGE_ID in shards.fields:
        places[IMAGE_ID] = {int(of_image): number for number, of_image in enumerate(shards.ints(IMAGE_ID))}
    found: list[str | None] = [None] * len(shards)
    for count, entry in enumerate(entries):
        where = f"{path}: entry {count}"
        name = next((name for name in ("key", IMAGE_ID) if isinstance(entry, dict) and name in entry), None)
        if name is None or not isinstance(entry.get("caption"), str):
            raise UserError(f'{where} is not {{"key" or "{IMAGE_ID}": ..., "caption": "..."}}')
        if name not in places:
            raise UserError(f"{where} names its sample by {IMAGE_ID}, and {shards.path} has no such field: give a key")
        value = entry[name]
        number = places[name].get(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
        if number is None:
            raise UserError(f"{where}: {shards.path} has no sample with {name} {value!r}")
        if found[number] is not None:
            raise UserError(f"{where}: the sample with {name} {value!r} has a caption already")
        found[number] = entry["caption"]
    missing = [key for key, caption in zip(keys, found, strict=True) if caption is None]
    if missing:
        raise UserError(f"{path}: has no caption for {len(missing):,} samples of {shards.path}, such as {missing[0]!r}")
    return [caption for caption in found if caption is not None]


CAPTIONS = Protocol(
    name="captions",
    version=1,
    title="captions",
    metric="CIDEr-D",
    measure=measure_captions,
    settings=CaptionsSettings(),
    definition='A file with one caption for each sample of the set, a list of {"key" or "image_id": ..., '
    '"caption": ...}, is scored against all the sample\'s references: BLEU-1 to 4 of the set, ROUGE-L, CIDEr-D (0 to '
    "10) and METEOR, whose name says what it compares. Words are cut as Stanford's PTBTokenizer cuts them, in lower "
    "case, without punctuation. In the intervals, CIDEr-D keeps the rarity of words in the whole set.",
    source="tylin/coco-caption at 3a9afb2; METEOR 1.5: cmu-mtlab/meteor at 57a9ec5, without its table of paraphrases",
    cost="Seconds to minutes, most of it METEOR's alignments.",
    incomparable="METEOR with paraphrases, or of 2005 as NLTK has it; BLEU with smoothing or as a mean over images; "
    "CIDEr-D on another set, whose rarity of words differs; captions that were tokenised otherwise.",
    encoders=(),
    share=False,
    labels=False,
    of_file=True,
)
