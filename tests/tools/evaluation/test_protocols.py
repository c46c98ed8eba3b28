"""`headrace eval`: what each protocol gives, what is kept and when it is computed anew."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headrace.models.parts.backbones import tiny_vit
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from headrace.tools.cli import main, parse
from headrace.tools.evaluation import catalogue, feature_cache
from headrace.tools.evaluation.evaluate import measure
from headrace.tools.evaluation.feature_cache import FeatureCache
from headrace.tools.evaluation.frozen import LinearSettings
from headrace.tools.evaluation.results import read_results, save_results
from headrace.tools.evaluation.settings import with_keys
from headrace.tools.evaluation.table import PROTOCOLS
from headrace.tools.media.images import to_png
from headrace.train import train
from headrace.train.distributed import World
from headrace.train.encoders import open_encoder
from headrace.train.probes import extract_features, few_labels
from tests.conftest import digit_samples
from tests.train.tiny_runs import tiny_run

ALONE = World(0, 1, torch.device("cpu"))
PAGE = Path(__file__).parents[3] / "docs" / "protocols.md"


@pytest.fixture(scope="module")
def run(digits_webdataset: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny_run(digits_webdataset.path, out, "epochs=1"), progress=False)
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache-features"


def told(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert main(["eval", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


QUICK = {
    "knn": ["--k", "5"],
    "linear": ["--seeds", "2"],
    "linear_simclr": ["--epochs", "1", "--batch_size", "100"],
    "linear_mae": ["--epochs", "1", "--batch_size", "100", "--seeds", "2"],
    "fewshot": ["--draws", "2"],
    "finetune": ["--epochs", "1"],
    "finetune_mae": ["--epochs", "1", "--drop_path", "0", "--batch_size", "100"],
    "finetune_beit": ["--epochs", "1", "--drop_path", "0", "--batch_size", "100"],
}


@pytest.mark.parametrize("protocol", QUICK)
def test_every_encoder_is_scored_with_an_interval(
    protocol: str, run: Path, digits_webdataset: ShardSet, capsys: pytest.CaptureFixture[str]
) -> None:
    data = digits_webdataset.path
    found = told(capsys, protocol, run, "--data", data, "--test", data, *QUICK[protocol])
    told_of = found["protocols"][protocol]
    assert told_of["version"] == PROTOCOLS[protocol].version
    assert tuple(told_of["encoders"]) == PROTOCOLS[protocol].encoders
    for encoder, scores in told_of["encoders"].items():
        for each in scores["metrics"].values():
            assert 0 <= each["low"] <= each["value"] <= each["high"] <= 1
        assert found["probes"][encoder][protocol] == scores["metrics"][told_of["metric"]]["value"]
        if "confusion" in scores.get("details", {}):
            counts = np.array(scores["details"]["confusion"]["counts"])
            assert counts.sum() == len(digits_webdataset)
    kept = read_results(run)["protocols"][protocol]
    assert kept == told_of


def test_the_table_shows_intervals(run: Path, digits_webdataset: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "knn", str(run), "--data", str(digits_webdataset.path)]) == 0
    text = capsys.readouterr().out
    assert "knn, version 1: with intervals of 95 %" in text
    assert "accuracy_k1" in text
    assert " to " in text


def test_accuracy_is_the_confusions_diagonal(run: Path, digits_webdataset: ShardSet) -> None:
    found = measure(run, digits_webdataset.path, protocols=["knn", "linear"])
    for name in ("knn", "linear"):
        for scores in found[name]["encoders"].values():
            counts = np.array(scores["details"]["confusion"]["counts"])
            assert counts.sum() == 40, "a fifth of 200"
            metrics = scores["metrics"]
            assert metrics["accuracy"]["value"] == pytest.approx(np.trace(counts) / 40)
            share_of_classes = np.diag(counts) / np.maximum(counts.sum(1), 1)
            seen = counts.sum(1) > 0
            assert metrics["accuracy_of_classes"]["value"] == pytest.approx(share_of_classes[seen].mean())


def test_scores_of_another_version_or_of_other_settings_do_not_mix(run: Path, digits_webdataset: ShardSet) -> None:
    data = digits_webdataset.path
    save_results(run, {})
    measure(run, data, protocols=["knn"])
    measure(run, data, protocols=["linear"], encoders=["input"])
    measure(run, data, protocols=["linear"], encoders=["trained"])
    assert set(read_results(run)["protocols"]["linear"]["encoders"]) == {"input", "trained"}
    settings = {"linear": LinearSettings(penalties=(0.1,))}
    measure(run, data, protocols=["linear"], encoders=["trained"], settings=settings)
    kept = read_results(run)
    assert set(kept["protocols"]["linear"]["encoders"]) == {"trained"}
    assert kept["protocols"]["linear"]["settings"]["penalties"] == [0.1]
    assert set(kept["probes"]["untrained"]) == {"knn"}, "what was not measured again stays"
    kept["protocols"]["knn"]["version"] = 0
    save_results(run, kept)
    measure(run, data, protocols=["knn"], encoders=["input"])
    assert set(read_results(run)["protocols"]["knn"]["encoders"]) == {"input"}


def test_files_of_before_name_encoders_otherwise(tmp_path: Path) -> None:
    save_results(tmp_path, {"probes": {"pixels": {"knn": 0.1}, "random": {"knn": 0.2}, "trained": {"knn": 0.3}}})
    assert read_results(tmp_path)["probes"] == {
        "input": {"knn": 0.1}, "untrained": {"knn": 0.2}, "trained": {"knn": 0.3}
    }  # fmt: skip


# Features are kept


def test_features_are_computed_once_and_are_those_of_extract_features(
    run: Path, digits_webdataset: ShardSet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    fill = feature_cache.fill_rows

    def noted(*arguments: Any) -> dict[int, str]:
        computed.append("once")
        return fill(*arguments)

    monkeypatch.setattr(feature_cache, "fill_rows", noted)
    first = measure(run, digits_webdataset.path, protocols=["knn", "linear", "fewshot"])
    assert len(computed) == 2, "untrained and trained"
    assert measure(run, digits_webdataset.path, protocols=["knn", "linear", "fewshot"]) == first
    assert len(computed) == 2
    assert len(list(cache.iterdir())) == 2
    assert measure(run, digits_webdataset.path, protocols=["knn"], cache=False)["knn"] == first["knn"]
    assert len(computed) == 4, "each anew"
    assert len(list(cache.iterdir())) == 2

    encoder = open_encoder(run)
    kept = FeatureCache(ALONE)
    x, y = kept.features(encoder, digits_webdataset)
    expected_x, expected_y = extract_features(encoder.encode, digits_webdataset, encoder.inputs)
    np.testing.assert_array_equal(x, expected_x)
    np.testing.assert_array_equal(y, expected_y)
    assert len(computed) == 4
    next(iter(encoder.backbone.parameters())).data.mul_(1.5)
    kept.features(encoder, digits_webdataset)
    assert len(computed) == 5, "other weights"


def test_another_set_of_the_same_size_has_other_features(run: Path, tmp_path: Path) -> None:
    fields = {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int")}
    samples = list(digit_samples(40))
    for name, part in (("a", samples[:20]), ("b", samples[20:])):
        write_shards(tmp_path / name, part, fields)
    encoder = open_encoder(run)
    kept = FeatureCache(ALONE)
    with open_shards(tmp_path / "a") as a, open_shards(tmp_path / "b") as b:
        assert not np.array_equal(kept.features(encoder, a)[0], kept.features(encoder, b)[0])


def test_a_killed_computation_leaves_nothing_that_counts(
    run: Path, digits_webdataset: ShardSet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = open_encoder(run)
    kept = FeatureCache(ALONE)

    def torn(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache.os, "rename", torn)
        with pytest.raises(KeyboardInterrupt):
            kept.features(encoder, digits_webdataset)
    assert [entry.suffix for entry in cache.iterdir()] == [".tmp"], "which the next one begins anew"
    assert len(kept.features(encoder, digits_webdataset)[0]) == 200


def test_two_that_compute_the_same_do_not_meet(
    run: Path, digits_webdataset: ShardSet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has computed them meanwhile; what was left of a killed one is removed in the end."""
    encoder = open_encoder(run)
    fill = feature_cache.fill_rows

    def slow(*arguments: Any) -> dict[int, str]:
        with monkeypatch.context() as patch:
            patch.setattr(feature_cache, "fill_rows", fill)
            patch.setattr(feature_cache.os, "getpid", lambda: 1)
            FeatureCache(ALONE).compute(encoder, digits_webdataset)
        return fill(*arguments)

    abandoned = cache / "key.2.tmp"
    abandoned.mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    monkeypatch.setattr(feature_cache, "fill_rows", slow)
    x, _ = FeatureCache(ALONE).features(encoder, digits_webdataset)
    np.testing.assert_array_equal(x, extract_features(encoder.encode, digits_webdataset, encoder.inputs)[0])
    assert len(list(cache.iterdir())) == 1


