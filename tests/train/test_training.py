"""The loop: it resumes to the same bits from any step, stops when told, and says what goes wrong."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace.models import METHODS, build_method
from headrace.models.methods.joint.simclr import SimCLR
from headrace.pipeline import Batch, Normalize
from headrace.shards import ShardError, ShardSet, open_shards, write_shards
from headrace.train import ConfigError, RunConfig, RunError, load_run, read_metrics, train
from headrace.train import loop as loop_module
from headrace.train import metrics as metrics_module
from headrace.train import precision as precision_module
from headrace.train import run as run_module
from headrace.train.distributed import World
from headrace.train.metrics import Meter, Record
from headrace.train.precision import choose_precision
from tests.train.tiny_runs import final_state, same_bits, tiny_run

STEPS = 12


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The number of threads is part of what bits depend on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(digits_webdataset: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole")
    train(tiny_run(digits_webdataset.path, out), progress=False)
    torch.set_num_threads(threads)
    return out


def losses(out: Path) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in read_metrics(out)]


class Crash(Exception):
    pass


def test_the_rate_drops_at_the_epochs_that_say_so(whole: Path, digits_webdataset: ShardSet, tmp_path: Path) -> None:
    train(tiny_run(digits_webdataset.path, tmp_path, "schedule.drops={1: 0.1, 2: 0.5}"), progress=False)
    factors = [found["lr"] / plain["lr"] for found, plain in zip(*map(read_metrics, (tmp_path, whole)), strict=True)]
    assert factors == pytest.approx([1.0] * 4 + [0.1] * 4 + [0.05] * 4)


def test_a_run_leaves_what_it_promises(whole: Path) -> None:
    records = read_metrics(whole)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert [record["epoch"] for record in records] == [0] * 4 + [1] * 4 + [2] * 4
    for record in records:
        stages = {"decode_ms", "augment_ms", "plan_ms"}
        figures = {"samples_per_s", "data_wait", "label_clumping", "memory_mb", *stages}
        meters = {"feature_rank", "feature_std"} if record["step"] % 5 == 0 else set()
        assert record.keys() == {"step", "total_steps", "epoch", "loss", "grad_norm", "lr"} | figures | meters
        assert 0.5 < record["label_clumping"] < 2
        assert all(record[stage] >= 0 for stage in stages)
        assert 0 <= record["data_wait"] <= 1
        assert record["samples_per_s"] > 0
        assert 0 < record["grad_norm"] < 1e3
    assert RunConfig.load(whole / "config.yaml").batch_size == 50
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["step-00000009.pt", "step-00000012.pt"]


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_crash_at_any_step_costs_nothing_but_time(
    digits_webdataset: ShardSet, whole: Path, tmp_path: Path, step: int
) -> None:
    def crash(record: Record) -> None:
        if record["step"] == step:
            raise Crash

    config = tiny_run(digits_webdataset.path, tmp_path)
    with pytest.raises(Crash):
        train(config, progress=False, on_step=crash)
    seen: list[int] = []
    result = train(config, progress=False, on_step=lambda record: seen.append(record["step"]))
    # The crash at step 3 comes after its record and before its checkpoint.
    assert seen == list(range((step - 1) // 3 * 3 + 1, STEPS + 1))
    assert (result.step, result.total_steps, result.ending.why) == (STEPS, STEPS, "finished")
    expected, found = final_state(whole), final_state(tmp_path)
    for part in ("step", "model", "optimizer", "loader"):
        assert same_bits(found[part], expected[part]), part
    assert losses(tmp_path) == losses(whole)


RUN = """
import sys
from pathlib import Path
from headrace.train import RunConfig, train
train(RunConfig.load(sys.argv[1]), progress=False)
"""


def test_kill_dash_nine_costs_nothing_but_time(digits_webdataset: ShardSet, whole: Path, tmp_path: Path) -> None:
    config = tiny_run(digits_webdataset.path, tmp_path / "run")
    config.save(tmp_path / "run.yaml")
    command = [sys.executable, "-c", RUN, str(tmp_path / "run.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    step = random.Random(time.time_ns()).randrange(1, STEPS)
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    while len(read_metrics(tmp_path / "run")) < step:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed_after = len(read_metrics(tmp_path / "run"))
    subprocess.run(command, env=environment, check=True)
    expected, found = final_state(whole), final_state(tmp_path / "run")
    for part in ("step", "model", "optimizer", "loader"):
        assert same_bits(found[part], expected[part]), f"{part}, killed after step {killed_after}"
    assert losses(tmp_path / "run") == losses(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_a_checkpoint(
    digits_webdataset: ShardSet, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    def send(record: Record) -> None:
        if record["step"] == 4:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    config = tiny_run(digits_webdataset.path, tmp_path)
    result = train(config, progress=False, on_step=send)
    assert (result.step, result.ending.why) == (5, number.name)
    assert result.checkpoint.name == "step-00000005.pt"
    assert signal.getsignal(number) is handler
    assert train(config, progress=False).ending.why == "finished"
    assert same_bits(final_state(tmp_path)["model"], final_state(whole)["model"])


def test_a_second_signal_does_not_wait(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    def send_twice(record: Record) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny_run(digits_webdataset.path, tmp_path), progress=False, on_step=send_twice)


def test_training_works_outside_the_main_thread(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    config = tiny_run(digits_webdataset.path, tmp_path, "epochs=1")
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(train(config, progress=False)))
    thread.start()
    thread.join()
    assert results[0].step == 4


def test_a_finished_run_is_left_as_it_is(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    config = tiny_run(digits_webdataset.path, tmp_path, "epochs=1")
    train(config, progress=False)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()}
    result = train(config, progress=False)
    assert (result.step, result.record) == (4, None)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()} == before
    assert len(read_metrics(tmp_path)) == 4


def test_a_truncated_checkpoint_is_passed_over(
    digits_webdataset: ShardSet, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_run(digits_webdataset.path, tmp_path)
    newest = train(config, progress=False).checkpoint
    newest.write_bytes(newest.read_bytes()[:-100])
    result = train(config, progress=False)
    assert "step-00000012.pt: not a readable checkpoint" in capsys.readouterr().err
    assert result.step == STEPS
    assert same_bits(final_state(tmp_path)["model"], final_state(whole)["model"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=0.5", r"optim\.lr: .* was started with 0\.01, not 0\.5; use the same value, or another out"),
        ("model.temperature=0.5", r"model\.temperature: .* was started with 0\.1, not 0\.5"),
        ("precision=bfloat16", "precision: .* was started with 'float32', not 'bfloat16'"),
    ],
)
def test_another_run_is_not_continued(digits_webdataset: ShardSet, tmp_path: Path, override: str, message: str) -> None:
    train(tiny_run(digits_webdataset.path, tmp_path, "epochs=1"), progress=False)
    with pytest.raises(ConfigError, match=message):
        train(tiny_run(digits_webdataset.path, tmp_path, "epochs=1", override), progress=False)
    # What counts are the checkpoint's own settings, whatever became of the file beside it.
    tiny_run(digits_webdataset.path, tmp_path, "epochs=1", override).save(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=message):
        train(tiny_run(digits_webdataset.path, tmp_path, "epochs=1", override), progress=False)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=message):
        train(tiny_run(digits_webdataset.path, tmp_path, "epochs=1", override), progress=False)
    assert train(tiny_run(digits_webdataset.path, tmp_path, "epochs=1"), progress=False).step == 4


def test_a_set_stored_class_by_class_is_warned_of_once(
    digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a small window; not with the global order, and not when it was stored shuffled."""
    samples = sorted((digits_webdataset.read(i) for i in range(200)), key=lambda sample: sample["label"])
    write_shards(tmp_path / "sorted", samples, digits_webdataset.fields)
    window = ("loader.order=window", "loader.window=20", "loader.lanes=2")
    for data, overrides, clumped in (
        (tmp_path / "sorted", window, True),
        (tmp_path / "sorted", (), False),
        (digits_webdataset.path, window, False),
    ):
        capsys.readouterr()
        out = tmp_path / f"{Path(str(data)).name}-{len(overrides)}"
        train(tiny_run(data, out, *overrides), progress=False)
        assert capsys.readouterr().err.count("labels clump: batches hold") == clumped
        ratios = [record["label_clumping"] for record in read_metrics(out)]
        assert (np.mean(ratios) > 2) == clumped


