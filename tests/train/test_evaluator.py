"""A run that is judged while it goes on: the figures are right, the run is the same, and it stops when it should."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from headrace.models import METHODS, Method
from headrace.models.methods.joint.simclr import SimCLR
from headrace.pipeline import Batch, Normalize, ViewSpec, center_view
from headrace.shards import ShardSet, open_shards, write_shards
from headrace.tools.cli import main
from headrace.tools.evaluation.evaluate import evaluate
from headrace.train import (
    CheckpointConfig,
    ConfigError,
    LogConfig,
    ProbeConfig,
    RunConfig,
    RunError,
    load_run,
    read_ending,
    read_metrics,
    train,
)
from headrace.train.checkpoint import checkpoint_paths, read_checkpoint
from headrace.train.config import OWN
from headrace.train.evaluator import COLUMNS, Evaluator
from headrace.train.metrics import Record
from headrace.train.pictures import drawn_pictures
from tests.conftest import DIGIT_FIELDS, digit_samples
from tests.models.tiny_methods import TINY, tiny
from tests.ranks import on_ranks
from tests.train.tiny_runs import final_state, same_bits, tiny_run

FIGURES = {*COLUMNS.values(), "evaluate_s"}
ALL = ("probe.every=1", "probe.protocols=[knn,linear]")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The number of threads is part of what bits depend on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """60 digits that are none of the 200."""
    path = tmp_path_factory.mktemp("held_out") / "set"
    write_shards(path, list(digit_samples(26))[200:], DIGIT_FIELDS)
    with open_shards(path) as shards:
        yield shards


def losses(out: Path) -> list[tuple[int, float, float]]:
    return [(record["step"], record["loss"], record["grad_norm"]) for record in read_metrics(out)]


def figures(out: Path) -> dict[int, Record]:
    """What was found by evaluations, by step."""
    found = {record["step"]: {name: record[name] for name in FIGURES & record.keys()} for record in read_metrics(out)}
    return {step: record for step, record in found.items() if record}


# The run is the same


@dataclass(frozen=True, kw_only=True)
class MeanConfig:
    level: float = 0.25
    broken: bool = False


class Mean(Method):
    """Learns the mean level of the images: the loss is one of each sample by itself, and features are the images."""

    def __init__(self, config: MeanConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = center_view(28, Normalize(mean=(0, 0, 0), std=(1, 1, 1)))
        self.backbone = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
        self.feature_dim = 3 * 49
        self.level = nn.Parameter(torch.tensor(config.level))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        (images,) = batch.normalized()
        noise = 1e-3 * torch.randn(())  # as of a method that draws
        return {"loss": (images.mean((1, 2, 3)) - self.level + noise).square().mean()}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        (images,) = batch.normalized()
        assert not self.training
        assert not torch.is_grad_enabled()
        torch.rand(3)
        levels = self.level.expand_as(images)
        return {"images": images, "level": levels[:, :1] if self.config.broken else levels}


def mean_run(data: ShardSet, out: Path, *overrides: str) -> RunConfig:
    """4 steps an epoch for 3 epochs."""
    config = RunConfig(
        method=OWN, data=str(data.path), out=str(out), epochs=3, batch_size=50, device="cpu", precision="float32",
        checkpoint=CheckpointConfig(every_steps=3), log=LogConfig(every_steps=1, tensorboard=False),
    )  # fmt: skip
    return config.with_overrides(overrides)


@pytest.mark.parametrize("name", [name for name in METHODS if isinstance(tiny(name).inputs, ViewSpec)])
def test_a_run_takes_the_same_steps_whether_it_is_judged_or_not(
    name: str, digits_webdataset: ShardSet, held_out: ShardSet, tmp_path: Path
) -> None:
    """Weights, statistics of batches, queues, centres, slow networks, moments of the optimiser, the loader's state."""
    model = replace(METHODS[name].config(), **TINY[name])
    plain = RunConfig(
        method=name, model=model, data=str(digits_webdataset.path), out=str(tmp_path / "plain"), epochs=2,
        batch_size=40, device="cpu", precision="float32", checkpoint=CheckpointConfig(every_steps=0),
        log=LogConfig(every_steps=1, tensorboard=False),
    )  # fmt: skip
    validation = "" if METHODS[name].method.keeps_samples else str(held_out.path)
    judged = replace(plain, out=str(tmp_path / "judged"), validation=validation, probe=ProbeConfig(every=1))
    for config in (plain, judged):
        train(config, progress=False)
    assert losses(tmp_path / "judged") == losses(tmp_path / "plain")
    expected, found = final_state(tmp_path / "plain"), final_state(tmp_path / "judged")
    for part in ("step", "model", "optimizer", "loader"):
        assert same_bits(found[part], expected[part]), part
    assert figures(tmp_path / "plain") == {}
    scores = {"knn", "evaluate_s"} | ({"held_out_loss"} if validation else set())
    assert {step: set(record) for step, record in figures(tmp_path / "judged").items()} == {5: scores, 10: scores}


