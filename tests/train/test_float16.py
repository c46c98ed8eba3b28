"""float16: its loss scale as torch's own loop has it, steps that are left out, and runs that go on to the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.method import kernels_and_vectors
from headrace.models.methods.joint.simclr import SimCLR
from headrace.pipeline import Batch
from headrace.shards import ShardSet
from headrace.train import OptimConfig, RunError, read_metrics, train
from headrace.train import precision as precision_module
from headrace.train.finite import gradient_norm
from headrace.train.metrics import Record
from headrace.train.optim import build_optimizer, clip_players, step_unless
from headrace.train.precision import Precision
from tests.train.tiny_runs import final_state, same_bits, tiny_run

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def halves(step: int) -> list[tuple[Tensor, Tensor]]:
    """A batch in two parts; at some steps of a size at which the scaled gradient overflows."""
    generator = torch.Generator().manual_seed(step)
    images, targets = torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)
    size = 300.0 if step in (0, 3) else 1.0
    return list(zip((size * images).chunk(2), targets.chunk(2), strict=True))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_steps_are_those_of_torchs_own_loop(name: str, clip: float) -> None:
    """With parts of a batch and clipping; torch's waits for the device at each step."""
    ours, theirs = network(), network()
    config = OptimConfig(name=name, lr=0.05, weight_decay=0.0, clip=clip)  # type: ignore[arg-type]
    optimizer = build_optimizer(kernels_and_vectors(ours), config, 256)
    precision = Precision("float16", CPU)
    judge = (
        torch.optim.AdamW(theirs.parameters(), lr=0.05, weight_decay=0.0)
        if name == "adamw"
        else torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    )
    scaler = torch.amp.GradScaler("cpu")
    skipped = 0
    for step in range(6):
        optimizer.zero_grad()
        for images, targets in halves(step):
            with precision.autocast():
                loss = F.cross_entropy(ours(images), targets)
            precision.backward(loss / 2)
        precision.unscale(optimizer)
        bad = (~gradient_norm(ours.parameters()).isfinite()).float()
        clip_players(ours, optimizer, config)
        step_unless(optimizer, bad)
        precision.after_step(bad)

        judge.zero_grad()
        for images, targets in halves(step):
            with torch.autocast("cpu", torch.float16):
                loss = F.cross_entropy(theirs(images), targets)
            scaler.scale(loss / 2).backward()
        scaler.unscale_(judge)
        if clip:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        scaler.step(judge)
        scaler.update()

        skipped += int(bad)
        assert precision.figures() == {"loss_scale": scaler.get_scale(), "skipped_steps": skipped}
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert 0 < skipped < 6


def test_other_formats_scale_nothing() -> None:
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        module, precision = network(), Precision(name, CPU)  # type: ignore[arg-type]
        with precision.autocast():
            scores = module(torch.ones(2, 6))
        assert scores.dtype == dtype
        precision.backward(scores.float().sum() / 4)
        assert module[2].bias.grad is not None
        assert module[2].bias.grad.tolist() == [0.5 * (65536 if name == "float16" else 1)] * 3
        assert (precision.figures() == precision.state_dict() == {}) == (name != "float16")


def overflow_at(*steps: int) -> Any:
    """SimCLR's loss, with a part whose value is 0 and whose gradient is not finite at some calls."""
    sound, calls = SimCLR.loss, []

    def loss(self: SimCLR, batch: Batch) -> dict[str, Tensor]:
        calls.append(batch)
        terms = sound(self, batch)
        if len(calls) in steps:
            terms["loss"] = terms["loss"] + (0.0 * next(self.parameters()).sum()).sqrt()
        return terms

    return loss


def test_a_run_leaves_out_steps_counts_them_and_goes_on_to_the_same_bits(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(Exception):
        pass

    def crash(record: Record) -> None:
        if record["step"] == 7:
            raise Crash

    overrides = ("precision=float16", "optim.clip=1", "optim.accumulate=2")
    parts_of_steps_5_and_9 = (9, 17)
    with monkeypatch.context() as patched:
        patched.setattr(SimCLR, "loss", overflow_at(*parts_of_steps_5_and_9))
        train(tiny_run(digits_webdataset.path, tmp_path / "whole", *overrides), progress=False)

    records = read_metrics(tmp_path / "whole")
    skipped = ["grad_norm" not in record for record in records]
    assert skipped[4]
    assert skipped[8]
    assert not all(skipped)
    counts = [sum(skipped[: step + 1]) for step in range(12)]
    assert [record["skipped_steps"] for record in records] == counts
    assert [record["loss_scale"] for record in records] == [2.0 ** (16 - count) for count in counts]

    with monkeypatch.context() as patched:
        patched.setattr(SimCLR, "loss", overflow_at(*parts_of_steps_5_and_9))
        with pytest.raises(Crash):
            train(tiny_run(digits_webdataset.path, tmp_path / "cut", *overrides), progress=False, on_step=crash)
    with monkeypatch.context() as patched:
        patched.setattr(SimCLR, "loss", overflow_at(17 - 12))  # it goes on behind step 6
        train(tiny_run(digits_webdataset.path, tmp_path / "cut", *overrides), progress=False)
    for part in ("model", "optimizer", "precision"):
        assert same_bits(final_state(tmp_path / "cut")[part], final_state(tmp_path / "whole")[part]), part


def test_losses_are_nearly_those_of_float32(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    for precision in ("float32", "float16"):
        config = tiny_run(digits_webdataset.path, tmp_path / precision, f"precision={precision}", "optim.lr=1e-9")
        train(config, progress=False)
    exact, rough = ([record["loss"] for record in read_metrics(tmp_path / name)] for name in ("float32", "float16"))
    assert rough != exact
    assert rough == pytest.approx(exact, rel=5e-3)


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimCLR, "loss", overflow_at(*range(1, 13)))
    monkeypatch.setattr(precision_module, "LEAST_SCALE", 2.0**12)
    config = tiny_run(digits_webdataset.path, tmp_path, "precision=float16", "checkpoint.every_steps=0")
    with pytest.raises(RunError, match="the gradient is not finite in float16, not even with a loss scale of 4096"):
        train(config, progress=False)
    assert [record["skipped_steps"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_a_loss_that_is_not_finite_still_ends_the_run(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = SimCLR.loss
    monkeypatch.setattr(SimCLR, "loss", lambda self, batch: {"loss": sound(self, batch)["loss"] * torch.inf})
    with pytest.raises(RunError, match="the loss is not finite at step 1"):
        train(tiny_run(digits_webdataset.path, tmp_path, "precision=float16"), progress=False)
