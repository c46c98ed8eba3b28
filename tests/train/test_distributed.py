"""Two gloo ranks take the steps that one process takes, and go on with its run."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from headrace.models.methods.joint.simclr import SimCLR
from headrace.pipeline import Batch
from headrace.shards import ShardSet
from headrace.train import ConfigError, RunError, RunResult, read_metrics, train
from headrace.train.checkpoint import checkpoint_paths
from headrace.train.distributed import join
from headrace.train.metrics import Record
from tests.train.tiny_runs import final_state, same_bits, tiny_run

RANKS = 2
Terms = dict[str, torch.Tensor]


def record_batches(seen: list[torch.Tensor], methods: list[SimCLR]) -> None:
    """Make SimCLR note the samples of each batch, and itself."""
    original = SimCLR.loss

    def noted(self: SimCLR, batch: Batch) -> dict[str, torch.Tensor]:
        seen.append(batch.index.clone())
        methods[:] = [self]
        return original(self, batch)

    SimCLR.loss = noted  # type: ignore[method-assign]


def rank_main(rank: int, ports: list[int], data: str, out: str) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    seen: list[torch.Tensor] = []
    methods: list[SimCLR] = []
    record_batches(seen, methods)

    def run(folder: str, port: int, *overrides: str) -> RunResult:
        # A port for each: on one port, a rank that is early would meet the store of the group before.
        os.environ["MASTER_PORT"] = str(port)
        return train(tiny_run(data, f"{out}/{folder}", *overrides), progress=False)

    with pytest.raises(ConfigError, match="batch_size: must be a multiple of the 2 ranks, got 51"):
        run("refused", ports[0], "batch_size=51")
    with pytest.raises(ConfigError, match="sync_batch_norm: must be false for several ranks on the CPU"):
        run("refused", ports[1], "sync_batch_norm=true")
    not_finite_on_the_last_rank(rank, run, ports[3:5])
    told_to_stop_on_the_last_rank(rank, run, ports[5])
    assert run("measured", ports[6], "precision=auto", "epochs=1", "model.size=32").step == 4
    result = run("run", ports[2], "precision=auto")
    weights = dict(methods[0].named_parameters())
    torch.save({"seen": seen[-9:], "weights": weights, "step": result.step}, f"{out}/rank{rank}.pt")


def not_finite_on_the_last_rank(rank: int, run: Callable[..., RunResult], ports: list[int]) -> None:
    """Both ranks end at the same step, with the same words and without a checkpoint."""
    sound = SimCLR.loss
    for what, port in zip(("loss", "gradient"), ports, strict=True):
        calls: list[Batch] = []

        def unsound(
            self: SimCLR, batch: Batch, what: str = what, calls: list[Batch] = calls
        ) -> dict[str, torch.Tensor]:
            calls.append(batch)
            loss = sound(self, batch)["loss"]
            if rank == RANKS - 1 and len(calls) == 2:
                loss = loss + (torch.nan if what == "loss" else (0 * next(self.parameters()).sum()).sqrt())
            return {"loss": loss}

        SimCLR.loss = unsound  # type: ignore[method-assign]
        with pytest.raises(RunError, match=f"the {what} is not finite at step 2"):
            run(f"unsound {what}", port, "log.every_steps=4")
        assert len(calls) == 3 + 1  # the step of the first checkpoint, and the bad one again
    SimCLR.loss = sound  # type: ignore[method-assign]


def told_to_stop_on_the_last_rank(rank: int, run: Callable[..., RunResult], port: int) -> None:
    """Both ranks stop a step later, whenever the next line of the log would be."""
    sound, calls = SimCLR.loss, []

    def signalled(self: SimCLR, batch: Batch) -> Terms:
        calls.append(batch)
        if rank == RANKS - 1 and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return sound(self, batch)

    SimCLR.loss = signalled  # type: ignore[method-assign]
    result = run("stopped", port, "log.every_steps=1000", "checkpoint.every_steps=0")
    SimCLR.loss = sound  # type: ignore[method-assign]
    assert (result.ending.why, result.step, result.checkpoint.name) == ("SIGTERM", 3, "step-00000003.pt")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different because they are held until all are found."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def test_two_ranks_go_on_with_one_processs_run(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = digits_webdataset.path
    monkeypatch.setattr(SimCLR, "loss", SimCLR.loss)  # put back afterwards
    seen: list[torch.Tensor] = []
    record_batches(seen, [])
    train(tiny_run(data, tmp_path / "whole"), progress=False)
    whole = [index.tolist() for index in seen]

    def stop(record: Record) -> None:
        if record["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(tiny_run(data, tmp_path / "run"), progress=False, on_step=stop).step == 3

    mp.spawn(rank_main, (free_ports(7), str(data), str(tmp_path)), nprocs=RANKS)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]
    assert [rank["step"] for rank in ranks] == [12, 12]
    for step, shares in enumerate(zip(*(rank["seen"] for rank in ranks), strict=True), start=3):
        assert [len(share) for share in shares] == [25, 25]
        assert torch.cat(shares).tolist() == whole[step]
    assert same_bits(ranks[0]["weights"], ranks[1]["weights"])
    assert all(weight.isfinite().all() for weight in ranks[0]["weights"].values())
    assert same_bits({k: final_state(tmp_path / "run")["model"][k] for k in ranks[0]["weights"]}, ranks[0]["weights"])
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == list(range(1, 13))
    assert not (tmp_path / "refused").exists()
    for what in ("loss", "gradient"):
        assert checkpoint_paths(tmp_path / f"unsound {what}" / "checkpoints") == []


def test_a_rank_that_waits_in_vain_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that the configuration says, where torch's own would be half an hour."""
    place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_ports(1)[0]}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(torch.distributed.DistError, match=r"[Tt]imed out"), join("cpu", 1.0):
        pass
    assert not torch.distributed.is_initialized()
