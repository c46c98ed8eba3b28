"""A run ends before what is not finite gets into its weights or checkpoints, and waits for the device only to log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headrace.models import METHODS, Context, Method
from headrace.models.method import kernels_and_vectors
from headrace.models.methods.joint.simclr import SimCLR
from headrace.pipeline import Batch
from headrace.shards import ShardSet
from headrace.train import OptimConfig, RunError, read_metrics, train
from headrace.train.checkpoint import checkpoint_paths, read_checkpoint
from headrace.train.finite import FiniteState, gradient_norm
from headrace.train.optim import build_optimizer, resume_optimizer, step_unless
from tests.train.tiny_runs import final_state, same_bits, tiny_run

Terms = dict[str, Tensor]


def zero_root(method: Method) -> Tensor:
    """0, with a gradient of 0 / 0."""
    weight = next(method.parameters())
    return (0.0 * weight.float().sum()).sqrt()


def overflow(method: Method) -> Tensor:
    """1, with a gradient of 0 times infinity: 1e30 squared is too large for bfloat16."""
    weight = next(method.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        large = (1e30 * weight.flatten()[:1, None]) @ torch.full((1, 1), 1e30)
    return 1 - torch.exp(-large.float().square()).sum()


def unsound_at(call: int, term: Callable[[Method], Tensor]) -> Callable[[SimCLR, Batch], Terms]:
    """SimCLR's loss with `term` added when it is asked for the `call`-th time."""
    sound, calls = SimCLR.loss, []

    def loss(self: SimCLR, batch: Batch) -> Terms:
        calls.append(batch)
        terms = sound(self, batch)
        return {"loss": terms["loss"] + term(self)} if len(calls) == call else terms

    return loss


def all_finite(state: Any) -> bool:
    if isinstance(state, Tensor):
        return bool(state.isfinite().all())
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return all(map(all_finite, parts))


@pytest.mark.parametrize(("term", "optimizer"), [(zero_root, "adamw"), (zero_root, "lars"), (overflow, "sgd")])
def test_a_gradient_that_is_not_finite_stops_the_run_before_it_is_saved(
    digits_webdataset: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    term: Callable[[Method], Tensor],
    optimizer: str,
) -> None:
    """On the very step that saves; what is resumed from is from before, and the run ends as if nothing had been."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    overrides = (f"optim.name={optimizer}", "log.every_steps=100")
    train(tiny_run(digits_webdataset.path, tmp_path / "whole", *overrides), progress=False)
    config = tiny_run(digits_webdataset.path, tmp_path / "run", *overrides)
    with monkeypatch.context() as patched:
        patched.setattr(SimCLR, "loss", unsound_at(6, term))
        with pytest.raises(RunError) as caught:
            train(config, progress=False)
    assert (
        "the gradient is not finite at step 6, though the loss is; the newest checkpoint, step-00000003.pt, is from "
        "before"
    ) in str(caught.value)
    assert [path.name for path in checkpoint_paths(tmp_path / "run" / "checkpoints")] == ["step-00000003.pt"]
    assert all_finite(final_state(tmp_path / "run"))
    train(config, progress=False)
    torch.set_num_threads(threads)
    assert same_bits(final_state(tmp_path / "run")["model"], final_state(tmp_path / "whole")["model"])
    assert same_bits(final_state(tmp_path / "run")["optimizer"], final_state(tmp_path / "whole")["optimizer"])


def test_the_first_step_is_named_when_it_is_read_later(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimCLR, "loss", unsound_at(2, zero_root))
    config = tiny_run(digits_webdataset.path, tmp_path, "log.every_steps=5", "checkpoint.every_steps=0")
    with pytest.raises(RunError, match=r"the gradient is not finite at step 2.*there is no checkpoint yet"):
        train(config, progress=False)
    assert read_metrics(tmp_path) == []
    assert checkpoint_paths(tmp_path / "checkpoints") == []


def test_weights_that_overflow_are_not_saved(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    """Of a finite gradient, by the step that saves."""
    overrides = ("optim.name=sgd", "optim.lr=1e39", "schedule.warmup_epochs=0", "checkpoint.every_steps=1")
    with pytest.raises(RunError, match=r"\.weight is not finite after step 1; there is no checkpoint yet"):
        train(tiny_run(digits_webdataset.path, tmp_path, *overrides), progress=False)
    assert checkpoint_paths(tmp_path / "checkpoints") == []


def test_a_checkpoint_that_is_not_finite_is_not_resumed_from(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    """One that an earlier version wrote: it says which to delete."""
    config = tiny_run(digits_webdataset.path, tmp_path)
    newest = train(config, progress=False).checkpoint
    state = read_checkpoint(newest)
    state["model"]["projector.0.weight"][1, 1] = float("nan")
    torch.save(state, newest)
    with pytest.raises(RunError, match=r"projector\.0\.weight is not finite in step-00000012\.pt; delete"):
        train(config, progress=False)
    newest.unlink()
    assert train(config, progress=False).step == 12


def test_infinities_that_belong_to_a_module_are_no_fault() -> None:
    module = nn.BatchNorm1d(3)
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    watched = FiniteState(module)
    assert watched.broken() is None
    assert module.running_var is not None
    module.running_var[1] = torch.inf
    assert watched.broken() == "running_var"


def test_the_norm_is_that_of_all_gradients() -> None:
    module = nn.Linear(3, 2)
    module.weight.grad = torch.tensor([[3.0, 0, 0], [0, 0, 0]])
    assert gradient_norm(module.parameters()) == 3  # a parameter without gradient does not count
    module.bias.grad = torch.tensor([0.0, 4])
    assert gradient_norm(module.parameters()) == 5
    module.bias.grad[0] = torch.nan
    assert gradient_norm(module.parameters()).isnan()


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars", "muon"])
def test_an_optimiser_that_is_held_back_does_not_move(name: str) -> None:
    """Neither weights nor moments nor counts: two steps with a bad one before or between them are two steps."""

    def run(*bad: float) -> tuple[list[Tensor], Any]:
        torch.manual_seed(0)
        module = nn.Linear(4, 3)
        optimizer = build_optimizer(kernels_and_vectors(module), OptimConfig(name=name, lr=0.1), 256)  # type: ignore[arg-type]
        gradients = iter([0.5, -1.0])
        for each in bad:
            value = torch.nan if each else next(gradients)
            for p in module.parameters():
                p.grad = torch.full_like(p, value)
            step_unless(optimizer, torch.tensor(each))
        return [p.detach() for p in module.parameters()], optimizer.state_dict()["state"]

    plain = run(0.0, 0.0)
    for held in (run(0.0, 1.0, 0.0), run(1.0, 0.0, 0.0)):
        assert all(map(torch.equal, held[0], plain[0]))
        assert same_bits(held[1], plain[1])


def test_an_optimiser_resumes_in_its_own_implementation() -> None:
    """Whatever that of the checkpoint was, which may be another device's."""
    module = nn.Linear(4, 3)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    before = torch.optim.AdamW([{"params": [module.weight]}, {"params": [module.bias]}], lr=0.1, foreach=True)
    before.step()
    optimizer = build_optimizer(kernels_and_vectors(module), OptimConfig(), 256)
    resume_optimizer(optimizer, before.state_dict())
    assert [group["fused"] for group in optimizer.param_groups] == [True, True]
    step_unless(optimizer, torch.tensor(0.0))
    assert optimizer.state[module.weight]["step"] == 2


