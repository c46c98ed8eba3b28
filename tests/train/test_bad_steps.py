"""A bad step is undone whole, kept as a capsule that comes to the same bits again, and answered as the run was told."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.models import Method
from headrace.models.methods.joint.simclr import SimCLR
from headrace.shards import ShardSet
from headrace.tools.cli import FAILED, USAGE, main
from headrace.train import RunConfig, RunError, read_ending, read_metrics, replay, train
from headrace.train import checkpoint as checkpoint_module
from headrace.train import loop as loop_module
from headrace.train.checkpoint import checkpoint_paths, read_checkpoint
from headrace.train.distributed import World
from headrace.train.guard import capsule as capsule_module
from headrace.train.guard.capsule import read_capsule
from headrace.train.guard.held import HeldState
from headrace.train.guard.watch import Watch
from headrace.train.precision import Precision
from headrace.train.stopping import Stop
from tests.train.planted import Planted, plant
from tests.train.test_distributed import free_ports
from tests.train.tiny_runs import final_state, same_bits, tiny_run

CPU = torch.device("cpu")
CAPSULE = Path("capsules") / "step-00000006"
EACH = ("checkpoint.every_steps=1", "checkpoint.keep=20")


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planted_run(data: str | Path, out: str | Path, *overrides: str) -> RunConfig:
    """With bfloat16 views must be larger: of a 3x3 convolution with stride 2 over a single pixel, oneDNN leaves a part
    of the gradient as it finds the memory."""
    return replace(tiny_run(data, out, *overrides), method="planted")


def weights_and_moments(state: dict[str, Any]) -> list[Any]:
    return [state["model"], state["optimizer"]["state"]]


def state_after(out: Path, step: int) -> dict[str, Any]:
    return read_checkpoint(out / "checkpoints" / f"step-{step:08d}.pt")


# What is undone


def test_what_a_step_moved_is_put_back_where_it_was_bad() -> None:
    class Remembers(Method):
        def __init__(self) -> None:
            super().__init__()
            for dtype in (
                torch.float32,
                torch.bfloat16,
                torch.float64,
                torch.int64,
                torch.int32,
                torch.uint8,
                torch.bool,
            ):
                self.register_buffer(f"of_{str(dtype)[6:]}", torch.ones(3, 2).to(dtype))
            self.register_buffer("images", torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))

        def move(self, value: float) -> None:
            for buffer in self.buffers():
                buffer.fill_(value if buffer.is_floating_point() else 0)

    method: Any = Remembers()
    held = HeldState(method, Precision("float32", CPU))
    for bad in (True, False, True):
        before = {name: buffer.clone() for name, buffer in method.named_buffers()}
        held.keep()
        method.move(torch.nan)
        after = {name: buffer.clone() for name, buffer in method.named_buffers()}
        held.put_back(torch.tensor(bad))
        for name, buffer in method.named_buffers():
            expected = (before if bad else after)[name]
            assert torch.equal(buffer.nan_to_num(7.0), expected.nan_to_num(7.0)), name


def test_weights_are_held_of_methods_with_hooks_only() -> None:
    plain, hooked = SimCLR(tiny_run("", "").model), Planted(tiny_run("", "").model)
    for method, weights in ((plain, 0), (hooked, len(list(hooked.parameters())))):
        held = HeldState(method, Precision("float32", CPU))
        held.keep()
        assert len(held._kept) == len(list(method.buffers())) + weights


def test_the_loss_scale_is_held_too() -> None:
    precision = Precision("float16", CPU)
    held = HeldState(Method(), precision)
    held.keep()
    for number in precision.state():
        number.fill_(3)
    held.put_back(torch.tensor(True))
    assert [number.item() for number in precision.state()] == [65536, 0, 0]


def test_all_behind_a_bad_step_is_held_back_until_somebody_has_looked() -> None:
    watch = Watch(World(0, 1, CPU), Stop())
    one, nan = torch.tensor(1.0), torch.tensor(torch.nan)
    taken = [watch.step(1, one, one), watch.step(2, one, nan), watch.step(3, nan, nan), watch.step(4, one, one)]
    assert [(held.item(), undone.item()) for held, undone in taken] == [(0, False), (1, True), (1, True), (1, True)]
    found = watch.look()
    assert found is not None
    assert (found.step, found.kind, found.loss) == (2, "gradient", 1.0)
    watch.clear()
    assert watch.look() is None
    assert not watch.step(3, one, one)[1]
    assert watch.step(4, one, one, torch.tensor(True))[1]
    assert str(watch.look()) == "features have collapsed at step 4"
    overflows = Watch(World(0, 1, CPU), Stop(), gradient_counts=False)
    held, undone = overflows.step(1, one, nan)
    assert (held.item(), undone.item()) == (1, False)


# Capsules


@pytest.mark.parametrize(("kind", "precision"), [("gradient", "float32"), ("loss", "bfloat16")])
def test_a_capsule_comes_to_the_same_bits(
    digits_webdataset: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: Any,
    precision: str,
) -> None:
    """Found four steps later, behind steps that were taken in vain."""
    plant(monkeypatch, {6: kind})
    run = tmp_path / "run"
    overrides = (f"precision={precision}", "model.size=16", "log.every_steps=5", "checkpoint.every_steps=5")
    with pytest.raises(RunError) as caught:
        train(planted_run(digits_webdataset.path, run, *overrides), progress=False)
    assert Planted.taken == [*range(1, 11), 6]
    line = str(caught.value)
    assert f"the {kind} is not finite at step 6" in line
    assert f"step-00000005.pt, is from before; `headrace replay {run / CAPSULE}` shows it" in line
    assert "\n" not in line
    assert "deterministic" not in line
    ending = read_ending(run)
    assert ending is not None
    assert (ending.why, ending.line) == ("error", line)

    capsule = read_capsule(run / CAPSULE)
    before = state_after(run, 5)
    assert same_bits(weights_and_moments(capsule), weights_and_moments(before))
    assert capsule["loader"] == before["loader"]
    assert (capsule["step"], capsule["epoch"], capsule["batch"], capsule["seed"]) == (6, 1, 1, 0)
    assert capsule["config"]["precision"] == precision
    told = json.loads((run / CAPSULE / "capsule.json").read_text(encoding="utf-8"))
    assert told["ranks"][0]["samples"] == capsule["ranks"][0]["samples"].tolist()
    assert len(told["ranks"][0]["samples"]) == 50
    assert "model" not in told

    again = replay(run / CAPSULE)
    assert (again.same, again.differs, again.notes) == (True, [], [])
    assert again.place["samples"] == told["ranks"][0]["samples"]
    assert {"loss", "grad_norm", "feature_rank", "feature_std"} == again.terms.keys()
    if kind == "gradient":
        assert again.not_finite == ["backbone.conv1.weight"]
        assert again.terms["loss"] == capsule["ranks"][0]["seen"]["loss"]

    capsys.readouterr()
    assert main(["replay", str(run / CAPSULE)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(
        f"step 6 (epoch 1, batch 1, seed 0), kept because of its {kind}; 50 samples, 1 rank, {precision}"
    )
    assert "the same bits as recorded" in text
    assert f"are not finite, the first is of {again.not_finite[0]}" in text
    assert main(["replay", str(run / CAPSULE), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["same"] is True
    assert printed["terms"]["grad_norm"] == "nan"

    monkeypatch.setattr(Planted, "bad", {})  # the sources have been mended
    assert main(["replay", str(run / CAPSULE)]) == FAILED
    assert "not the bits that were recorded: " in capsys.readouterr().out
    assert replay(run / CAPSULE).not_finite == []


@pytest.fixture(scope="module")
def stopped(digits_webdataset: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that was stopped by its sixth step."""
    with pytest.MonkeyPatch.context() as patch:
        plant(patch, {6: "gradient"})
        run = tmp_path_factory.mktemp("stopped")
        with pytest.raises(RunError):
            train(planted_run(digits_webdataset.path, run), progress=False)
        yield run


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = FAILED) -> str:
    capsys.readouterr()
    assert main(["replay", *map(str, arguments)]) == code
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == ""
    return line


