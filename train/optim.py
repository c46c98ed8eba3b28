"""Optimisers and their parameter groups."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headrace.models.method import Context, ParameterGroup
from headrace.models.parts.schedules import cosine
from headrace.train.config import OptimConfig, PlayerConfig, RunConfig
from headrace.train.errors import ConfigError
from headrace.train.optimizers import LARS, SGD, Muon, Several
from headrace.train.schedule import SHAPES, dropped


def peak_lr(config: PlayerConfig, batch_size: int) -> float:
    """The learning rate after the warm-up, for a global batch of `batch_size` samples."""
    return config.lr * batch_size / 256 if config.scale_lr else config.lr


def build_optimizer(
    groups: Sequence[ParameterGroup],
    config: OptimConfig,
    batch_size: int,
    *,
    tables: Collection[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """The optimiser that `config` names, over a method's parameter groups; one that `step_unless` can hold back.

    Each group keeps what the method said of it: its scales, `constant_lr`, `frozen_epochs`, `player`. Where there are
    several players, or Muon, which leaves a part to AdamW, it is several optimisers in one.

    Args:
        batch_size: of a step, over all ranks.
        tables: matrices that Muon leaves to AdamW; see `embedding_tables`.

    Raises:
        ConfigError: if `config` names a player that has no parameters, or Muon finds no matrix.
    """
    players = dict.fromkeys(["", *(group.player for group in groups)])
    for name in config.players:
        if name not in players or not name:
            known = ", ".join(filter(None, players)) or "none"
            raise ConfigError(f"optim.players.{name}: the method has no such player; its players: {known}")
    parts = []
    for player in players:
        own = [group for group in groups if group.player == player]
        settings = config.players.get(player, config)
        scale = peak_lr(settings, batch_size) / peak_lr(config, batch_size)
        entries = [
            {name: getattr(group, name) for name in _GROUP}
            | {"lr_scale": scale * group.lr_scale, "own_decay": None if settings is config else settings.weight_decay}
            for group in own
        ]
        parts += _optimizers(entries, settings, batch_size, tables)
    return parts[0] if len(parts) == 1 else Several(parts)


_GROUP = [field.name for field in fields(ParameterGroup)]


def _optimizers(
    groups: list[dict[str, Any]], config: PlayerConfig, batch_size: int, tables: Collection[nn.Parameter]
) -> list[torch.optim.Optimizer]:
    """Of one player: one optimiser, or two."""
    if not groups:
        return []
    lr, weight_decay = peak_lr(config, batch_size), config.weight_decay
    for group in groups:
        group["weight_decay"] = weight_decay * group["decay_scale"]
        if config.name in ("adamw", "muon"):
            group["betas"] = (config.betas[0] * group["momentum_scale"], config.betas[1])
        if config.name != "adamw":
            group["momentum"] = config.momentum * group["momentum_scale"]
    if config.name == "adamw":
        return [torch.optim.AdamW(groups, lr=lr, betas=config.betas, weight_decay=weight_decay, fused=True)]
    if config.name == "sgd":
        return [SGD(groups, lr=lr, momentum=config.momentum, weight_decay=weight_decay, fused=True)]
    if config.name == "muon":
        left = {id(table) for table in tables}
        matrices, others = (
            [
                {**group, "params": chosen}
                for group in groups
                if (chosen := [p for p in group["params"] if (p.ndim == 2 and id(p) not in left) == wanted])
            ]
            for wanted in (True, False)
        )
        if not matrices:
            raise ConfigError("optim: muon is for matrices, and there is none among the weights that it is for")
        muon = Muon(matrices, lr=lr, weight_decay=weight_decay, momentum=config.momentum, adjust_lr_fn=_AS_ADAMW)
        return [muon, *_optimizers(others, replace(config, name="adamw"), batch_size, ())]
    return [
        LARS(
            groups,
            lr=lr,
            momentum=config.momentum,
            weight_decay=weight_decay,
            trust=config.trust,
            lr_in_momentum=config.lr_in_momentum,
            clip_rate=config.clip_rate,
        )
    ]


_AS_ADAMW = "match_rms_adamw"  # steps of AdamW's usual size


def embedding_tables(module: nn.Module) -> list[nn.Parameter]:
    """The tables of a module's embeddings: matrices whose rows are looked up, for which Muon is not made."""
    return [p for part in module.modules() if isinstance(part, nn.Embedding) for p in part.parameters()]