def test_an_evaluation_touches_neither_the_method_nor_the_generators(
    digits_webdataset: ShardSet, held_out: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, calls = Evaluator.evaluate, []

    def snapshot(method: Method) -> dict[str, Any]:
        gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        modes = {name: module.training for name, module in method.named_modules()}
        state = {name: value.clone() for name, value in method.state_dict().items()}
        return {"state": state, "gradients": gradients, "modes": modes, "generator": torch.get_rng_state()}

    def watched(self: Evaluator, step: int) -> Record:
        before = snapshot(self._method)
        record = sound(self, step)
        assert same_bits(snapshot(self._method), before)
        calls.append(step)
        return record

    monkeypatch.setattr(Evaluator, "evaluate", watched)
    train(tiny_run(digits_webdataset.path, tmp_path, *ALL, f"validation={held_out.path}"), progress=False)
    assert calls == [4, 8, 12]


# The figures


@pytest.mark.parametrize("batch_size", [7, 50, 200])
def test_the_held_out_loss_is_the_mean_over_all_samples(
    digits_webdataset: ShardSet, held_out: ShardSet, tmp_path: Path, batch_size: int
) -> None:
    """A sum in float64, sample by sample, of the stored images."""
    config = mean_run(digits_webdataset, tmp_path, f"batch_size={batch_size}", "epochs=1", "optim.lr=0.1")
    config = config.with_overrides(["probe.every=1", "probe.protocols=[]", f"validation={held_out.path}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda size: torch.zeros(size))
        train(config, method=lambda: Mean(MeanConfig()), progress=False)
    level = float(final_state(tmp_path)["model"]["level"])
    assert level != 0.25
    means = [held_out.read(i)["image"].astype(np.float64).mean() / 255 for i in range(len(held_out))]
    expected = sum((mean - level) ** 2 for mean in means) / len(means)
    [found] = figures(tmp_path).values()
    assert found["held_out_loss"] == pytest.approx(expected, rel=1e-5)


def test_it_is_the_same_each_time_that_the_weights_are(
    digits_webdataset: ShardSet, held_out: ShardSet, tmp_path: Path
) -> None:
    """The same views, and the same numbers where a loss draws some."""
    options = (*ALL, f"validation={held_out.path}", "optim.lr=1e-30")
    train(mean_run(digits_webdataset, tmp_path / "mean", *options), method=lambda: Mean(MeanConfig()), progress=False)
    [found] = {record["held_out_loss"] for record in figures(tmp_path / "mean").values()}
    assert found > 0
    options = (*options, "model.backbone.options.drop_rate=0.0", "optim.weight_decay=0")
    train(tiny_run(digits_webdataset.path, tmp_path / "views", *options), progress=False)
    by_batch = [loss for _, loss, _ in losses(tmp_path / "views")]
    assert len(set(by_batch)) == len(by_batch)
    # The statistics of batches go on moving, and nothing else does.
    found = [record["held_out_loss"] for record in figures(tmp_path / "views").values()]
    assert np.ptp(found) < 0.2 * np.ptp(by_batch)


@pytest.mark.parametrize("with_validation", [False, True])
def test_scores_are_those_of_an_evaluation_afterwards(
    digits_webdataset: ShardSet, held_out: ShardSet, tmp_path: Path, with_validation: bool
) -> None:
    validation = [f"validation={held_out.path}"] if with_validation else []
    train(tiny_run(digits_webdataset.path, tmp_path, *ALL, *validation), progress=False)
    test = held_out.path if with_validation else None
    afterwards = evaluate(tmp_path, digits_webdataset.path, test, encoders=("trained",))["trained"]
    last = figures(tmp_path)[12]
    assert {name: last[name] for name in ("knn", "linear")} == afterwards
    assert ("held_out_loss" in last) == with_validation


def test_probes_of_a_part_of_the_set(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    """A fifth of it scores, so that with 25 samples a score is a multiple of 1 / 5."""
    train(tiny_run(digits_webdataset.path, tmp_path, *ALL, "probe.samples=25", "epochs=1"), progress=False)
    [found] = figures(tmp_path).values()
    for name in ("knn", "linear"):
        assert 5 * found[name] == pytest.approx(round(5 * found[name]))


def test_every_nth_epoch_and_the_last(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    options = ("epochs=5", "probe.every=2", "log.every_steps=1000", "log.tensorboard=true")
    train(tiny_run(digits_webdataset.path, tmp_path, *options), progress=False)
    assert list(figures(tmp_path)) == [8, 16, 20]
    assert [(record["step"], record["epoch"]) for record in read_metrics(tmp_path)] == [(8, 1), (16, 3), (20, 4)]
    [events] = (tmp_path / "tensorboard").glob("events*")
    assert b"knn" in events.read_bytes()


def test_what_it_costs_is_said(digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_run(digits_webdataset.path, tmp_path, *ALL, "epochs=2"))
    said = capsys.readouterr().err
    for epoch, record in enumerate(figures(tmp_path).values(), start=1):
        found = f"knn {100 * record['knn']:.3g} %, linear {100 * record['linear']:.3g} %"
        assert f"epoch {epoch} of 2: {found}, evaluated in {record['evaluate_s']:.1f} s, " in said
    assert said.count(" % of the time so far") == 2
    assert "finished: 2 epochs, 8 steps" in said


def test_features_that_are_not_finite_have_no_score_and_end_nothing(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encode = SimCLR.encode
    monkeypatch.setattr(SimCLR, "encode", lambda self, batch: encode(self, batch) * float("nan"))
    options = (*ALL, "epochs=9", "stop.on=knn", "stop.patience=2")
    result = train(tiny_run(digits_webdataset.path, tmp_path, *options))
    assert "knn nan %, linear nan %, evaluated" in capsys.readouterr().err
    assert result.ending.line == "stopped after epoch 2 of 9: knn has not risen in 2 evaluations (no finite value yet)"
    assert [set(record) for record in figures(tmp_path).values()] == [{"evaluate_s"}] * 2


# How it ends


def stopping(data: ShardSet, held_out: ShardSet, out: Path, *overrides: str) -> RunConfig:
    """Nothing is better than the first evaluation, so that it stops after the third epoch of six."""
    watched = ("stop.on=loss", "stop.patience=2", "stop.min_change=100", f"validation={held_out.path}", *ALL)
    return tiny_run(data.path, out, "epochs=6", "checkpoint.best=knn", *watched, *overrides)


@pytest.fixture(scope="module")
def stopped(digits_webdataset: ShardSet, held_out: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stopped early."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("stopped")
    result = train(stopping(digits_webdataset, held_out, out), progress=False)
    torch.set_num_threads(threads)
    assert (result.ending.why, result.step, result.total_steps) == ("early stop", 12, 24)
    assert result.checkpoint.name == "step-00000012.pt"
    return out


def test_an_early_stop_is_said_and_kept(stopped: Path, digits_webdataset: ShardSet) -> None:
    ending = read_ending(stopped)
    assert ending is not None
    first = f"{figures(stopped)[4]['held_out_loss']:.4g}"
    assert ending.line == (
        f"stopped after epoch 3 of 6: held-out loss has not fallen by 100 in 2 evaluations (best {first} at epoch 1)"
    )
    assert json.loads((stopped / "ended.json").read_text(encoding="utf-8")) == {
        "why": "early stop", "line": ending.line, "step": 12
    }  # fmt: skip


@pytest.mark.parametrize("step", range(1, 12))
def test_killed_and_resumed_it_stops_at_the_same_step(
    digits_webdataset: ShardSet, held_out: ShardSet, stopped: Path, tmp_path: Path, step: int
) -> None:
    class Killed(Exception):
        pass

    def kill(record: Record) -> None:
        assert read_ending(tmp_path) is None
        if record["step"] == step:
            raise Killed

    config = stopping(digits_webdataset, held_out, tmp_path)
    with pytest.raises(Killed):
        train(config, progress=False, on_step=kill)
    assert read_ending(tmp_path) is None
    assert train(config, progress=False).ending == read_ending(stopped)
    for part in ("step", "model", "optimizer", "loader", "evaluator"):
        assert same_bits(final_state(tmp_path)[part], final_state(stopped)[part]), part
    assert losses(tmp_path) == losses(stopped)
    best = [read_checkpoint(run / "checkpoints" / "best.pt") for run in (tmp_path, stopped)]
    assert best[0]["step"] == best[1]["step"]
    assert same_bits(best[0]["model"], best[1]["model"])


def test_a_run_that_stopped_early_stays_as_it_is(
    digits_webdataset: ShardSet, held_out: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = stopping(digits_webdataset, held_out, tmp_path)
    train(config, progress=False)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()}
    capsys.readouterr()
    again = train(config, progress=False)
    assert (again.ending.why, again.step, again.record) == ("early stop", 12, None)
    said = capsys.readouterr().err
    assert "is finished: step 12 of 24" in said
    assert "stopped after epoch 3 of 6" in said
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()} == before
    # With more patience it goes on, and stops when that is over.
    more = train(stopping(digits_webdataset, held_out, tmp_path, "stop.patience=4"), progress=False)
    assert (more.ending.why, more.step) == ("early stop", 20)
    assert train(stopping(digits_webdataset, held_out, tmp_path, "stop.on=null"), progress=False).step == 24
    ending = read_ending(tmp_path)
    assert ending is not None
    assert (ending.why, ending.line) == ("finished", "finished: 6 epochs, 24 steps")


def test_the_best_state_is_kept(stopped: Path, tmp_path: Path) -> None:
    best = read_checkpoint(stopped / "checkpoints" / "best.pt")
    scores = {step: record["knn"] for step, record in figures(stopped).items()}
    first_best = max(scores, key=lambda step: (scores[step], -step))
    assert best["step"] == first_best
    assert best["evaluator"]["best"]["value"] == scores[first_best]
    assert [path.name for path in checkpoint_paths(stopped / "checkpoints")] == ["step-00000012.pt", "step-00000009.pt"]
    _, method = load_run(stopped / "checkpoints" / "best.pt")
    assert same_bits(dict(method.state_dict()), dict(best["model"]))


def test_a_kill_between_a_checkpoint_and_the_best_costs_nothing(
    digits_webdataset: ShardSet, held_out: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def killed(path: Path) -> None:
        raise Killed

    config = stopping(digits_webdataset, held_out, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("headrace.train.loop.keep_best", killed)
        with pytest.raises(Killed):
            train(config, progress=False)
    assert checkpoint_paths(tmp_path / "checkpoints")[0].name == "step-00000004.pt"
    assert not (tmp_path / "checkpoints" / "best.pt").exists()
    train(config.with_overrides(["epochs=6", "stop.hours=1e-9"]), progress=False)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.pt")["step"] == 4


def test_the_best_is_a_copy_where_there_are_no_links(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*arguments: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    train(tiny_run(digits_webdataset.path, tmp_path, "probe.every=1", "checkpoint.best=knn", "epochs=1"))
    best, last = (read_checkpoint(tmp_path / "checkpoints" / name) for name in ("best.pt", "step-00000004.pt"))
    assert same_bits(best["model"], last["model"])


def test_wall_time_ends_a_start_and_the_next_one_goes_on(
    digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_run(digits_webdataset.path, tmp_path / "whole", "epochs=1"), progress=False)
    config = tiny_run(digits_webdataset.path, tmp_path / "run", "epochs=1", "stop.hours=1e-9")
    for step in (1, 2, 3):
        result = train(config, progress=False)
        assert (result.ending.why, result.step) == ("wall time", step)
        line = f"wall time: stopped at step {step} of 4 with a checkpoint; run again to resume"
        assert read_ending(tmp_path / "run") == result.ending
        assert result.ending.line == line
        assert line in capsys.readouterr().err
    assert train(config, progress=False).ending.why == "finished"
    assert same_bits(final_state(tmp_path / "run")["model"], final_state(tmp_path / "whole")["model"])


def test_a_signal_and_an_error_are_kept_too(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(record: Record) -> None:
        if record["step"] == 2:
            signal.raise_signal(signal.SIGTERM)

    train(tiny_run(digits_webdataset.path, tmp_path), progress=False, on_step=send)
    ending = read_ending(tmp_path)
    assert ending is not None
    assert (ending.why, ending.step) == ("SIGTERM", 3)
    loss = SimCLR.loss
    monkeypatch.setattr(SimCLR, "loss", lambda self, batch: {"loss": loss(self, batch)["loss"] * float("nan")})
    with pytest.raises(RunError) as raised:
        train(tiny_run(digits_webdataset.path, tmp_path), progress=False)
    ending = read_ending(tmp_path)
    assert ending is not None
    assert (ending.why, ending.line, ending.step) == ("error", str(raised.value), 4)
    assert "the loss is not finite at step 4" in ending.line


def test_the_command_line_tells_how_it_ended(
    digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run("", "", "epochs=1").save(tmp_path / "tiny.yaml")
    command = ["train", "simclr", "--data", str(digits_webdataset.path), "--out", str(tmp_path / "run"), "--json"]
    command += ["--config", str(tmp_path / "tiny.yaml")]
    assert main([*command, "--stop.hours", "1e-9"]) == 124
    printed = json.loads(capsys.readouterr().out)
    assert (printed["steps"], printed["ending"]["why"]) == (1, "wall time")
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["ending"]["why"] == "finished"


# What cannot be measured


def test_sets_and_methods_that_cannot_be_judged_are_refused(
    digits_webdataset: ShardSet, tmp_path: Path, held_out: ShardSet
) -> None:
    bare = [{key: sample[key] for key in ("__key__", "image")} for sample in digit_samples(20)]
    write_shards(tmp_path / "bare", bare, {"image": DIGIT_FIELDS["image"]})
    no_labels = r"probe\.protocols: must be \[\] where .*bare has no labels"
    with pytest.raises(ConfigError, match=no_labels):
        train(tiny_run(tmp_path / "bare", tmp_path / "run", "probe.every=1"), progress=False)
    validation = ("probe.every=1", f"validation={tmp_path / 'bare'}")
    with pytest.raises(ConfigError, match=no_labels):
        train(tiny_run(digits_webdataset.path, tmp_path / "run", *validation), progress=False)
    model = replace(METHODS["deepcluster"].config(), **TINY["deepcluster"])
    config = replace(tiny_run(digits_webdataset.path, tmp_path / "run"), method="deepcluster", model=model)
    with pytest.raises(ConfigError, match="validation: DeepCluster has a loss of the samples that it is"):
        train(replace(config, validation=str(held_out.path), probe=ProbeConfig(every=1)), progress=False)
    assert not (tmp_path / "run" / "config.yaml").exists()
    options = ("probe.every=1", "probe.protocols=[]", f"validation={tmp_path / 'bare'}", "epochs=1")
    train(tiny_run(tmp_path / "bare", tmp_path / "run", *options), progress=False)
    assert set(figures(tmp_path / "run")[4]) == {"held_out_loss", "evaluate_s"}


# Pictures


def test_pictures_are_drawn_before_the_run_at_evaluations_and_at_the_end(
    digits_webdataset: ShardSet, held_out: ShardSet, tmp_path: Path
) -> None:
    make: Callable[[], Method] = lambda: Mean(MeanConfig())  # noqa: E731
    train(mean_run(digits_webdataset, tmp_path / "end", "epochs=2"), method=make, progress=False)
    steps = sorted(path.name for path in (tmp_path / "end" / "pictures").iterdir())
    assert steps == ["step-00000000", "step-00000008"]
    assert figures(tmp_path / "end") == {}, "pictures alone are no evaluation"
    options = ("probe.every=1", "optim.lr=0.1")
    train(mean_run(digits_webdataset, tmp_path / "run", *options), method=make, progress=False)
    steps = sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir())
    assert steps == [f"step-{step:08d}" for step in (0, 4, 8, 12)]
    drawn = drawn_pictures(tmp_path / "run")
    assert {step: list(files) for step, files in drawn.items()} == {step: ["images", "level"] for step in (0, 4, 8, 12)}
    files = drawn[12]
    # Eight pictures of 28 pixels side by side, two white ones between them.
    level, images = (np.asarray(Image.open(files[name])) for name in ("level", "images"))
    assert level.shape == images.shape == (28, 8 * 28 + 7 * 2, 3)
    gaps = np.array([28, 29]) + 30 * np.arange(7)[:, None]
    assert (level[:, gaps.ravel()] == 255).all()
    learnt = float(final_state(tmp_path / "run")["model"]["level"])
    assert (np.delete(level, gaps.ravel(), axis=1) == round(255 * learnt)).all()
    stored = {digits_webdataset.read(i)["image"].tobytes() for i in range(len(digits_webdataset))}
    assert all(images[:, left : left + 28].tobytes() in stored for left in range(0, 240, 30))


def test_pictures_change_nothing(digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(mean_run(digits_webdataset, tmp_path / "drawn"), method=lambda: Mean(MeanConfig()), progress=False)
    monkeypatch.delattr(Mean, "pictures")
    train(mean_run(digits_webdataset, tmp_path / "plain"), method=lambda: Mean(MeanConfig()), progress=False)
    assert losses(tmp_path / "drawn") == losses(tmp_path / "plain")
    assert drawn_pictures(tmp_path / "plain") == {}


def test_pictures_of_another_shape_are_refused_before_the_first_step(
    digits_webdataset: ShardSet, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"pictures: level must be of shape \(B, 3, H, W\), got \(8, 1, 28, 28\)"):
        train(mean_run(digits_webdataset, tmp_path), method=lambda: Mean(MeanConfig(broken=True)), progress=False)
    assert read_metrics(tmp_path) == []


# Two ranks


def on_a_rank(rank: int, data: str, held_out: str, out: str) -> dict[str, Any]:
    with open_shards(data) as shards, open_shards(held_out) as others:
        result = train(stopping(shards, others, Path(out), *FOR_RANKS), progress=False)
    # What every rank found, for its own decisions.
    return {"step": result.step, "why": result.ending.why, "evaluator": final_state(out)["evaluator"]}


FOR_RANKS = ("batch_size=20", "model.backbone.options.drop_rate=0.0")


def test_ranks_share_the_loss_and_stop_together(
    digits_webdataset: ShardSet, held_out: ShardSet, tmp_path: Path
) -> None:
    """The held-out loss on two ranks is that of one process with the same weights."""
    out = tmp_path / "run"
    ranks = on_ranks(on_a_rank, 2, tmp_path, str(digits_webdataset.path), str(held_out.path), str(out))
    assert [(rank["step"], rank["why"]) for rank in ranks] == [(30, "early stop")] * 2
    config, method = load_run(out / "checkpoints" / "best.pt")
    step = read_checkpoint(out / "checkpoints" / "best.pt")["step"]
    scores = evaluate_alone(config, method, digits_webdataset, held_out, tmp_path, step)
    found = figures(out)[step]
    assert found["held_out_loss"] == pytest.approx(scores["held_out_loss"], rel=1e-4)
    assert (found["knn"], found["linear"]) == (scores["knn"], scores["linear"])


def evaluate_alone(
    config: RunConfig, method: Method, data: ShardSet, held_out: ShardSet, folder: Path, step: int
) -> Record:
    """What one process finds of the method."""
    from functools import partial

    from headrace.train.distributed import World
    from headrace.train.run import _loader

    world = World(0, 1, torch.device("cpu"))
    loader = partial(_loader, config, method)
    return Evaluator(config, world, method, data, held_out, loader, step, lambda line: None).evaluate(step)
