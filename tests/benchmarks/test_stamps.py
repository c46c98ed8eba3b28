"""Stamps: which pictures of the package are taken, with which category and caption."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.stamps import FOLDER, PACKAGE, stamps


def test_pictures_with_a_caption_are_taken(tmp_path: Path) -> None:
    root = tmp_path / "debian" / PACKAGE / FOLDER
    captions = {"animals/birds/owl": "An owl.\nde.utf8=Eine Eule.\n", "food/pear": "A pear.\n", "food/empty": "\n"}
    for name, text in captions.items():
        path = root / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.with_suffix(".png").touch()
    (root / "animals/birds/owl_mirror.png").touch()
    (root / "food/apple.svg").touch()
    found = [(each.path.relative_to(root).as_posix(), each.category, each.caption) for each in stamps(tmp_path)]
    assert found == [("animals/birds/owl.png", "animals", "An owl."), ("food/pear.png", "food", "A pear.")]


def test_a_package_without_pictures_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "debian" / PACKAGE).mkdir(parents=True)
    with pytest.raises(SourceMissing, match="has no pictures with captions"):
        stamps(tmp_path)