def set_schedule(optimizer: torch.optim.Optimizer, lr: float, peak: float, weight_decay: float) -> None:
    """What each group takes in the next step.

    Args:
        lr: of the step.
        peak: the largest of the run, which groups with a constant rate keep.
        weight_decay: of the step; a player with an optimiser of its own has its own.
    """
    for group in optimizer.param_groups:
        group["lr"] = (peak if group["constant_lr"] else lr) * group["lr_scale"]
        own = group["own_decay"]
        group["weight_decay"] = (weight_decay if own is None else own) * group["decay_scale"]


def follow_schedule(optimizer: torch.optim.Optimizer, config: RunConfig, context: Context) -> None:
    """What each group takes in a run's step: see `set_schedule`."""
    schedule, step, total = config.schedule, context.step, context.total_steps
    warmup = round(schedule.warmup_epochs * context.steps_per_epoch)
    share = SHAPES[schedule.shape](step, total=total, warmup=warmup, final=schedule.final)
    peak = peak_lr(config.optim, config.batch_size)
    decay, final_decay = config.optim.weight_decay, schedule.final_weight_decay
    set_schedule(
        optimizer,
        peak * share * dropped(context.epoch, schedule.drops),
        peak,
        decay if final_decay is None else cosine(decay, final_decay, step / total),
    )


def drop_frozen(optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """No gradient, and so no step, no momentum and no decay, for groups that are frozen in this epoch."""
    for group in optimizer.param_groups:
        if epoch < group["frozen_epochs"]:
            for parameter in group["params"]:
                parameter.grad = None


def clip_players(method: nn.Module, optimizer: torch.optim.Optimizer, config: OptimConfig) -> None:
    """Clip each player's gradients as its configuration says."""
    for player in dict.fromkeys(group["player"] for group in optimizer.param_groups):
        settings = config.players.get(player, config)
        if settings.clip:
            groups = [group["params"] for group in optimizer.param_groups if group["player"] == player]
            clip_gradients(method, settings.clip, settings.clip_by, {id(p) for params in groups for p in params})


@torch.no_grad()
def clip_gradients(
    method: nn.Module, most: float, by: Literal["all", "tensor", "module"], among: Container[int] | None = None
) -> None:
    """Scale gradients down to a norm of `most`; nothing is read back from the device.

    Args:
        by: "all" takes the norm of all gradients together; "tensor" of each tensor by itself, as DINO does; "module" of
            each of the method's own parts (backbone, head, ...), as DINOv2 does.
        among: `id` of each parameter that is meant; None means all.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in method.named_parameters():
        if parameter.grad is not None and (among is None or id(parameter) in among):
            part = {"all": "", "tensor": name, "module": name.partition(".")[0]}[by]
            parts.setdefault(part, []).append(parameter.grad)
    for gradients in parts.values():
        norm = torch.stack(list(torch._foreach_norm(gradients))).norm()
        torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))


def step_unless(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """One update, or none where `bad`, a float32 scalar on the weights' device, is 1. It is decided on the device.

    This is what `torch.amp.GradScaler` asks of fused optimisers.
    """
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    optimizer.step()


def resume_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load `state`, but for the implementation that it was made with, which belongs to a device."""
    groups = [
        ours | saved | {key: ours[key] for key in _IMPLEMENTATION & ours.keys()}
        for ours, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


_IMPLEMENTATION = {"fused", "foreach", "capturable"}
