"""Muon beside AdamW, and players with optimisers of their own, as torch's own optimisers one beside the other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models import METHODS, Method, ParameterGroup
from headrace.models.method import kernels_and_vectors
from headrace.models.methods.joint.simclr import SimCLRConfig
from headrace.models.parts.backbones import build_backbone
from headrace.pipeline import Batch, View, ViewSpec
from headrace.shards import ShardSet
from headrace.train import ConfigError, OptimConfig, read_metrics, train
from headrace.train.config import PlayerConfig
from headrace.train.metrics import Record
from headrace.train.optim import (
    build_optimizer,
    clip_players,
    embedding_tables,
    resume_optimizer,
    set_schedule,
    step_unless,
)
from headrace.train.optimizers import LARS, Several
from tests.train.tiny_runs import final_state, same_bits, tiny_run


def network() -> nn.Sequential:
    """A table of embeddings, a convolution, a norm, matrices."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(7, 6), nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Flatten(),
        nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def steps(module: nn.Module, *optimizers: torch.optim.Optimizer, count: int = 4, first: int = 0) -> None:
    """Gradients of a small loss, one after the other."""
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        tokens, targets = torch.randint(7, (16,), generator=generator), torch.randint(3, (16,), generator=generator)
        module.zero_grad()
        F.cross_entropy(module(tokens), targets).backward()
        for optimizer in optimizers:
            optimizer.step()


def muon_of(module: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    config = OptimConfig(name="muon", lr=0.02, weight_decay=0.1, momentum=0.95, **changes)
    return build_optimizer(kernels_and_vectors(module), config, 256, tables=embedding_tables(module))


def test_muon_moves_matrices_as_torchs_own_and_leaves_the_rest_to_adamw() -> None:
    ours, theirs = network(), network()
    embedding, convolution, first, last = theirs[0], theirs[2], theirs[5], theirs[7]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    judges = (
        torch.optim.Muon(
            [first.weight, last.weight], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW([embedding.weight, convolution.weight], lr=0.02, weight_decay=0.1, fused=True),
        torch.optim.AdamW(vectors, lr=0.02, weight_decay=0.0, fused=True),
    )
    steps(ours, muon_of(ours))
    steps(theirs, *judges)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    assert not torch.equal(ours[5].weight, network()[5].weight)


def test_muon_without_matrices_is_refused() -> None:
    with pytest.raises(ConfigError, match="optim: muon is for matrices, and there is none"):
        muon_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Embedding(3, 2)))


@pytest.mark.parametrize("left_out", [[], [1]])
def test_several_optimisers_resume_as_one(left_out: list[int]) -> None:
    """Momentum of both kinds; also where some weights had no gradient yet."""
    whole, cut = network(), network()
    for module in (whole, cut):
        module[5].requires_grad_(not left_out)
    optimizer = muon_of(whole)
    steps(whole, optimizer, count=6)

    before = muon_of(cut)
    assert isinstance(before, Several)
    steps(cut, before, count=3)
    state = copy.deepcopy(before.state_dict())
    after = muon_of(cut)
    resume_optimizer(after, state)
    assert after.param_groups[0] is after.parts[0].param_groups[0]  # type: ignore[attr-defined]
    set_schedule(after, 0.02, 0.02, 0.1)
    steps(cut, after, count=3, first=3)
    assert all(map(torch.equal, whole.parameters(), cut.parameters()))
    assert same_bits(after.state_dict()["state"], optimizer.state_dict()["state"])


def test_a_state_from_before_a_setting_was_there_takes_its_default() -> None:
    module = network()
    state = build_optimizer(kernels_and_vectors(module), OptimConfig(), 256).state_dict()
    for group in state["param_groups"]:
        del group["player"], group["own_decay"]
    optimizer = build_optimizer(kernels_and_vectors(module), OptimConfig(), 256)
    resume_optimizer(optimizer, state)
    assert [group["player"] for group in optimizer.param_groups] == ["", ""]


def players() -> tuple[nn.ModuleDict, list[ParameterGroup]]:
    torch.manual_seed(1)
    modules = nn.ModuleDict({"generator": nn.Linear(4, 4), "critic": nn.Linear(4, 1)})
    own = kernels_and_vectors(modules["generator"])
    return modules, [*kernels_and_vectors(modules["critic"], player="critic", lr_scale=0.5), *own]


def play(modules: nn.ModuleDict) -> None:
    """Gradients of a game of two."""
    modules.zero_grad()
    noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    made, critic = modules["generator"](noise), modules["critic"]
    held = {name: p.detach() for name, p in critic.named_parameters()}
    (torch.func.functional_call(critic, held, made).mean() + critic(made.detach()).square().mean()).backward()


