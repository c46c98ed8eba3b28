"""Bad steps on a GPU: undone on it without a wait, kept, taken again, and gone on from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.models import Method
from headrace.shards import ShardSet
from headrace.train import RunError, read_metrics, replay, train
from headrace.train.distributed import World
from headrace.train.guard.capsule import read_capsule
from headrace.train.guard.held import HeldState
from headrace.train.guard.watch import Watch
from headrace.train.precision import Precision
from headrace.train.stopping import Stop
from tests.train.planted import Planted, plant
from tests.train.test_bad_steps import planted_run, state_after, weights_and_moments
from tests.train.tiny_runs import same_bits

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_capsule_comes_to_the_same_bits(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    plant(monkeypatch, {6: "gradient"})
    settings = (
        "device=cuda",
        f"precision={precision}",
        "model.size=16",
        "log.every_steps=5",
        "checkpoint.every_steps=5",
    )
    with pytest.raises(RunError, match="the gradient is not finite at step 6") as caught:
        train(planted_run(digits_webdataset.path, tmp_path, *settings), progress=False)
    assert "deterministic" not in str(caught.value)
    assert Planted.taken == [*range(1, 11), 6]
    folder = tmp_path / "capsules" / "step-00000006"
    assert same_bits(weights_and_moments(read_capsule(folder)), weights_and_moments(state_after(tmp_path, 5)))
    again = replay(folder)
    assert again.differs == []
    assert again.not_finite == ["backbone.conv1.weight"]


@pytest.mark.parametrize("policy", ["skip", "roll_back"])
def test_a_run_goes_on(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    plant(monkeypatch, {6: "loss", 7: "gradient"})
    settings = ("device=cuda", f"guard.on_bad_step={policy}", "log.every_steps=4", "checkpoint.every_steps=4")
    result = train(planted_run(digits_webdataset.path, tmp_path, *settings), progress=False)
    assert result.step == 12
    assert read_metrics(tmp_path)[-1]["left_out"] == (2 if policy == "skip" else 3)


def test_nobody_waits_for_the_device() -> None:
    class Remembers(Method):
        def __init__(self) -> None:
            super().__init__()
            for number, kind in enumerate((torch.float32, torch.bfloat16, torch.int64, torch.bool)):
                self.register_buffer(f"of_{number}", torch.ones(3, 2, device=CUDA).to(kind))

    method: Any = Remembers()
    held, watch = HeldState(method, Precision("float32", CUDA)), Watch(World(0, 1, CUDA), Stop())
    one = torch.ones((), device=CUDA)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for norm in (one, one / 0, one):
            held.keep()
            method.of_0.fill_(torch.nan)
            held.put_back(watch.step(1, one, norm)[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert method.of_0.isnan().all(), "the first step was good"
    assert watch.look() is not None