def test_the_oldest_features_make_room(
    run: Path, digits_webdataset: ShardSet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "CAPACITY", 1)
    encoder = open_encoder(run)
    kept = FeatureCache(ALONE)
    kept.features(encoder, digits_webdataset)
    (first,) = cache.iterdir()
    next(iter(encoder.backbone.parameters())).data.mul_(1.5)
    kept.features(encoder, digits_webdataset)
    assert [entry.name for entry in cache.iterdir()] != [first.name]
    assert len(list(cache.iterdir())) == 1


def test_bad_samples_are_left_out_or_end_it(run: Path, tmp_path: Path) -> None:
    fields = {"image": Field(kind="image", encoding="mixed"), "label": Field(kind="int")}
    samples = [{**sample, "image": to_png(Image.fromarray(sample["image"]))} for sample in digit_samples(20)]
    samples[7]["image"] = samples[7]["image"][:60]
    samples[3]["label"] = -1
    write_shards(tmp_path / "set", samples, fields)
    strict = open_encoder(run)
    lenient = replace(strict, max_bad=1)
    with open_shards(tmp_path / "set") as shards:
        x, y = FeatureCache(ALONE).features(lenient, shards)
        assert (len(x), len(y)) == (198, 198)
        assert y.tolist() == [each["label"] for i, each in enumerate(samples) if i not in (3, 7)]
        with pytest.raises(ShardError, match="cannot decode the image"):
            FeatureCache(ALONE).features(strict, shards)