def test_a_player_has_an_optimiser_a_schedule_and_a_norm_of_its_own() -> None:
    own = PlayerConfig(name="sgd", lr=0.4, momentum=0.5, weight_decay=0.25, clip=0.01)
    config = OptimConfig(name="lars", lr=0.1, weight_decay=0.02, trust=0.1, players={"critic": own})
    ours, groups = players()
    optimizer = build_optimizer(groups, config, 256)
    theirs, _ = players()
    generator, critic = theirs["generator"], theirs["critic"]
    lars = LARS(
        [{"params": [generator.weight]}, {"params": [generator.bias], "weight_decay": 0.0, "adapt": False}],
        lr=0.1, weight_decay=0.02, trust=0.1,
    )  # fmt: skip
    sgd = torch.optim.SGD(
        [{"params": [critic.weight]}, {"params": [critic.bias], "weight_decay": 0.0}],
        lr=0.2, momentum=0.5, weight_decay=0.25, fused=True,
    )  # fmt: skip
    for share, decay in ((0.5, 0.02), (1.0, 0.01)):  # the schedule's decay is not the critic's
        play(ours)
        clip_players(ours, optimizer, config)
        set_schedule(optimizer, 0.1 * share, 0.1, decay)
        step_unless(optimizer, torch.tensor(0.0))
        play(theirs)
        nn.utils.clip_grad_norm_(critic.parameters(), 0.01)
        lars.param_groups[0]["weight_decay"] = decay
        for group in lars.param_groups:
            group["lr"] = 0.1 * share
        for group in sgd.param_groups:
            group["lr"] = 0.2 * share
        lars.step()
        sgd.step()
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p, theirs.get_parameter(name), rtol=1e-6, atol=1e-7)
    assert not torch.equal(ours["critic"].weight, players()[0]["critic"].weight)


def test_a_player_of_whom_nothing_is_said_moves_as_the_others() -> None:
    ours, groups = players()
    theirs, alike = players()
    for group in alike:
        group.player = ""
    for modules, each in ((ours, groups), (theirs, alike)):
        optimizer = build_optimizer(each, OptimConfig(lr=0.1, weight_decay=0.3), 256)
        play(modules)
        optimizer.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_a_player_that_is_not_there_is_named() -> None:
    _, groups = players()
    config = OptimConfig(players={"critc": PlayerConfig()})
    with pytest.raises(ConfigError, match=r"optim\.players\.critc: the method has no such player; its players: critic"):
        build_optimizer(groups, config, 256)
    with pytest.raises(ConfigError, match="its players: none"):
        build_optimizer(kernels_and_vectors(nn.Linear(2, 2)), config, 256)


class Contest(Method):
    """The least method of two players: features that a critic cannot tell from noise."""

    def __init__(self, config: SimCLRConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = ViewSpec([View(size=8)])
        network, self.feature_dim = build_backbone(config.backbone)
        self.backbone = nn.Sequential(network, nn.Linear(self.feature_dim, self.feature_dim))
        self.critic = nn.Linear(self.feature_dim, 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.normalized()[0])
        held = {name: p.detach() for name, p in self.critic.named_parameters()}
        fooled = F.softplus(-torch.func.functional_call(self.critic, held, features)).mean()
        told = F.softplus(-self.critic(torch.randn_like(features))).mean()
        told = told + F.softplus(self.critic(features.detach())).mean()
        return {"loss": fooled + told, "told": told.detach()}

    def parameter_groups(self) -> list[ParameterGroup]:
        return [*kernels_and_vectors(self.backbone), *kernels_and_vectors(self.critic, player="critic")]


@pytest.mark.parametrize("names", [("muon", "sgd"), ("adamw", "muon")])
def test_a_run_with_several_optimisers_goes_on_to_the_same_bits(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    monkeypatch.setitem(METHODS, "contest", METHODS["simclr"]._replace(method=Contest))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    overrides = ("method=contest", f"optim.name={names[0]}", f"optim.players.critic.name={names[1]}",
                 "optim.players.critic.lr=0.05", "optim.players.critic.clip=0.1", "epochs=2")  # fmt: skip

    def run(out: Path, **options: Any) -> None:
        config = tiny_run(digits_webdataset.path, out, *overrides)
        config.model = tiny_run("", "").model
        train(config, progress=False, **options)

    class Crash(Exception):
        pass

    def crash(record: Record) -> None:
        if record["step"] == 5:
            raise Crash

    run(tmp_path / "whole")
    with pytest.raises(Crash):
        run(tmp_path / "cut", on_step=crash)
    run(tmp_path / "cut")
    torch.set_num_threads(threads)
    for part in ("model", "optimizer"):
        assert same_bits(final_state(tmp_path / "cut")[part], final_state(tmp_path / "whole")[part])
    assert all(0 < record["told"] < 10 for record in read_metrics(tmp_path / "whole"))
