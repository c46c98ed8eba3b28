"""Scenes to learn from and to score on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace.shards import ShardSet, open_shards
from tests.train.dense.shapes import write_scenes


@pytest.fixture(scope="session")
def scenes_train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """24 scenes."""
    with open_shards(write_scenes(tmp_path_factory.mktemp("scenes") / "train", 24)) as shards:
        yield shards


@pytest.fixture(scope="session")
def scenes_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """10 others, whose categories are numbered the other way round."""
    path = write_scenes(tmp_path_factory.mktemp("scenes") / "test", 10, seed=1, classes=("triangle", "box"))
    with open_shards(path) as shards:
        yield shards