def test_what_moved_since_is_said(
    digits_webdataset: ShardSet,
    photos: ShardSet,
    stopped: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "no capsule; they are folders in RUN/capsules" in refused(capsys, stopped)
    assert "is of a set of 200 samples" in refused(capsys, stopped / CAPSULE, "--data", photos.path)
    assert str(tmp_path / "gone") in refused(capsys, stopped / CAPSULE, "--data", tmp_path / "gone")
    os.symlink(digits_webdataset.path, tmp_path / "moved")
    assert main(["replay", str(stopped / CAPSULE), "--data", str(tmp_path / "moved")]) == 0
    capsule = torch.load(stopped / CAPSULE / "capsule.pt", weights_only=True)

    def changed(**values: Any) -> Path:
        folder = tmp_path / "-".join(values)
        folder.mkdir()
        torch.save({**capsule, **values}, folder / "capsule.pt")
        return folder

    two = refused(capsys, changed(world_size=2))
    assert "is of a step on 2 ranks, and here is 1: start it by torchrun --nproc-per-node 2 --no-python headrace" in two
    assert "not a capsule of format 1" in refused(capsys, changed(format=9))
    assert "does not fit this version" in refused(capsys, changed(config={**capsule["config"], "novel": 1}))
    larger = {**capsule["model"], "more": torch.zeros(1)}
    assert "its weights are of another network" in refused(capsys, changed(model=larger), code=USAGE)
    others = [{**capsule["ranks"][0], "samples": capsule["ranks"][0]["samples"].flip(0)}]
    assert "these are not the data of that step" in refused(capsys, changed(ranks=others))
    if not torch.cuda.is_available():
        assert "is of a step on a GPU" in refused(capsys, changed(device="cuda"))
    half = tmp_path / "half"
    half.mkdir()
    (half / "capsule.pt").write_bytes((stopped / CAPSULE / "capsule.pt").read_bytes()[:1000])
    assert "not a readable capsule" in refused(capsys, half)
    older = replay(changed(versions={**capsule["versions"], "torch": "1.0"}))
    assert older.same
    assert older.notes == [f"torch was 1.0, and is {torch.__version__}"]


def test_a_step_that_is_good_the_second_time_is_said_to_be(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {3: "loss"})
    monkeypatch.setattr(loop_module, "answer", lambda *a, sound=loop_module.answer: (Planted.bad.clear(), sound(*a)))
    with pytest.raises(RunError, match="taken again here it comes out otherwise, so that something is not determin"):
        train(planted_run(digits_webdataset.path, tmp_path), progress=False)


def test_a_full_disk_changes_nothing_but_the_capsule(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 2000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    def opened(path: Path, mode: str) -> Any:
        return Full(path, "w") if Path(path).name == "capsule.pt" else open(path, mode)

    plant(monkeypatch, {6: "gradient"})
    monkeypatch.setattr(checkpoint_module, "open", opened, raising=False)
    with pytest.raises(RunError, match=r"at step 6.*its capsule cannot be written \(No space left on device\)"):
        train(planted_run(digits_webdataset.path, tmp_path / "stop"), progress=False)
    assert not (tmp_path / "stop" / "capsules").exists()
    result = train(planted_run(digits_webdataset.path, tmp_path / "skip", "guard.on_bad_step=skip"), progress=False)
    assert result.step == 12
    assert "its capsule cannot be written (No space left on device)" in capsys.readouterr().err


def test_a_capsule_is_whole_or_not_there(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it was written, and started again."""
    plant(monkeypatch, {6: "gradient"})

    def killed(path: Path, state: dict[str, Any]) -> None:
        path.write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(capsule_module, "write_synced", killed)
        with pytest.raises(Killed):
            train(planted_run(digits_webdataset.path, tmp_path), progress=False)
    with pytest.raises(RunError, match="no capsule"):
        replay(tmp_path / CAPSULE)
    with pytest.raises(RunError, match="shows it"):
        train(planted_run(digits_webdataset.path, tmp_path), progress=False)
    assert [path.name for path in (tmp_path / "capsules").iterdir()] == [CAPSULE.name]
    assert replay(tmp_path / CAPSULE).same


# Policies


def test_a_skipped_step_leaves_no_trace_whenever_it_is_found(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of the three follow one another, and the last ends the run."""
    plant(monkeypatch, {6: "gradient", 7: "loss", 12: "loss"})
    skip = ("guard.on_bad_step=skip", "guard.capsules=2")
    one, late = tmp_path / "one", tmp_path / "late"
    assert train(planted_run(digits_webdataset.path, one, *skip, *EACH), progress=False).step == 12
    said = capsys.readouterr().err
    assert (
        f"the gradient is not finite at step 6, though the loss is: left out; `headrace replay {one / CAPSULE}`" in said
    )
    for step in (6, 7):
        assert same_bits(weights_and_moments(state_after(one, step)), weights_and_moments(state_after(one, 5))), step
    assert not same_bits(state_after(one, 8)["model"], state_after(one, 5)["model"])
    assert sorted(path.name for path in (one / "capsules").iterdir()) == ["step-00000006", "step-00000007"]
    records = {record["step"]: record for record in read_metrics(one)}
    assert [step for step, record in records.items() if "loss" not in record] == [6, 7, 12]
    assert [records[step].get("left_out") for step in (5, 6, 7, 11, 12)] == [None, 1, 2, 2, 3]

    late_lines = (*skip, "log.every_steps=4", "checkpoint.every_steps=100")
    assert train(planted_run(digits_webdataset.path, late, *late_lines), progress=False).step == 12
    for part in ("model", "optimizer", "guard"):
        assert same_bits(final_state(late)[part], final_state(one)[part]), part
    assert replay(late / "capsules" / "step-00000007").same


def test_an_epoch_begins_once_and_with_a_good_state(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of the first epoch and the first of the next are bad, and found late where that may be."""
    plant(monkeypatch, {4: "loss", 5: "gradient"})
    for every in (1, 100):
        config = planted_run(digits_webdataset.path, tmp_path / f"{every}", "guard.on_bad_step=skip")
        config.log.every_steps = config.checkpoint.every_steps = every
        assert train(replace(config, method="clustered"), progress=False).step == 12
    one, other = (weights_and_moments(final_state(tmp_path / f"{every}")) for every in (1, 100))
    assert same_bits(one, other)
    assert len(one[0]["found"]) == 3


def test_bad_steps_in_a_row_end_the_run(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {2: "loss", **dict.fromkeys(range(6, 12), "gradient")})  # type: ignore[arg-type]
    config = planted_run(digits_webdataset.path, tmp_path, "guard.on_bad_step=skip", "guard.most_in_a_row=2")
    with pytest.raises(RunError, match="not finite at step 8, though the loss is, which makes 3 bad ones in a row"):
        train(config, progress=False)


@pytest.mark.parametrize("checkpoints", [3, 4])
def test_a_run_rolls_back_to_the_newest_checkpoint(
    digits_webdataset: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoints: int,
) -> None:
    """It leaves out the steps since then, and ends with the same bits when it is killed on the way: in front of the
    checkpoint of what it went back to, and behind it."""
    plant(monkeypatch, {5: "loss", 8: "gradient"})
    settings = ("guard.on_bad_step=roll_back", f"checkpoint.every_steps={checkpoints}", "log.every_steps=2")
    whole = planted_run(digits_webdataset.path, tmp_path / "whole", *settings, "checkpoint.keep=20")
    assert train(whole, progress=False).step == 12
    first, second = (3, 6) if checkpoints == 3 else (4, 5)
    said = capsys.readouterr().err
    assert f"step 5: rolled back to step-0000000{first}.pt, left out is all up to step 5" in said
    assert f"rolled back to step-0000000{second}.pt" in said
    for bad, before in ((5, first), (8, second)):
        one, other = (weights_and_moments(state_after(tmp_path / "whole", step)) for step in (bad, before))
        assert same_bits(one, other)
    assert final_state(tmp_path / "whole")["guard"]["left_out"] == (5 - first) + (8 - second)

    cut = planted_run(digits_webdataset.path, tmp_path / "cut", *settings)
    sound = loop_module.save_checkpoint
    for behind in (False, True):

        def killed(folder: Path, state: dict[str, Any], keep: int, behind: bool = behind) -> Path:
            if behind or state["step"] != 5:
                sound(folder, state, keep)
            if state["step"] == 5:
                raise Killed
            return folder / f"step-{state['step']:08d}.pt"

        with monkeypatch.context() as patched:
            patched.setattr(loop_module, "save_checkpoint", killed)
            with pytest.raises(Killed):
                train(cut, progress=False)
    assert checkpoint_paths(tmp_path / "cut" / "checkpoints")[0].name == "step-00000005.pt"
    train(cut, progress=False)
    for part in ("model", "optimizer", "guard", "loader"):
        assert same_bits(final_state(tmp_path / "cut")[part], final_state(tmp_path / "whole")[part]), part


def test_there_must_be_something_to_roll_back_to(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {2: "loss"})
    with pytest.raises(RunError, match="at step 2, and there is nothing to roll back to; there is no checkpoint yet"):
        train(planted_run(digits_webdataset.path, tmp_path, "guard.on_bad_step=roll_back"), progress=False)


def test_a_stopped_run_goes_on_with_another_policy(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {6: "loss"})
    with pytest.raises(RunError):
        train(planted_run(digits_webdataset.path, tmp_path), progress=False)
    kept = (tmp_path / CAPSULE / "capsule.pt").stat().st_mtime_ns
    assert train(planted_run(digits_webdataset.path, tmp_path, "guard.on_bad_step=skip"), progress=False).step == 12
    assert (tmp_path / CAPSULE / "capsule.pt").stat().st_mtime_ns == kept, "the same step is not kept twice"


def test_without_capsules_a_bad_step_still_ends_the_run(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {6: "loss"})
    with pytest.raises(RunError, match=r"step-00000003\.pt, is from before\. A lower"):
        train(planted_run(digits_webdataset.path, tmp_path, "guard.capsules=0"), progress=False)
    assert not (tmp_path / "capsules").exists()


# Collapse


@pytest.mark.parametrize("limit", ["guard.least_rank=1000", "guard.least_std=0.99"])
def test_collapse_is_a_bad_step_where_that_is_asked_for(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """At steps with meters, of which two in a row are too many."""
    plant(monkeypatch, {})
    settings = ("log.meters_every=2", "log.every_steps=2", limit, "guard.on_bad_step=skip", "guard.most_in_a_row=1")
    with pytest.raises(RunError, match="features have collapsed at step 8, which makes 2 bad ones in a row"):
        train(planted_run(digits_webdataset.path, tmp_path, *settings), progress=False)
    capsule = read_capsule(tmp_path / "capsules" / "step-00000004")
    assert capsule["kind"] == "collapse"
    again = replay(tmp_path / "capsules" / "step-00000004")
    assert again.same
    assert again.not_finite == []
    assert same_bits(capsule["model"], state_after(tmp_path, 3)["model"])


# Ranks


def rank_main(rank: int, ports: list[int], data: str, out: str) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    port = iter(ports)
    with pytest.MonkeyPatch.context() as patch:
        plant(patch, {6: "gradient"}, on_rank=1)
        lines = ("log.every_steps=4", "checkpoint.every_steps=4")
        for policy in ("stop", "skip", "roll_back"):
            os.environ["MASTER_PORT"] = str(next(port))
            config = planted_run(data, f"{out}/{policy}", f"guard.on_bad_step={policy}", *lines)
            if policy == "stop":
                with pytest.raises(
                    RunError, match=r"not finite at step 6, .*headrace replay .*step-00000006. shows it\."
                ):
                    train(config, progress=False)
            else:
                assert train(config, progress=False).step == 12
        os.environ["MASTER_PORT"] = str(next(port))
        again = replay(f"{out}/stop/{CAPSULE}")
        assert again.same, again.differs
        assert again.rank == rank
        torch.save({"samples": again.place["samples"], "norms": again.norms}, f"{out}/rank{rank}.pt")


def test_two_ranks_agree_and_come_to_the_same_bits_again(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(rank_main, (free_ports(4), str(digits_webdataset.path), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    capsule = read_capsule(tmp_path / "stop" / CAPSULE)
    assert [rank["samples"] for rank in ranks] == [rank["samples"].tolist() for rank in capsule["ranks"]]
    assert ranks[0]["norms"].keys() == ranks[1]["norms"].keys()
    assert [len(rank["samples"]) for rank in ranks] == [25, 25]
    assert final_state(tmp_path / "skip")["guard"]["left_out"] == 1
    assert final_state(tmp_path / "roll_back")["guard"]["left_out"] == 2
