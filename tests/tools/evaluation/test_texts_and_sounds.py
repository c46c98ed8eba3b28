"""`headrace eval` knows texts and sounds: nearest neighbours, the regression and retrieval, against plain loops."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.pipeline import TextSpec
from headrace.shards import ShardSet, open_shards, write_shards
from headrace.tools.cli import main
from headrace.tools.pictures.report import write_report
from headrace.train import train
from headrace.train.probes import band_features, extract_features, word_features
from headrace.train.recipes import masked_spectrogram_small
from headrace.train.run import load_run
from tests import texts
from tests.models.tiny_methods import TINY
from tests.sounds import SOUND_FIELDS, sounds
from tests.train.tiny_runs import tiny_run

PROTOCOLS = ("knn", "linear", "retrieval")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["eval", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["protocols"]
    return found


def nearest(x: np.ndarray, y: np.ndarray, test: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """The vote of the k nearest, sample by sample."""
    x, test = (each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in (x, test))
    predicted = []
    for row in test.astype(np.float64):
        similarity = x.astype(np.float64) @ row
        votes = np.zeros(y.max() + 1)
        for place in np.argsort(-similarity)[:k]:
            votes[y[place]] += np.exp(similarity[place] / temperature)
        predicted.append(int(votes.argmax()))
    return np.array(predicted)


def average_precision(x: np.ndarray, y: np.ndarray) -> float:
    """mAP of each sample among all others."""
    x = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)).astype(np.float64)
    found = []
    for row in range(len(x)):
        others = np.delete(np.arange(len(x)), row)
        right = (y[others] == y[row])[np.argsort(-(x[others] @ x[row]), kind="stable")]
        if right.any():
            found.append((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())
    return float(np.mean(found))


def check(protocols: dict[str, Any], features: dict[str, Any], truth: np.ndarray) -> None:
    """The scores of each encoder, from its features of both sets."""
    for encoder, ((x, y), (test_x, test_y)) in features.items():
        assert np.array_equal(test_y, truth)
        scores = {name: protocols[name]["encoders"][encoder]["metrics"] for name in PROTOCOLS}
        accuracy = (nearest(x, y, test_x, 20, 0.07) == truth).mean()
        assert scores["knn"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1.01 / len(truth))
        assert scores["retrieval"]["mAP"]["value"] == pytest.approx(average_precision(test_x, truth), abs=0.01)
        assert 0 <= scores["linear"]["accuracy"]["value"] <= 1
        for each in scores.values():
            for metric in each.values():
                assert metric["low"] <= metric["value"] <= metric["high"]


@pytest.fixture(scope="module")
def test_texts(texts_webdataset: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """The paragraphs behind the 200 of the fixture."""
    path = tmp_path_factory.mktemp("texts") / "test"
    samples = (
        {"__key__": f"{n:06d}", "text": text, "label": 0 if text[0].isalpha() else 2 if text[0].isdigit() else 1}
        for n, text in enumerate(texts.paragraphs()[200:260])
    )
    write_shards(path, samples, texts_webdataset.fields)
    with open_shards(path) as opened:
        yield opened


@pytest.mark.peer("tokenizers", "transformers")
def test_texts_are_scored(
    texts_webdataset: ShardSet, test_texts: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    values = tiny_run(texts_webdataset.path, out, "epochs=1", "batch_size=50").to_dict() | {"method": "bert"}
    config = type(tiny_run(texts_webdataset.path, out)).from_dict(values | {"model": TINY["bert"]})
    train(config, progress=False)
    arguments = out, "--data", texts_webdataset.path, "--test", test_texts.path
    protocols = {name: told(capsys, name, *arguments)[name] for name in PROTOCOLS}
    method = load_run(out)[1].eval()
    shown = method.probe_inputs
    assert isinstance(shown, TextSpec)
    truth = np.asarray(test_texts.ints("label"))
    features = {
        "input": [word_features(each, shown) for each in (texts_webdataset, test_texts)],
        "trained": [extract_features(method.encode, each, shown) for each in (texts_webdataset, test_texts)],
    }
    check(protocols, features, truth)
    assert set(protocols["knn"]["encoders"]) == {"input", "untrained", "trained"}
    assert protocols["linear"]["encoders"]["input"]["metrics"]["accuracy"]["value"] > 0.8  # the first sign is a word
    page = write_report(out).read_text(encoding="utf-8")
    assert "k-NN" in page
    assert "What the method hears" not in page


@pytest.fixture(scope="module")
def test_sounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """Other notes than those of the fixture."""
    path = tmp_path_factory.mktemp("sounds") / "test"
    write_shards(path, (sample for n, sample in enumerate(sounds(260)) if n >= 200), SOUND_FIELDS)
    with open_shards(path) as opened:
        yield opened


@pytest.mark.peer("soundfile")
def test_sounds_are_scored(
    sounds_webdataset: ShardSet, test_sounds: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    config = masked_spectrogram_small(data=str(sounds_webdataset.path), out=str(out))
    config.model = replace(config.model, **TINY["masked_spectrogram"])
    changes = ["epochs=1", "batch_size=100", "precision=float32", "log.tensorboard=false"]
    train(config.with_overrides(changes), progress=False)
    arguments = out, "--data", sounds_webdataset.path, "--test", test_sounds.path
    protocols = {name: told(capsys, name, *arguments)[name] for name in PROTOCOLS}
    method = load_run(out)[1].eval()
    shown: Any = method.probe_inputs
    truth = np.asarray(test_sounds.ints("label"))
    features = {
        "input": [band_features(each, shown) for each in (sounds_webdataset, test_sounds)],
        "trained": [extract_features(method.encode, each, shown) for each in (sounds_webdataset, test_sounds)],
    }
    check(protocols, features, truth)
    assert protocols["linear"]["encoders"]["input"]["metrics"]["accuracy"]["value"] > 0.9  # four pitches
    page = write_report(out).read_text(encoding="utf-8")
    section = page.partition("What the method makes of them")[2].partition("</section>")[0]
    assert re.findall("<figcaption>([^<]*)</figcaption>", section)[-3:] == ["input", "masked", "reconstruction"]
    heard = page.partition("What the method hears")[2].partition("</section>")[0]
    assert heard.count("<audio controls") == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