def test_a_cache_that_the_order_is_too_large_for_is_warned_of_once(
    digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = digits_webdataset.manifest.bytes
    for times, warned in ((0.5, True), (2.0, False)):
        options: dict[str, Any] = {"cache_dir": tmp_path / f"cache-{times}", "cache_bytes": int(times * size)}
        monkeypatch.setattr(run_module, "open_shards", partial(open_shards, **options, block_bytes=4096))
        capsys.readouterr()
        out = tmp_path / f"run-{times}"
        overrides = ("epochs=1", "batch_size=10", "loader.prefetch=1")
        train(tiny_run(f"file://{digits_webdataset.path}", out, *overrides), progress=False)
        said = re.findall("the cache holds .* shards are fetched several times.*", capsys.readouterr().err)
        assert len(said) == warned
        assert [record["cache_room"] for record in read_metrics(out)] == [pytest.approx(times, rel=0.01)] * 20


def test_a_run_resumes_in_its_order(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    """Also where nothing is said of it; another one is refused."""
    window = ("loader.order=window", "loader.window=40", "loader.lanes=4")
    train(tiny_run(digits_webdataset.path, tmp_path / "whole", *window), progress=False)

    def crash(record: Record) -> None:
        if record["step"] == 7:
            raise Crash

    with pytest.raises(Crash):
        train(tiny_run(digits_webdataset.path, tmp_path / "run", *window), progress=False, on_step=crash)
    with pytest.raises(ConfigError, match=r"loader: the state is of a loader with order='window', window=40, lanes=4"):
        train(tiny_run(digits_webdataset.path, tmp_path / "run", "loader.order=global"), progress=False)
    train(tiny_run(digits_webdataset.path, tmp_path / "run"), progress=False)
    assert same_bits(final_state(tmp_path / "run")["model"], final_state(tmp_path / "whole")["model"])


def test_what_does_not_shape_the_weights_may_change(digits_webdataset: ShardSet, whole: Path, tmp_path: Path) -> None:
    def crash(record: Record) -> None:
        if record["step"] == 7:
            raise Crash

    with pytest.raises(Crash):
        train(tiny_run(digits_webdataset.path, tmp_path), progress=False, on_step=crash)
    other = ("log.every_steps=5", "loader.threads=1", "loader.prefetch=1", "checkpoint.every_steps=0")
    train(tiny_run(digits_webdataset.path, tmp_path, *other), progress=False)
    assert same_bits(final_state(tmp_path)["model"], final_state(whole)["model"])
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3, 4, 5, 6, 10, 12]


def test_other_data_is_not_continued_on(digits_webdataset: ShardSet, photos: ShardSet, tmp_path: Path) -> None:
    train(tiny_run(digits_webdataset.path, tmp_path, "epochs=1", "batch_size=20"), progress=False)
    with pytest.raises(ConfigError, match=r"data or loader: the state is of 200 samples, .* was started otherwise"):
        train(tiny_run(photos.path, tmp_path, "epochs=1", "batch_size=20"), progress=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data="], "data: must be given"),
        (["out="], "out: must be given"),
        (["batch_size=201"], "batch_size: must be at most 200, the samples of "),
    ],
)
def test_what_cannot_run_is_refused(
    digits_webdataset: ShardSet, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tiny_run(digits_webdataset.path, tmp_path / "run", *overrides), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_is_refused_without_one(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device: must be cpu or auto on a machine without CUDA, got 'cuda'"):
        train(tiny_run(digits_webdataset.path, tmp_path, "device=cuda"), progress=False)


def test_assigned_fields_are_checked(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    config = tiny_run(digits_webdataset.path, tmp_path)
    config.optim.lr = -1.0
    with pytest.raises(ConfigError, match=r"optim\.lr: must be above 0, got -1\.0"):
        train(config, progress=False)


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, calls = SimCLR.loss, []

    def unsound(self: SimCLR, batch: Batch) -> dict[str, torch.Tensor]:
        calls.append(batch)
        terms = sound(self, batch)
        return {"loss": terms["loss"] * (float("nan") if len(calls) == 5 else 1.0)}

    monkeypatch.setattr(SimCLR, "loss", unsound)
    config = tiny_run(digits_webdataset.path, tmp_path, "log.every_steps=7")
    with pytest.raises(RunError) as caught:
        train(config, progress=False)
    assert "the loss is not finite at step 5; the newest checkpoint, step-00000003.pt, is from before" in str(
        caught.value
    )
    assert len(calls) == 6 + 1  # seen at the next step that reads the device anyway, and taken again for its capsule
    assert final_state(tmp_path)["step"] == 3
    assert losses(tmp_path) == []


def test_a_trained_method_comes_back(whole: Path) -> None:
    config, method = load_run(whole)
    assert config.out == str(whole)
    assert not method.training
    assert same_bits(dict(method.state_dict()), dict(final_state(whole)["model"]))
    earlier, _ = load_run(whole / "checkpoints" / "step-00000009.pt")
    assert earlier == config


def test_loading_nothing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint in it; train first"):
        load_run(tmp_path)


def test_the_precision_is_chosen_once(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Larger views: of a 3x3 convolution with stride 2 over a single pixel, oneDNN leaves a part of bfloat16's gradient
    # as it finds the memory.
    overrides = ("precision=auto", "checkpoint.every_steps=0", "model.size=16")
    config = tiny_run(digits_webdataset.path, tmp_path, *overrides)
    monkeypatch.setattr(run_module, "choose_precision", lambda *_: ("bfloat16", "it was asked nicely"))

    def crash(record: Record) -> None:
        raise Crash

    with pytest.raises(Crash):
        train(config, on_step=crash)
    assert "precision bfloat16: it was asked nicely" in capsys.readouterr().err
    assert RunConfig.load(tmp_path / "config.yaml").precision == "bfloat16"
    monkeypatch.setattr(run_module, "choose_precision", lambda *_: pytest.fail("measured again"))
    # Even without a checkpoint: a killed run must become the run that it would have been.
    assert train(config, progress=False).config.precision == "bfloat16"
    assert load_run(tmp_path)[0].precision == "bfloat16"


@pytest.mark.parametrize(
    ("steps", "chosen"),
    [
        ([3.0, 0.6, 0.5], "bfloat16"),
        ([3.0, 0.95, 0.97], "float32"),
        ([9.0], "float32"),  # hopeless: takes no second step
    ],
)
def test_bfloat16_must_be_worth_it(monkeypatch: pytest.MonkeyPatch, steps: list[float], chosen: str) -> None:
    seconds = {torch.float32: [2.0, 1.1, 1.0], torch.bfloat16: steps}
    monkeypatch.setattr(precision_module, "_steps", lambda method, batch, dtype: iter(seconds[dtype]))
    method = build_method("simclr", tiny_run("", "").model)
    assert choose_precision(method, World(0, 1, torch.device("cpu")), lambda: noise_batch(4))[0] == chosen


def noise_batch(samples: int) -> Batch:
    """Of two views of 8 pixels."""
    noise = torch.Generator().manual_seed(0)
    views = [torch.randint(0, 256, (samples, 3, 8, 8), generator=noise, dtype=torch.uint8) for _ in range(2)]
    return Batch.of_views(views, [Normalize(), Normalize()])


def test_measuring_leaves_no_trace() -> None:
    method = build_method("simclr", tiny_run("", "").model).train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    generator = torch.get_rng_state()
    chosen, reason = choose_precision(method, World(0, 1, torch.device("cpu")), lambda: noise_batch(16))
    assert chosen in ("float32", "bfloat16")
    assert reason.startswith("16 samples t")
    assert same_bits(dict(method.state_dict()), before)
    assert all(p.grad is None for p in method.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_lines_tell_speed_and_waiting_where_there_is_no_terminal(
    digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_run(digits_webdataset.path, tmp_path, "epochs=1", "log.tensorboard=true"))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("samples/s  data wait ") == 4
    assert "step 4/4  epoch 0  lr " in printed.err
    events = list((tmp_path / "tensorboard").glob("events*"))
    assert len(events) == 1
    assert b"data_wait" in events[0].read_bytes()


def test_a_cut_line_of_metrics_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo', encoding="utf-8"
    )
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert read_metrics(tmp_path / "missing") == []


def test_the_meter_tells_waiting_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(metrics_module, "perf_counter", lambda: clock)

    def loader() -> Iterator[int]:
        nonlocal clock
        for item in range(4):
            clock += 1.0
            yield item

    meter = Meter()
    for _ in meter.watch(loader(), 10):
        clock += 3.0
    assert meter.read() == {"samples_per_s": 40 / 16, "data_wait": 4 / 16}
    meter.restart()
    clock += 1.0
    assert meter.read() == {"samples_per_s": 0, "data_wait": 0}


def test_the_loop_names_no_method() -> None:
    source = Path(loop_module.__file__).read_text(encoding="utf-8")
    assert not [name for name in METHODS if re.search(rf"\b{name}\b", source.lower())]


def test_a_bad_sample_is_replaced_where_that_is_asked_for(
    photos: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [photos.read(i) for i in range(24)]
    samples[5]["image"] = samples[5]["image"][:5000]
    write_shards(tmp_path / "data", samples, photos.fields)
    usual = ("epochs=1", "batch_size=8", "checkpoint.every_steps=0")
    with pytest.raises(ShardError, match="photo_0005"):
        train(tiny_run(tmp_path / "data", tmp_path / "error", *usual), progress=False)
    train(tiny_run(tmp_path / "data", tmp_path / "run", *usual, "loader.on_error=substitute"))
    assert "takes the place of a bad one: " in capsys.readouterr().err
    assert read_metrics(tmp_path / "run")[-1]["bad_samples"] == 1
