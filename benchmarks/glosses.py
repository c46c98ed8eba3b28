"""Glosses of WordNet's nouns: a sentence or two that say what a thing is, in categories.

They come with the Debian package wordnet-base (WordNet's own licence, free to use; 7 MB), which
`headrace.benchmarks.photographs` fetches and unpacks into its cache folder; nothing is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.photographs import debian_package

PACKAGE = "wordnet-base"
FILE = Path("usr/share/wordnet/data.noun")
CATEGORIES = {
    4: "act", 5: "animal", 6: "artifact", 8: "body", 10: "communication", 13: "food", 15: "location", 18: "person",
    20: "plant", 27: "substance",
}  # fmt: skip
"""Numbers of WordNet's lexicographer files (lexnames(5WN)) and their names, those of nouns with 2,000 glosses or
more but for groups, attributes, thoughts and states, which are too much alike."""


@dataclass(frozen=True, kw_only=True)
class Gloss:
    """What one sense of a word means."""

    key: str
    """Unique: the place in WordNet's file."""
    category: str
    """One of CATEGORIES."""
    text: str


def glosses(cache: Path | None = None) -> list[Gloss]:
    """Those of CATEGORIES in the order of WordNet's file (wndb(5WN)), fetched on first use.

    Raises:
        SourceMissing: where they cannot be had.
    """
    path = debian_package(PACKAGE, cache) / FILE
    if not path.exists():
        raise SourceMissing(f"the Debian package {PACKAGE} has no {FILE}")
    found = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            data, bar, text = line.partition(" | ")
            if line.startswith("  ") or not bar:  # the licence
                continue
            key, category = data.split(" ", 2)[:2]
            if int(category) in CATEGORIES:
                found.append(Gloss(key=key, category=CATEGORIES[int(category)], text=text.strip()))
    return found
