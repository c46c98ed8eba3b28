"""The doctor names the stage that was made slow, and proposes what was measured to be faster."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headrace.models.methods.joint.simclr import SimCLR
from headrace.pipeline.engines.native import NativeEngine
from headrace.shards import RAW, ShardSet
from headrace.tools import doctor
from headrace.tools.cli import main
from headrace.tools.doctor import Proposal, diagnose, gain_of
from headrace.train import RunConfig, read_metrics, train
from headrace.train.metrics import loader_figures
from tests.train.tiny_runs import tiny_run

SECONDS = 0.1


@pytest.fixture
def config(photos: ShardSet, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Training whose step is short; only one other loader setting and no other encoding is tried."""
    monkeypatch.setattr(doctor, "ENGINE_MODULES", {"torchvision": ("torchvision",)})
    monkeypatch.setattr(doctor, "encoding_proposals", lambda *_: [])
    return tiny_run(photos.path, "", "batch_size=8", "model.size=16", "loader.threads=2")


def slowed(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seconds: float) -> None:
    plain = getattr(owner, name)

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return plain(*arguments, **options)

    monkeypatch.setattr(owner, name, slow)


def test_stages_and_whole(photos: ShardSet, config: RunConfig) -> None:
    said: list[str] = []
    found = diagnose(photos.path, config, seconds=SECONDS, say=said.append)
    assert [stage.name for stage in found.stages] == ["read", "decode", "augment", "collate", "transfer", "step"]
    assert all(stage.rate > 0 for stage in found.stages)
    rates = {stage.name: stage.rate for stage in found.stages}
    assert rates["read"] > rates["decode"], "copying bytes is cheaper than decoding them"
    assert rates["collate"] > found.loading
    assert 0 <= found.data_wait <= 1
    assert found.limit in rates
    assert said[0] == "reading"
    assert found.settings["threads"] == 2


def test_a_slow_step_limits(photos: ShardSet, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, SimCLR, "loss", 0.3)
    found = diagnose(photos.path, config, seconds=SECONDS)
    assert found.limit == "step"
    assert found.data_wait < 0.3


def test_slow_decoding_limits(photos: ShardSet, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine takes its time, and says that it was decoding."""
    plain = NativeEngine.render

    def render(self: NativeEngine, ids: Any, *rest: Any) -> Any:
        times = plain(self, ids, *rest)
        time.sleep(0.03 * len(ids))
        return times._replace(decode_s=times.decode_s + 0.03 * len(ids))

    monkeypatch.setattr(NativeEngine, "render", render)
    monkeypatch.setattr(doctor, "ROUNDS", 1)
    monkeypatch.setattr(doctor, "training_step", lambda *_: lambda batch: None)
    found = diagnose(photos.path, config, seconds=SECONDS)
    assert found.limit == "decode"
    torchvision = {proposal.setting: proposal.gain for proposal in found.proposals}
    assert torchvision["--loader.engine torchvision"] > 1.2


def test_gains_are_medians_of_ratios_taken_in_turn() -> None:
    calls: list[str] = []

    def rate(name: str, values: list[float]) -> Any:
        def measured(seconds: float) -> float:
            calls.append(name)
            return values.pop(0)

        return measured

    assert gain_of(rate("usual", [2.0, 10.0, 3.0]), rate("other", [4.0, 30.0, 9.0]), 1.0) == 3.0
    assert calls == ["usual", "other"] * 3


def test_smaller_and_raw_images_are_proposed_where_they_load_faster(
    photos: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading takes as long as there are pixels, and four times as long where they are decoded."""

    def loading(part: ShardSet, *_: Any) -> SimpleNamespace:
        spans = part.places("image", np.arange(len(part)))
        pixels = spans.height.astype(np.int64) * spans.width
        return SimpleNamespace(rate=1 / float((pixels * np.where(spans.encoding == RAW, 1, 4)).mean()))

    monkeypatch.setattr(doctor, "loading", loading)
    config = tiny_run(photos.path, "", "batch_size=8", "model.size=16", "loader.threads=2")
    proposals = list(
        doctor.encoding_proposals(photos, SimCLR(config.model).inputs, config, torch.device("cpu"), SECONDS)
    )
    raw, smaller, both = sorted(proposals, key=lambda proposal: proposal.gain)
    assert "--encode raw (" in raw.setting
    assert raw.gain == pytest.approx(4)
    assert "ffcv --short-side 19" in smaller.setting
    assert "--encode raw --short-side 19" in both.setting
    assert both.gain == pytest.approx(4 * smaller.gain)
    assert not both.config, "the shards have to change, no key does it"


def test_the_command(
    photos: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Proposal(setting="--loader.threads 3", gain=1.4, of="loading", config={"loader.threads": 3})
    smaller = Proposal(setting="headrace shard ... --short-side 19", gain=2.0, of="loading", config={})
    monkeypatch.setattr(doctor, "loader_proposals", lambda *_: [threads])
    monkeypatch.setattr(doctor, "encoding_proposals", lambda *_: [smaller])
    command = ["doctor", str(photos.path), "--method", "simclr", "--seconds", str(SECONDS)]
    keys = ["--batch_size", "8", "--model.size", "16", "--model.backbone.name", "resnet18", "--device", "cpu"]
    files = ["--out", str(tmp_path / "waterfall.png"), "--apply", str(tmp_path / "faster.yaml")]
    assert main([*command, *keys, *files]) == 0
    printed = capsys.readouterr().out
    assert " limits: " in printed
    assert "samples/s" in printed
    with Image.open(tmp_path / "waterfall.png") as picture:
        assert min(picture.size) > 200
    applied = RunConfig.load(tmp_path / "faster.yaml")
    assert (applied.batch_size, applied.loader.threads) == (8, 3)
    assert printed.index("2.00 times the loading: headrace shard") < printed.index("1.40 times the loading: --loader")
    assert main([*command, *keys, "--json"]) == 0
    assert {stage["name"] for stage in json.loads(capsys.readouterr().out)["stages"]} >= {"read", "step"}
    assert main([*command, "--out", "waterfall.txt"]) == 2
    assert "the name of a picture ends in one of" in capsys.readouterr().err
    assert main([*command, "--batch_size", "1000"]) == 1
    assert "36 samples do not fill one batch of 1000" in capsys.readouterr().err


def test_training_tells_the_same_stages_while_it_runs(photos: ShardSet, config: RunConfig, tmp_path: Path) -> None:
    config.out = str(tmp_path / "run")
    train(config, progress=False)
    records = read_metrics(tmp_path / "run")
    for stage in ("decode_ms", "augment_ms", "plan_ms"):
        assert sum(record[stage] for record in records) > 0


def test_stage_times_are_milliseconds_a_sample() -> None:
    from headrace.pipeline import LoaderStats

    before = LoaderStats(samples=10, decode_s=1.0, augment_s=2.0, plan_s=0.5)
    now = LoaderStats(samples=30, decode_s=1.5, augment_s=2.1, plan_s=0.5)
    loader: Any = SimpleNamespace(stats=now, cache_needed=0, bad=set())
    assert loader_figures(loader, before) == {"decode_ms": 25.0, "augment_ms": 5.0, "plan_ms": 0.0}
