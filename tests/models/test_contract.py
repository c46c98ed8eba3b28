"""What every method in the table promises, on real batches from a real shard set. A method is tested by being there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.models import METHODS, Context, Method, build_method
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, Views, ViewSpec
from headrace.pipeline.batch import _kept_scale_and_shift
from headrace.shards import ShardSet, open_shards
from headrace.train import CheckpointConfig, LogConfig, OptimConfig, RunConfig, ScheduleConfig, train
from headrace.train.distributed import LossModule
from tests.models.tiny_methods import LIBRARIES, TINY, require_libraries, set_of, tiny
from tests.ranks import on_ranks
from tests.train.tiny_runs import final_state, same_bits

SAMPLES, STEPS = 40, 5
each_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module", params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    require_libraries(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def shards(name: str, request: pytest.FixtureRequest) -> ShardSet:
    """200 real samples of the kind that the method takes."""
    opened: ShardSet = request.getfixturevalue(set_of(name))
    return opened


@pytest.fixture(scope="module")
def batches(name: str, shards: ShardSet) -> list[Batch]:
    """The first epoch's."""
    with Loader(shards, tiny(name).inputs, SAMPLES, threads=2) as loader:
        return list(loader)


def context(step: int, shards: ShardSet | None = None) -> Context:
    """Hooks that look at the whole set need `shards`."""
    place = {"step": step, "epoch": step // STEPS, "steps_per_epoch": STEPS, "epochs": 3, "batch_size": SAMPLES}
    if shards is None:
        return Context(**place)

    def batches(views: ViewSpec) -> Iterator[Batch]:
        with Loader(shards, views, SAMPLES, shuffle=False, drop_last=False, threads=1) as loader:
            yield from loader

    return Context(**place, samples=len(shards), batches=batches)


def steps(
    method: Method,
    shards: ShardSet,
    batches: list[Batch],
    number: int,
    dtype: torch.dtype = torch.float32,
    epoch: int = STEPS,
) -> Iterator[Tensor]:
    """Losses of training as the loop trains; gradients are there while the caller looks at one.

    Args:
        epoch: steps from one call of `on_epoch` to the next.
    """
    optimizer = torch.optim.AdamW([p for group in method.parameter_groups() for p in group.params], lr=3e-3)
    for step in range(number):
        with seeded(0, step):
            with torch.no_grad():
                if step % epoch == 0:
                    method.on_epoch(context(step, shards))
                method.before_step(context(step))
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
                terms = method.loss(batches[step % len(batches)])
            optimizer.zero_grad()
            terms["loss"].backward()
        yield terms["loss"].detach()
        optimizer.step()
        with torch.no_grad():
            method.after_step(context(step))


def test_every_method_has_a_tiny_form() -> None:
    assert TINY.keys() == METHODS.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_trains(name: str, shards: ShardSet, batches: list[Batch], dtype: torch.dtype) -> None:
    method = tiny(name)
    before = {key: value.clone() for key, value in method.backbone.state_dict().items()}
    for loss in steps(method, shards, batches, 7, dtype):
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        for key, parameter in method.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key
            else:
                assert parameter.grad is None, key
    moved = [key for key, value in method.backbone.state_dict().items() if not torch.equal(value, before[key])]
    assert moved


def test_the_loss_falls_on_a_batch_that_comes_again(name: str, shards: ShardSet, batches: list[Batch]) -> None:
    """In one epoch. Teachers and centres of DINO and its like stand still for it, and TiCo's moment is the batch's own:
    what they ask becomes harder as they move."""
    teacher = {"momentum": 1.0, "center_momentum": 1.0}
    teachers = dict.fromkeys(("dino", "ibot", "dinov2", "dinov2_gram"), teacher)
    still = {**teachers, "tico": {"beta": 0.0}}.get(name, {})
    method = build_method(name, **{**TINY[name], **still}).train()
    losses = [loss.item() for loss in steps(method, shards, batches[:1], 40, epoch=40)]
    assert sum(losses[-5:]) / 5 < 0.95 * sum(losses[1:6]) / 5


def test_terms_are_scalars_of_which_one_has_a_gradient(name: str, batches: list[Batch]) -> None:
    for term, value in tiny(name).loss(batches[0]).items():
        assert value.shape == (), term
        assert value.requires_grad == (term == "loss"), term


def test_parameter_groups_hold_every_trainable_parameter_once(name: str) -> None:
    method = tiny(name)
    grouped = [id(p) for group in method.parameter_groups() for p in group.params]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in method.parameters() if p.requires_grad}


