"""`headrace eval` with corrupted pictures, and on feature maps of scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headrace.pipeline.corruptions import FAMILIES, SCORED
from headrace.shards import ShardSet, write_shards
from headrace.tools.cli import main
from headrace.tools.evaluation.results import kept_pictures
from headrace.tools.pictures.report import write_report
from headrace.train import train
from tests.browser import require_readable
from tests.conftest import DIGIT_FIELDS, digit_samples
from tests.train.dense.shapes import write_scenes
from tests.train.tiny_runs import tiny_run

ENCODERS = ["input", "untrained", "trained"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A set to learn from, and one to score on."""
    root = tmp_path_factory.mktemp("scenes")
    return write_scenes(root / "train", 12), write_scenes(root / "test", 5, seed=1, classes=("triangle", "box"))


@pytest.fixture(scope="module")
def run(scenes: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny_run(scenes[0], out, "epochs=1", "batch_size=12"), progress=False)
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


def told(capsys: pytest.CaptureFixture[str], protocol: str, *words: object) -> dict[str, Any]:
    assert main(["eval", protocol, *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["protocols"][protocol]
    for scores in found["encoders"].values():
        for name, each in scores["metrics"].items():
            assert each["low"] <= each["value"] <= each["high"], name
    return found


def test_robustness(run: Path, digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "few"
    write_shards(data, digit_samples(4), DIGIT_FIELDS)
    words = ["--severities", "[5]", "--shifts", json.dumps([str(data)])]
    found = told(capsys, "robustness", run, "--data", digits_webdataset.path, "--test", data, *words)
    assert found["metric"] == "corruption_error"
    assert list(found["encoders"]) == ENCODERS
    assert "augmented in training by" not in found["encoders"]["untrained"]["details"]
    assert found["encoders"]["trained"]["details"]["augmented in training by"] == ["grayscale", "jitter"]
    for scores in found["encoders"].values():
        metrics = {name: each["value"] for name, each in scores["metrics"].items()}
        families = [metrics.pop(f"{family}_error") for family in ("noise", "blur", "weather", "digital")]
        assert metrics["corruption_error"] == pytest.approx(
            sum(size * error for size, error in zip((3, 4, 4, 4), families, strict=True)) / 15
        )
        assert metrics["added_error"] == pytest.approx(metrics["corruption_error"] - metrics["clean_error"])
        assert metrics[f"{data.name}_error"] == pytest.approx(metrics["clean_error"])
        assert metrics["corruption_error"] > metrics["clean_error"]
        assert set(scores["details"]["errors by severity"]) == set(SCORED)
        assert scores["details"]["parameters"] == "the authors' for 32 pixels"


@pytest.mark.peer("faster-coco-eval")
def test_segmentation(run: Path, scenes: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--size", "64", "--steps", "40", "--lr", "0.02", "--batch_size", "8"]
    for field, names in (("", ["background", "box", "triangle"]), ("classes", ["0", "1", "2"])):
        more = ["--field", field] if field else []
        found = told(capsys, "segmentation", run, "--data", scenes[0], "--test", scenes[1], *words, *more)
        assert list(found["encoders"]) == ENCODERS
        for scores in found["encoders"].values():
            ious = scores["details"]["IoU"]
            assert list(ious) == names
            assert scores["metrics"]["mIoU"]["value"] == pytest.approx(sum(ious.values()) / 3)


def test_depth(run: Path, scenes: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--size", "32", "--steps", "20", "--bins", "16"]
    found = told(capsys, "depth", run, "--data", scenes[0], "--test", scenes[1], *words)
    assert list(found["encoders"]) == ENCODERS
    for scores in found["encoders"].values():
        assert list(scores["metrics"])[:3] == ["RMSE", "abs-rel", "log10"]
        assert 0 < scores["metrics"]["RMSE"]["value"] < 5
        assert scores["details"]["pictures"] == 5


@pytest.mark.peer("faster-coco-eval")
def test_detection(
    run: Path, scenes: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.train.dense.pyramids.WIDTH", 16)
    words = ["--size", "48", "--epochs", "1", "--rois", "8", "--masks", "false", "--warmup_steps", "0", "--lr", "0.001"]
    found = told(capsys, "detection", run, "--data", scenes[0], "--test", scenes[1], *words)
    assert list(found["encoders"]) == ["untrained", "trained"]
    for scores in found["encoders"].values():
        assert list(scores["metrics"]) == ["box AP"]
        assert scores["details"]["classes"] == ["box", "triangle"]
        assert scores["details"]["scores"]["box AP"] == scores["metrics"]["box AP"]["value"]


@pytest.mark.peer("faster-coco-eval")
def test_the_report_shows_curves_and_what_was_found(
    run: Path,
    scenes: tuple[Path, Path],
    digits_webdataset: ShardSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headrace.train.dense.pyramids.WIDTH", 16)
    given = ("--data", scenes[0], "--test", scenes[1])
    detection = ["--size", "48", "--epochs", "1", "--rois", "8", "--warmup_steps", "0", "--lr", "0.001"]
    quick = {
        "segmentation": ["--steps", "1", "--seeds", "2"],
        "depth": ["--steps", "1", "--bins", "8", "--seeds", "2"],
        "detection": [*detection, "--seeds", "2"],
    }
    for protocol, words in quick.items():
        told(capsys, protocol, run, *given, *words)
        drawn = kept_pictures(run, protocol)
        assert [path.name for path in drawn] == [f"{number}.png" for number in range(5)]
        with Image.open(drawn[0]) as image:
            assert image.width > (2 if protocol == "detection" else 3) * 100
    text = (write_report(run)).read_text(encoding="utf-8")
    assert all(f"<h2>{protocol.capitalize()}, drawn</h2>" in text for protocol in quick)
    assert text.count("data:image/png;base64,") >= 15
    require_readable(run / "report.html", tmp_path / "scenes", width=390)
    few = tmp_path / "few"
    write_shards(few, digit_samples(4), DIGIT_FIELDS)
    told(capsys, "robustness", run, "--data", digits_webdataset.path, "--test", few, "--severities", "[1,5]")
    write_report(run)
    require_readable(run / "report.html", tmp_path / "curves", width=390, dark=True)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "<h2>Under corruption</h2>" in text
    assert all(f"<h3>{family}</h3>" in text for family in FAMILIES)
    assert text.count('aria-label="error, %"') == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["robustness", "--data", "DIGITS"], "robustness is scored on a test set"),
        (
            ["robustness", "--data", "DIGITS", "--test", "DIGITS", "--severities", "[0]"],
            "severities must be different",
        ),
        (["robustness", "--data", "DIGITS", "--test", "DIGITS", "--shifts", '["/no/where"]'], "/no/where"),
        (["segmentation", "--data", "SCENES", "--test", "DIGITS"], "has no field instances"),
        (["segmentation", "--data", "SCENES", "--test", "SCENES", "--field", "masks"], "has no field masks"),
        (["depth", "--data", "DIGITS", "--test", "SCENES"], "has no field depth"),
        (["detection", "--data", "DIGITS", "--test", "SCENES"], "has no field instances"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str],
    said: str,
    run: Path,
    scenes: tuple[Path, Path],
    digits_webdataset: ShardSet,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"SCENES": str(scenes[0]), "DIGITS": str(digits_webdataset.path)}
    quick = {"robustness": ["--corruptions", '["contrast"]'], "segmentation": ["--steps", "1"]}.get(words[0], [])
    assert main(["eval", words[0], str(run), *(given.get(word, word) for word in words[1:]), *quick]) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("headrace eval: ")]
    assert len(lines) == 1
    assert said in lines[0]
