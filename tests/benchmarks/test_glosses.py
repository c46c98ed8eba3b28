"""Glosses: which lines of WordNet's file are taken, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.glosses import FILE, PACKAGE, Gloss, glosses

LINES = """\
  1 This software and database is being provided to you, the LICENSEE | by
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is perceived or known
00015388 05 n 06 animal 0 000 | a living organism that can move voluntarily
00021265 13 n 02 food 0 nutrient 0 000 | any substance that can be metabolized | or not
"""


def test_nouns_of_the_categories_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "debian" / PACKAGE / FILE
    path.parent.mkdir(parents=True)
    path.write_text(LINES, encoding="utf-8")
    assert glosses(tmp_path) == [
        Gloss(key="00015388", category="animal", text="a living organism that can move voluntarily"),
        Gloss(key="00021265", category="food", text="any substance that can be metabolized | or not"),
    ]


def test_a_package_without_nouns_is_named(tmp_path: Path) -> None:
    (tmp_path / "debian" / PACKAGE).mkdir(parents=True)
    with pytest.raises(SourceMissing, match=r"wordnet-base has no usr/share/wordnet/data\.noun"):
        glosses(tmp_path)