def test_the_same_seed_gives_the_same_loss(name: str, shards: ShardSet, batches: list[Batch]) -> None:
    first, second, other = (torch.stack(list(steps(tiny(name, seed=seed), shards, batches, 3))) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_features_do_not_depend_on_the_rest_of_the_batch(name: str, shards: ShardSet) -> None:
    method = tiny(name).eval()
    with Loader(shards, method.probe_inputs, 8, shuffle=False) as loader, torch.no_grad():
        batch = next(iter(loader))
        features = method.encode(batch)
        alone = torch.cat([method.encode(part) for part in batch.parts(8)])
        scores = method.cluster_scores(batch)
        scores_alone = [method.cluster_scores(part) for part in batch.parts(8)]
    assert features.shape == (8, method.feature_dim)
    torch.testing.assert_close(alone, features, rtol=1e-4, atol=1e-5)
    if scores is not None:
        assert len(scores) == 8
        torch.testing.assert_close(torch.cat(scores_alone), scores, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


# Killed and resumed


def run_of(name: str, data: ShardSet, out: Path) -> RunConfig:
    """Fifteen steps, a checkpoint after every one."""
    model = replace(METHODS[name].config(), **TINY[name])
    return RunConfig(
        method=name, model=model, data=str(data.path), out=str(out), epochs=3, batch_size=SAMPLES, device="cpu",
        precision="float32", optim=OptimConfig(lr=3e-3, clip=3.0, clip_by="tensor"),
        schedule=ScheduleConfig(warmup_epochs=1, final_weight_decay=0.4),
        checkpoint=CheckpointConfig(every_steps=1), log=LogConfig(every_steps=1, tensorboard=False),
    )  # fmt: skip


class Killed(Exception):
    pass


def test_killed_and_resumed_it_ends_with_the_same_bits(name: str, shards: ShardSet, tmp_path: Path) -> None:
    train(run_of(name, shards, tmp_path / "whole"), progress=False)
    kills = iter([7, 12])

    def killer(at: int) -> Any:
        def kill(record: dict[str, Any]) -> None:
            if record["step"] == at:
                raise Killed

        return kill

    for at in kills:
        with pytest.raises(Killed):
            train(run_of(name, shards, tmp_path / "cut"), progress=False, on_step=killer(at))
    train(run_of(name, shards, tmp_path / "cut"), progress=False)
    whole, cut = final_state(tmp_path / "whole"), final_state(tmp_path / "cut")
    assert whole["step"] == cut["step"] == 3 * STEPS
    assert same_bits(whole["model"], cut["model"])
    assert same_bits(whole["optimizer"]["state"], cut["optimizer"]["state"])


# Two ranks


def loss_and_gradients(method: Method, module: nn.Module, shards: ShardSet, batch: Batch) -> dict[str, Any]:
    """In evaluation mode: statistics of batches differ between ranks, and dropped paths are drawn by each."""
    method.eval()
    with torch.no_grad():
        method.on_epoch(context(0, shards))
        method.before_step(context(0))
    loss = module(batch)["loss"]
    loss.backward()
    return {"loss": loss.detach(), **{key: p.grad for key, p in method.named_parameters() if p.grad is not None}}


def of_rank(rank: int, paths: dict[str, str]) -> dict[str, Any]:
    """Of each method, on the set whose path stands beside its name."""
    found = {}
    for name, path in paths.items():
        method = tiny(name)
        options: dict[str, Any] = {"rank": rank, "world_size": 2, "threads": 1}
        with open_shards(path) as shards, Loader(shards, method.inputs, 8, **options) as loader:
            module = DistributedDataParallel(LossModule(method))
            found[name] = loss_and_gradients(method, module, shards, next(iter(loader)))
    return found


@pytest.fixture(scope="module")
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    installed = [name for name in METHODS if all(map(find_spec, LIBRARIES.get(name, ())))]
    paths = {name: str(request.getfixturevalue(set_of(name)).path) for name in installed}
    return on_ranks(of_rank, 2, tmp_path_factory.mktemp("ranks"), paths)


@pytest.mark.timeout(900)  # the first one waits for both ranks to go through all methods
def test_two_ranks_have_the_loss_and_the_gradients_of_one(
    name: str, shards: ShardSet, ranks: list[dict[str, Any]]
) -> None:
    method = tiny(name)
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        whole = loss_and_gradients(method, LossModule(method), shards, next(iter(loader)))
    losses = torch.stack([rank[name]["loss"] for rank in ranks])
    torch.testing.assert_close(losses.mean(), whole.pop("loss"), rtol=1e-4, atol=1e-5)
    for rank in ranks:
        assert rank[name].keys() - {"loss"} == whole.keys()
        for key, gradient in whole.items():
            found = rank[name][key]
            torch.testing.assert_close(found, gradient, rtol=2e-3, atol=2e-5, msg=lambda m, key=key: f"{key}: {m}")


# On a device


class NoCopies(TorchDispatchMode):
    """Refuses, where it is on, what makes a GPU's tensor out of one of the host's."""

    def __init__(self, on: bool = False) -> None:
        super().__init__()
        self.on = on

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        given = [x for x in arguments if isinstance(x, Tensor) and x.ndim]
        made = isinstance(result, Tensor) and result.device.type == "cuda"
        if self.on and made and any(x.device.type == "cpu" for x in given):
            raise AssertionError(f"{function} copies a tensor to the device")
        return result


def test_the_loss_waits_for_nothing_on_the_device(name: str, batches: list[Batch]) -> None:
    """With fake tensors of a GPU, reading a number back is an error, and so is a copy of a tensor from the host."""
    method = tiny(name)
    with FakeTensorMode() as mode:
        for module in method.modules():
            for key, parameter in list(module._parameters.items()):
                if parameter is not None:
                    fake = mode.from_tensor(parameter).detach().to("cuda")
                    module._parameters[key] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
            for key, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[key] = mode.from_tensor(buffer).to("cuda")
        batch = batches[0]._each(lambda tensor: mode.from_tensor(tensor).to("cuda"))
        with torch.no_grad():
            method.before_step(context(0))
        for part in batch.streams.values():
            if isinstance(part, Views):
                part.normalized()  # constants are copied once
        with NoCopies(True), torch.backends.cudnn.flags(enabled=False):  # which would ask a driver that is not there
            method.loss(batch)
        with NoCopies(True), torch.no_grad():
            method.after_step(context(0))
    _kept_scale_and_shift.cache_clear()  # fake constants


@pytest.mark.timeout(600)
def test_it_compiles_as_one_graph(name: str, batches: list[Batch]) -> None:
    method = tiny(name)
    with torch.no_grad():
        method.before_step(context(0))
    with seeded(3):
        expected = method.loss(batches[0])["loss"]
    compiled = torch.compile(method.loss, backend="aot_eager", fullgraph=True)
    with seeded(3):
        found = compiled(batches[0])["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# The table


@each_method
def test_weights_are_a_function_of_the_seed_and_of_nothing_else(name: str) -> None:
    before = torch.get_rng_state()
    one, same, other = tiny(name).state_dict(), tiny(name).state_dict(), tiny(name, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@each_method
def test_every_config_field_is_documented_and_keyword_only(name: str) -> None:
    import inspect

    config = METHODS[name].config
    source = "".join(inspect.getsource(part) for part in config.__mro__ if part is not object)
    for field in fields(config):
        assert field.kw_only, field.name
        declaration = source.index(f"    {field.name}:")
        assert source[declaration:].split("\n", 1)[1].lstrip().startswith('"""'), field.name


@each_method
def test_the_table_says_where_it_comes_from(name: str) -> None:
    entry = METHODS[name]
    assert entry.title.endswith(").") or entry.title.endswith("?") or "arXiv" in entry.title
    assert entry.paper in entry.title
    assert entry.followed


def test_build_method_says_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="unknown method 'simclrr'; did you mean 'simclr'"):
        build_method("simclrr")
    with pytest.raises(ValueError, match="SimCLRConfig has no field 'temprature'; did you mean 'temperature'"):
        build_method("simclr", temprature=0.2)
    with pytest.raises(ValueError, match="temperature must be above 0, got -1"):
        build_method("simclr", temperature=-1)
    with pytest.raises(ValueError, match="simclr is configured by SimCLRConfig, got dict"):
        build_method("simclr", {})
