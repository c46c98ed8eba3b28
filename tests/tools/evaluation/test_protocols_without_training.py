"""Retrieval, zero-shot classification, meters of collapse and captions through the command line, on real digits."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.models import METHODS
from headrace.shards import Field, ShardSet, write_shards
from headrace.tools.cli import main
from headrace.tools.errors import UserError
from headrace.tools.evaluation.evaluate import evaluate
from headrace.train import load_run, train
from headrace.train.captions import score_captions
from headrace.train.probes import extract_features
from headrace.train.probes.retrieval import label_retrieval
from tests.conftest import DIGIT_FIELDS, digit_samples
from tests.models.tiny_methods import TINY, require_libraries
from tests.train.tiny_runs import tiny_run

INTERVAL = {"value", "low", "high"}


@pytest.fixture(scope="module")
def digits_run(digits_webdataset: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simclr") / "run"
    train(tiny_run(digits_webdataset.path, out, "epochs=1"))
    return out


@pytest.fixture(scope="module")
def clip_run(captions_webdataset: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_libraries("clip")
    out = tmp_path_factory.mktemp("clip") / "run"
    config = tiny_run(captions_webdataset.path, out, "epochs=1")
    train(replace(config, method="clip", model=replace(METHODS["clip"].config(), **TINY["clip"])))
    return out


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def protocol(capsys: pytest.CaptureFixture[str], name: str, *words: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told(capsys, "eval", name, *words, "--json"))["protocols"][name]
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main([str(word) for word in words]) != 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def check_intervals(metrics: dict[str, dict[str, float]]) -> None:
    for found in metrics.values():
        assert set(found) == INTERVAL
        assert found["low"] <= found["value"] <= found["high"]


def test_retrieval(digits_run: Path, digits_webdataset: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--data", digits_webdataset.path, "--test", digits_webdataset.path]
    found = protocol(capsys, "retrieval", digits_run, *places)["encoders"]
    assert list(found) == ["input", "untrained", "trained"]
    method = load_run(digits_run)[1]
    x, labels = extract_features(method.encode, digits_webdataset, method.probe_inputs)
    judge = label_retrieval(x, labels)
    assert found["trained"]["metrics"]["mAP"]["value"] == pytest.approx(judge.precision.mean())
    assert found["trained"]["metrics"]["recall@5"]["value"] == pytest.approx(judge.hits[5].mean())
    assert found["trained"]["details"] == {"queries": 200, "samples": 200}
    assert found["input"]["metrics"]["mAP"]["value"] > 0.2  # of ten classes alike
    for each in found.values():
        assert list(each["metrics"]) == ["mAP", "mAP@R", "recall@1", "recall@5", "recall@10"]
        check_intervals(each["metrics"])
    assert "recall@10" in told(capsys, "eval", "retrieval", digits_run, *places)


def test_meters(digits_run: Path, digits_webdataset: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--images", "20", "--views", "3"]
    found = protocol(capsys, "meters", digits_run, "--data", digits_webdataset.path, *few)
    assert found["settings"]["images"] == 20
    assert list(found["encoders"]) == ["untrained", "trained"]
    for each in found["encoders"].values():
        assert list(each["metrics"]) == ["rank_me", "lidar", "alignment", "uniformity", "deviation"]
        assert each["details"] == {"samples": 200, "images": 20, "views": 3, "features": 8}
        assert 1 <= each["metrics"]["rank_me"]["value"] <= 8
        check_intervals(each["metrics"])
    error = refused(capsys, "eval", "meters", digits_run, "--data", digits_webdataset.path, "--views", "1")
    assert "views must be at least 2" in error


def test_retrieval_between_towers(
    clip_run: Path, captions_webdataset: ShardSet, digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = protocol(capsys, "retrieval_text", clip_run, "--data", captions_webdataset.path)["encoders"]
    assert list(found) == ["untrained", "trained"]
    for each in found.values():
        metrics, details = each["metrics"], each["details"]
        check_intervals(metrics)
        assert next(iter(metrics)) == "image_to_text_recall@1"
        # 200 images; "a 3" is one text of 20 images, the other caption is each image's own.
        assert (details["images"], details["texts"]) == (200, 210)
        assert metrics["text_to_image_recall@1"]["value"] <= metrics["text_to_image_recall@10"]["value"]
        check_intervals(details["median_rank"])
        assert 1 <= details["median_rank"]["image_to_text"]["value"] <= 210
        assert 0 <= details["mean_recall"] <= 1
    error = refused(capsys, "eval", "retrieval_text", digits_run, "--data", captions_webdataset.path)
    assert "SimCLR has no towers, and this needs one of texts" in error


def test_zero_shot(
    clip_run: Path, captions_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, said = tmp_path / "names.txt", tmp_path / "templates.txt"
    names.write_text("\n".join(f"number {digit}" for digit in range(10)), encoding="utf-8")
    said.write_text("a {}\nthe digit {} of its class\n", encoding="utf-8")
    words = ["--data", captions_webdataset.path, "--classes", names, "--templates", said]
    found = protocol(capsys, "zeroshot", clip_run, *words)["encoders"]
    assert list(found) == ["untrained", "trained"]
    for each in found.values():
        check_intervals(each["metrics"])
        # As many samples of each class: both means are the same.
        assert each["metrics"]["accuracy"]["value"] == pytest.approx(each["metrics"]["accuracy_of_classes"]["value"])
        assert each["details"]["templates"] == ["a {}", "the digit {} of its class"]
        assert np.sum(each["details"]["confusion"]["counts"]) == 200
    own = protocol(capsys, "zeroshot", clip_run, "--data", captions_webdataset.path)["encoders"]
    assert own["trained"]["details"]["classes"] == list("0123456789")
    said.write_text("a {}\nnothing\n", encoding="utf-8")
    assert "templates.txt:2: a template has {} once" in refused(capsys, "eval", "zeroshot", clip_run, *words)


@pytest.mark.peer("snowballstemmer")
def test_captions(captions_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = captions_webdataset
    captions = [f"a digit {number % 7}" for number in range(len(shards))]
    references = [shards.read(number, ["captions"])["captions"] for number in range(len(shards))]
    file = tmp_path / "predictions.json"

    def write(entries: Any) -> None:
        file.write_text(json.dumps(entries), encoding="utf-8")

    entries = [{"key": shards.key(number), "caption": caption} for number, caption in enumerate(captions)]
    write(entries[::-1])
    words = [file, "--data", shards.path]
    found = protocol(capsys, "captions", *words)
    judge = score_captions(references, captions)
    assert {name: each["value"] for name, each in found["metrics"].items()} == pytest.approx(dict(judge.corpus))
    assert next(iter(found["metrics"])) == found["metric"] == "CIDEr-D"
    check_intervals(found["metrics"])
    assert found["details"]["references"] == 400
    assert "ROUGE-L" in told(capsys, "eval", "captions", *words)

    for wrong, message in (
        ({"a": 1}, "holds no list of captions"),
        ([*entries, {"key": "x", "caption": "a"}], "entry 200: .* has no sample with key 'x'"),
        ([*entries, entries[0]], "entry 200: the sample with key '000000' has a caption already"),
        (entries[2:], "has no caption for 2 samples of .*, such as '000000'"),
        ([{"key": "000000"}], 'entry 0 is not {"key" or "image_id": ..., "caption": "..."}'),
        ([{"image_id": 1, "caption": "a"}], "names its sample by image_id, and .* has no such field"),
    ):
        write(wrong)
        error = refused(capsys, "eval", "captions", *words)
        assert str(file) in error
        assert re.search(message, error), error
    file.write_text("[", encoding="utf-8")
    assert "cannot be read as JSON" in refused(capsys, "eval", "captions", *words)
    assert "name it with --data alone" in refused(capsys, "eval", "captions", *words, "--test", shards.path)


@pytest.mark.peer("snowballstemmer")
def test_captions_by_cocos_numbers_of_images(
    tmp_path: Path, digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["a red apple on the table", "a brown dog runs"]
    samples = [
        {**sample, "image_id": 391895 + number, "captions": [texts[number]]}
        for number, sample in zip(range(2), digit_samples(1), strict=False)
    ]
    fields = {**DIGIT_FIELDS, "image_id": Field(kind="int"), "captions": Field(kind="json")}
    write_shards(tmp_path / "set", samples, fields)
    file = tmp_path / "predictions.json"
    entries = [{"image_id": 391896, "caption": texts[1]}, {"image_id": 391895, "caption": texts[0]}]
    file.write_text(json.dumps(entries), encoding="utf-8")
    found = protocol(capsys, "captions", file, "--data", tmp_path / "set")
    assert found["metrics"]["CIDEr-D"]["value"] == pytest.approx(10)
    assert found["metrics"]["ROUGE-L"]["value"] == 1
    entries[0]["image_id"] = 391897
    file.write_text(json.dumps(entries), encoding="utf-8")
    error = refused(capsys, "eval", "captions", file, "--data", tmp_path / "set")
    assert "entry 0" in error
    assert "has no sample with image_id 391897" in error
    with pytest.raises(UserError, match="captions scores a file of predictions, and no encoder"):
        evaluate(digits_run, tmp_path / "set", protocols=["captions"])