@dataclass(frozen=True, kw_only=True)
class FollowerConfig:
    pass


class Follower(Method):
    """A network and its moving average, which moves as the documentation of `after_step` invites to."""

    def __init__(self, config: FollowerConfig) -> None:
        super().__init__()
        self.config = config
        simclr = METHODS["simclr"].method(tiny_run("", "").model)
        self.inputs, self.backbone, self.feature_dim = simclr.inputs, simclr.backbone, simclr.feature_dim
        self.average = nn.Linear(self.feature_dim, 2)
        self.head = nn.Linear(self.feature_dim, 2)
        self.average.requires_grad_(False)

    def loss(self, batch: Batch) -> Terms:
        return {"loss": self.head(self.backbone(batch.normalized()[0])).square().mean()}

    def after_step(self, context: Context) -> None:
        assert not torch.is_grad_enabled()
        for slow, fast in zip(self.average.parameters(), self.head.parameters(), strict=True):
            slow.mul_(0.9).add_(0.1 * fast)
            fast.add_(0.0)  # a leaf that requires its gradient


def test_hooks_run_without_gradients(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "follower", METHODS["simclr"]._replace(config=FollowerConfig, method=Follower))
    config = tiny_run(digits_webdataset.path, tmp_path, "method=follower", "epochs=1")
    assert train(config, progress=False).step == 4


class Reads(TorchFunctionMode):
    """Counts what a device would be waited for: tensors that this thread reads as numbers."""

    count = 0
    reading = frozenset({"item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__"})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in self.reading
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "override", ["optim.name=adamw", "optim.name=sgd", "optim.name=lars", "optim.name=muon", "precision=float16"]
)
def test_steps_between_log_lines_read_nothing_from_the_device(
    digits_webdataset: ShardSet, tmp_path: Path, override: str
) -> None:
    def reads(epochs: int) -> int:
        overrides = (override, "optim.clip=1", "log.every_steps=1000", "checkpoint.every_steps=0")
        config = tiny_run(digits_webdataset.path, tmp_path / f"{epochs}", f"epochs={epochs}", *overrides)
        with Reads() as mode:
            assert train(config, progress=False).step == 4 * epochs
        return mode.count

    assert 0 < reads(1) == reads(3)
