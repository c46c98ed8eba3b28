"""Where two sets meet, a label is the class of its name: sets number their classes each by itself."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.shards import Field, open_shards, write_shards
from headrace.tools.cli import main
from headrace.tools.upkeep.compare import compare
from headrace.train import ConfigError, RunError, read_metrics, train
from headrace.train.probes import FinetuneConfig, finetune_probe, matched_labels
from tests.train.tiny_runs import tiny_run

COLOURS = {"cat": (220, 40, 40), "dog": (40, 220, 40), "fox": (40, 40, 220), "owl": (200, 200, 30)}


def picture(name: str, number: int) -> np.ndarray[Any, Any]:
    """uint8 (16, 16, 3) of the colour of a class."""
    noise = np.random.default_rng(number).integers(0, 30, (16, 16, 3), np.uint8)
    return noise + np.uint8(COLOURS[name])


def tree(root: Path, each: int, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(each):
            Image.fromarray(picture(name, number)).save(root / name / f"{number}.png")


def written(path: Path, classes: Sequence[str], labels: Sequence[int], names: Sequence[str] = ()) -> Path:
    """A set whose samples have these labels, and look as `names`, or their classes, say."""
    names = names or [classes[label] if label >= 0 else "owl" for label in labels]
    samples = (
        {"__key__": f"{n:04d}", "image": picture(name, n), "label": label}
        for n, (label, name) in enumerate(zip(labels, names, strict=True))
    )
    fields = {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int", classes=tuple(classes))}
    write_shards(path, samples, fields)
    return path


def matched(tmp_path: Path, ours: Sequence[str], theirs: Sequence[str], labels: Sequence[int]) -> list[int]:
    learn = written(tmp_path / "learn", ours, [0], ["cat"])
    score = written(tmp_path / "score", theirs, labels, ["cat"] * len(labels))
    with open_shards(learn) as ours_opened, open_shards(score) as theirs_opened:
        return matched_labels(ours_opened, theirs_opened)(np.array(labels)).tolist()


DOTTED = "café"


@pytest.mark.parametrize(
    ("ours", "theirs", "labels", "expected"),
    [
        (("cat", "dog", "fox"), ("dog", "fox"), (0, 1, 1, 0), [1, 2, 2, 1]),
        (("cat", "dog", "fox"), ("cat", "dog", "fox"), (0, 1, 2), [0, 1, 2]),
        (("cat", "dog", "fox"), ("fox", "dog", "cat"), (0, 1, 2, -1), [2, 1, 0, -1]),
        (("cat", "dog"), ("bird", "cat", "dog"), (1, 2, 2), [0, 1, 1]),  # a class of no sample does no harm
        (("cat", "dog"), ("dog",), (-1, -1), [-1, -1]),
        ((unicodedata.normalize("NFD", DOTTED), "dog"), ("dog", unicodedata.normalize("NFC", DOTTED)), (0, 1), [1, 0]),
        (("n00000001 tench, Tinca", "n00000002 shark"), ("n00000002", "n00000001"), (0, 1), [1, 0]),
        ((), (), (7, 1 << 40, -2), [7, 1 << 40, -2]),
    ],
)
def test_labels_are_matched_by_name(
    tmp_path: Path, ours: Sequence[str], theirs: Sequence[str], labels: Sequence[int], expected: list[int]
) -> None:
    assert matched(tmp_path, ours, theirs, labels) == expected


@pytest.mark.parametrize(("ours", "theirs"), [(("cat", "dog"), ()), ((), ("cat", "dog"))])
def test_numbers_stay_where_one_set_has_no_names_and_it_is_said(
    tmp_path: Path, ours: Sequence[str], theirs: Sequence[str]
) -> None:
    with pytest.warns(UserWarning, match="has no names for its classes: its labels are taken as the numbers that"):
        assert matched(tmp_path, ours, theirs, (1, 0)) == [1, 0]


@pytest.mark.parametrize(
    ("ours", "theirs", "labels", "match"),
    [
        (
            ("cat", "dog"),
            ("dog", "fox"),
            (0, 1),
            "samples of 1 classes that .*learn has not: fox; it names dog, fox, a",
        ),
        (("cat", "dog"), ("a", "b"), (0, 1), "2 classes that .*: a, b; it names a, b, and .*learn names cat, dog"),
        (("cat", "dog"), ("dog",), (0, 5), "1 classes that .*learn has not: 5"),
        (("cat", "dog"), ("dog",), (0, -3), "1 classes that .*learn has not: -3"),
        (("cat", "cat"), ("cat",), (0,), "two classes have one name"),
        (("cat", "dog"), (), (0, 2), "labels from 0 to 2 and no names for them, and .*learn has 2 classes: cat, dog"),
    ],
)
def test_classes_that_are_not_there_are_refused_with_both_lists(
    tmp_path: Path, ours: Sequence[str], theirs: Sequence[str], labels: Sequence[int], match: str
) -> None:
    with pytest.raises(RunError, match=match) as caught:
        matched(tmp_path, ours, theirs, labels)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train: cat, dog, fox; val: dog, fox; more: dog, owl; a run of three steps on train."""
    root = tmp_path_factory.mktemp("sets")
    tree(root / "src" / "train", 40, "cat", "dog", "fox")
    tree(root / "src" / "val", 10, "dog", "fox")
    tree(root / "more", 10, "dog", "owl")
    for split in ("train", "val"):
        assert main(["shard", "folder", str(root / "src"), str(root / split), "--split", split]) == 0
    assert main(["shard", "folder", str(root / "more"), str(root / "other")]) == 0
    train(tiny_run(root / "train", root / "run", "epochs=1"), progress=False)
    return root