# Encoders of others, and several processes


def test_a_file_is_measured_as_the_run_it_came_from(
    run: Path, digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "vit", digits_webdataset.path
    backbone = tiny_vit(width=32, depth=2)
    small = replace(backbone, options={**backbone.options, "img_size": 28})
    config = tiny_run(data, tmp_path / "run", "epochs=1")
    config.model = replace(config.model, size=28, backbone=small)
    train(config, progress=False)
    assert main(["export", str(tmp_path / "run"), "--to", "timm", str(out)]) == 0
    capsys.readouterr()
    for protocol, keys in (("knn", []), ("linear_dino", ["--epochs", "1"]), ("finetune", ["--epochs", "1"])):
        ours = told(capsys, protocol, tmp_path / "run", "--data", data, "--test", data, *keys)["probes"]
        theirs = told(capsys, protocol, out, "--data", data, "--test", data, *keys)["probes"]
        assert theirs["trained"] == pytest.approx(ours["trained"], abs=0.011), protocol
    assert theirs.keys() == {"untrained", "trained"}
    assert not (out / "results.json").exists()
    assert told(capsys, "knn", "resnet10t", "--data", data, "--no-cache")["probes"]["trained"]["knn"] > 0.1


def test_two_processes_find_what_one_finds(run: Path, digits_webdataset: ShardSet, tmp_path: Path, cache: Path) -> None:
    alone = measure(run, digits_webdataset.path, protocols=["linear"], cache=False)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command += ["headrace.tools.cli", "eval", "linear", str(run), "--data", str(digits_webdataset.path), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["protocols"] == alone
    assert len(list(cache.iterdir())) == 2


# What is asked for


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kn", "RUN", "--data", "DATA"], "unknown protocol 'kn'; did you mean 'knn'?"),
        (["knn", "RUN"], "eval takes PROTOCOL RUN|FILE --data DIR"),
        (["knn", "RUN", "--data", "DATA", "--kk", "3"], "kk: unknown key"),
        (["knn", "RUN", "--data", "DATA", "--k", "0"], "k must be at least 1"),
        (["knn", "RUN", "--data", "DATA", "--k", "many"], "k: must be an integer, got 'many'"),
        (
            ["linear_mae", "RUN", "--data", "DATA"],
            "a head trained by SGD is scored on a test set: name one",
        ),
        (["finetune_mae", "RUN", "--data", "DATA", "--test", "DATA"], "has no branches to drop; set it to 0"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], said: str, run: Path, digits_webdataset: ShardSet, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"RUN": str(run), "DATA": str(digits_webdataset.path)}
    assert main(["eval", *(given.get(word, word) for word in words)]) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("headrace eval: ")]
    assert len(lines) == 1
    assert said in lines[0]


def test_the_list_tells_of_every_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--list"]) == 0
    text = capsys.readouterr().out
    listed = told(capsys, "--list")
    assert [each["name"] for each in listed] == list(PROTOCOLS)
    for each in listed:
        assert f"{each['name']}, version {each['version']}: " in text
        assert all(each[part] for part in ("definition", "source", "cost", "incomparable"))
        assert all(setting["doc"] for setting in each["settings"])
    assert [each["name"] for each in told(capsys, "knn", "--list")] == ["knn"]


def test_the_page_is_current() -> None:
    current = PAGE.read_text(encoding="utf-8") == catalogue.markdown()
    assert current, "make the page anew: headrace eval --markdown > docs/protocols.md"


COMMANDS = re.findall(
    r"^headrace (eval .+)$", (PAGE.parent / "evaluation.md").read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page_are_understood(command: str) -> None:
    asked = parse(command.split())
    with_keys(PROTOCOLS[asked.protocol].settings, asked.keys)


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 5


# Few labels


def test_lists_are_nested_balanced_and_the_same_each_time() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 3000)
    one, ten = (few_labels(labels, share=share, seed=3) for share in (0.01, 0.1))
    assert set(one) < set(ten)
    assert np.bincount(labels[one]).tolist() == [round(0.01 * n) for n in np.bincount(labels)]
    four, eight = (few_labels(labels, per_class=count, seed=3) for count in (4, 8))
    assert set(four) < set(eight)
    assert np.bincount(labels[eight]).tolist() == [8] * 7
    assert few_labels(labels, share=0.01, seed=3).tolist() == one.tolist()
    assert few_labels(labels, share=0.01, seed=4).tolist() != one.tolist()
    rare = np.array([0] * 500 + [1] * 3)
    assert np.bincount(rare[few_labels(rare, share=0.01, seed=0)]).tolist() == [5, 1]
    assert np.bincount(rare[few_labels(rare, per_class=8, seed=0)]).tolist() == [8, 3]