def test_the_split_of_other_classes_is_said(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shard", "folder", str(sets / "src"), str(tmp_path / "val"), "--split", "val"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "other classes" in line)
    assert (
        "val and train have other classes, so that a label is not the same number in both (cat only in train)" in line
    )


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_eval_scores_a_test_set_of_fewer_classes(sets: Path, probe: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", probe, str(sets / "run"), "--data", str(sets / "train"), "--json"]
    assert main([*command, "--test", str(sets / "val")]) == 0
    scores = json.loads(capsys.readouterr().out)["probes"]
    assert scores["input"][probe] == 1.0
    assert main([*command, "--test", str(sets / "other")]) == 1
    said = capsys.readouterr().err
    assert "samples of 1 classes that" in said
    assert "owl; it names dog, owl, and" in said
    assert "names cat, dog, fox" in said


def test_finetuning_scores_a_test_set_of_fewer_classes(sets: Path) -> None:
    from headrace.models.methods.joint.simclr import SimCLR

    config = tiny_run(sets / "train", sets / "unused")
    with open_shards(sets / "train") as learn, open_shards(sets / "val") as score, open_shards(sets / "other") as other:
        method = SimCLR(config.model)
        found = finetune_probe(method, learn, score, FinetuneConfig(epochs=20, batch_size=20, layer_decay=1.0, lr=1e-2))
        assert found > 0.9
        with pytest.raises(RunError, match="owl; it names dog, owl"):
            finetune_probe(method, learn, other, FinetuneConfig(epochs=1))


def test_a_validation_set_of_fewer_classes(sets: Path, tmp_path: Path) -> None:
    probed = ["epochs=1", "probe.every=1", "probe.protocols=[knn]"]
    train(tiny_run(sets / "train", tmp_path / "run", *probed, f"validation={sets / 'val'}"), progress=False)
    (score,) = (record["knn"] for record in read_metrics(tmp_path / "run") if "knn" in record)
    assert score > 0.9
    with pytest.raises(ConfigError, match=r"validation: .*owl; it names dog, owl, and .*names cat, dog, fox"):
        train(tiny_run(sets / "train", tmp_path / "refused", *probed, f"validation={sets / 'other'}"), progress=False)
    assert not (tmp_path / "refused" / "checkpoints").exists()


def test_sets_whose_numbers_have_other_names_are_not_the_same(tmp_path: Path) -> None:
    a = written(tmp_path / "a", ("cat", "dog"), (0, 1), ("cat", "dog"))
    b = written(tmp_path / "b", ("dog", "fox"), (0, 1), ("cat", "dog"))
    with open_shards(a) as one, open_shards(b) as other:
        assert compare(one, other).differences == [
            "field label: int of 2 classes (cat, dog) against int of 2 classes (dog, fox)"
        ]
