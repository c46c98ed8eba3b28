"""A run in one object: every setting, whether it came from a recipe, a YAML file or the command line.

Configs are plain dataclasses, and `RunConfig.from_dict` builds them strictly (`headrace.train.settings.plain`). The
resolved config is saved with the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from headrace.models import METHODS
from headrace.pipeline.order.window import LANES, WINDOW
from headrace.shards.special import special
from headrace.train.errors import ConfigError, replacing
from headrace.train.settings.overrides import override, split_arguments
from headrace.train.settings.plain import build, nearest, read_yaml, require_plain, to_plain

OWN = "own"
"""Stands in `RunConfig.method` for a method that is none of `METHODS`; `train` is given it."""


def _require(good: bool, name: str, value: object, rule: str) -> None:
    if not good:
        raise ConfigError(f"{name}: must be {rule}, got {value!r}")


@dataclass(kw_only=True)
class PlayerConfig:
    """How the weights of one player move."""

    name: Literal["adamw", "sgd", "lars", "muon"] = "adamw"
    """AdamW, SGD with momentum, LARS (arXiv 1708.03888), or Muon (arXiv 2502.16982) for matrices, the weights of two
    dimensions, and AdamW for all others: convolutions, biases, norms, and tables of embeddings. Muon's steps have the
    size of AdamW's, so that one `lr` and one `weight_decay` serve both."""
    lr: float = 1e-3
    """Peak learning rate."""
    scale_lr: bool = False
    """Whether the peak is `lr` times `batch_size` / 256, the linear scaling rule of large batches."""
    weight_decay: float = 1e-4
    """Decoupled for AdamW and Muon, added to the gradient for SGD and LARS; biases and norms are left out. 0 turns it
    off."""
    momentum: float = 0.9
    """Of SGD, LARS and Muon; 0 turns it off."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    trust: float = 0.001
    """LARS's trust coefficient (eta in its paper); biases and norms are not adapted."""
    lr_in_momentum: bool = True
    """Whether LARS multiplies the learning rate into its momentum, as SimCLR does; BYOL and Barlow Twins do not."""
    clip_rate: bool = False
    """Whether LARS moves a layer with its trust ratio as the learning rate, but at most with `lr`, as LARC's clipping
    and solo-learn do, instead of with `lr` times the ratio."""
    clip: float = 0.0
    """Largest norm of the gradient; larger ones are scaled down. 0 turns it off."""
    clip_by: Literal["all", "tensor", "module"] = "all"
    """Whose norm: of all gradients together, of each tensor by itself (DINO), or of each of the method's parts."""

    def __post_init__(self) -> None:
        _require(self.clip >= 0, "clip", self.clip, "at least 0")
        _require(self.lr > 0, "lr", self.lr, "above 0")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "in [0, 1)")
        _require(self.trust > 0, "trust", self.trust, "above 0")


@dataclass(kw_only=True)
class OptimConfig(PlayerConfig):
    """How weights move: all of them, but for those of a second player that `players` names."""

    accumulate: int = 1
    """Parts in which each rank takes its share of a batch, one after the other, before one step of the optimiser along
    their mean gradient. Losses that compare samples, and batch norms, see the samples of a part only."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer of the backbone, or of the student that it follows, to the one before
    it, as 0.75 in BEiT and in MAE's fine-tuning, so that the first layers move least; 1 turns it off. For backbones of
    timm."""
    players: dict[str, PlayerConfig] = field(default_factory=dict)
    """Optimisers of a method's other players by name, such as a discriminator's; a player that is not here moves as the
    others do. The warm-up and the way down of `schedule` are theirs too, `final_weight_decay` is not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.accumulate >= 1, "accumulate", self.accumulate, "at least 1")
        _require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "above 0 and at most 1")


@dataclass(kw_only=True)
class ScheduleConfig:
    """Learning rate over the run: linear warm-up, then a way down, and drops."""

    shape: Literal["cosine", "linear"] = "cosine"
    """Of the way down: half a cosine, or a straight line."""
    warmup_epochs: float = 10.0
    """Length of the warm-up, in epochs; 0 turns it off."""
    final: float = 0.0
    """Learning rate at the end, as a share of the peak; 1 keeps it constant."""
    drops: dict[int, float] = field(default_factory=dict)
    """Factors of the learning rate from an epoch on, counted from 0, beside whatever `shape` makes of it: {120: 0.1,
    160: 0.1} with `final` 1 is MoCo's. {} for none."""
    final_weight_decay: float | None = None
    """Weight decay at the end, reached on half a cosine over the whole run, as DINO's; null keeps it constant."""

    def __post_init__(self) -> None:
        _require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "at least 0")
        _require(0 <= self.final <= 1, "final", self.final, "in [0, 1]")
        _require(all(epoch >= 0 for epoch in self.drops), "drops", self.drops, "by epochs of at least 0")
        _require(all(factor > 0 for factor in self.drops.values()), "drops", self.drops, "factors above 0")


@dataclass(kw_only=True)
class LoaderConfig:
    """How batches are made. Only `order`, `window` and `lanes` change what they hold, beyond the engines' tolerance."""

    engine: Literal["native", "torchvision", "dali", "kornia", "dali+kornia", "ffcv", "cuda"] = "native"
    """Which engine decodes and augments. "dali", "kornia" and "dali+kornia" (DALI crops, Kornia does the rest) need
    their packages and work on the GPU where there is one; "cuda" decodes on the CPU and draws on the GPU; "ffcv" needs
    its package and a set of .beton files; "torchvision" is the slow reference."""
    threads: int | None = None
    """Decoding threads of each rank; null takes the loader's own choice."""
    prefetch: int = 2
    """Batches made ahead of the training step, at least 1."""
    order: Literal["global", "window"] | None = None
    """How samples are shuffled: "global" over the whole set; "window" shard by shard and within a window, for sets
    that are slow to read at random. null takes "window" for data on a store and "global" for data on a disk, and what
    the run began with when it resumes."""
    window: int = WINDOW
    """Samples over which the order "window" is random."""
    lanes: int = LANES
    """Places of the set that the order "window" reads at the same time; best a multiple of the number of ranks."""
    on_error: Literal["error", "substitute"] = "error"
    """What a sample that cannot be decoded does: end the run with its name, or let another one take its place."""
    max_bad: int = 100
    """Different bad samples that each rank puts up with."""

    @property
    def probes_max_bad(self) -> int | None:
        """Bad samples that probes put up with, which leave them out; None if the first is to end them."""
        return None if self.on_error == "error" else self.max_bad

    def __post_init__(self) -> None:
        _require(self.max_bad >= 0, "max_bad", self.max_bad, "at least 0")
        _require(self.threads is None or self.threads > 0, "threads", self.threads, "above 0 or null")
        _require(self.prefetch > 0, "prefetch", self.prefetch, "above 0")
        _require(self.lanes > 0, "lanes", self.lanes, "above 0")
        _require(self.window >= self.lanes, "window", self.window, f"at least lanes, {self.lanes}")


Score = Literal["loss", "knn", "linear"]
"""What an evaluation measures: the held-out loss, and the accuracies of probes."""


@dataclass(kw_only=True)
class ProbeConfig:
    """Evaluations while the run goes on. Its weights are the same with and without them, bit for bit."""

    every: int = 0
    """Epochs between evaluations; the last epoch of the run is evaluated too. 0 turns them off."""
    protocols: tuple[Literal["knn", "linear"], ...] = ("knn",)
    """Probes of the frozen encoder. They learn from `data` and are scored on `validation` or, without it, on a fifth of
    `data` that they do not learn from; both need labels. [] for none."""
    samples: int | None = None
    """Samples of `data`, drawn at random but always the same, that are shown to probes at most; null takes all."""

    def __post_init__(self) -> None:
        _require(self.every >= 0, "every", self.every, "at least 0")
        _require(len(set(self.protocols)) == len(self.protocols), "protocols", self.protocols, "different ones")
        _require(self.samples is None or self.samples > 1, "samples", self.samples, "above 1 or null")


@dataclass(kw_only=True)
class StopConfig:
    """What ends a run before its last epoch."""

    on: Score | None = None
    """Score of the evaluations whose standstill ends the run: the held-out loss, which is to fall, or the accuracy of a
    probe, which is to rise. null turns early stopping off."""
    patience: int = 10
    """Evaluations without a better score, after which the run ends."""
    min_change: float = 0.0
    """By how much a score must be better than the best to count, in its own unit: 0.001 is a tenth of a percent of
    accuracy. 0 counts anything."""
    min_epochs: int = 0
    """Epochs before which the run does not stop early."""
    hours: float | None = None
    """Wall time after which the run ends with a checkpoint, to be gone on with by the next start; null for no limit."""

    def __post_init__(self) -> None:
        _require(self.patience >= 1, "patience", self.patience, "at least 1")
        _require(self.min_change >= 0, "min_change", self.min_change, "at least 0")
        _require(self.min_epochs >= 0, "min_epochs", self.min_epochs, "at least 0")
        _require(self.hours is None or self.hours > 0, "hours", self.hours, "above 0 or null")


@dataclass(kw_only=True)
class DistributedConfig:
    """How several ranks train together."""

    timeout_s: float = 1800.0
    """Seconds after which a rank that waits for the others takes them for lost, and the run ends. It must be longer
    than anything that one rank does alone, such as the k-means of a whole set's features."""

    def __post_init__(self) -> None:
        _require(self.timeout_s > 0, "timeout_s", self.timeout_s, "above 0")


@dataclass(kw_only=True)
class CheckpointConfig:
    """What is kept for resuming and for probes."""

    every_steps: int = 500
    """Steps between checkpoints; 0 writes one at the end of the run and when it is interrupted, no others."""
    keep: int = 2
    """How many of the newest checkpoints stay on disk; at least 2, so that a damaged one has a predecessor."""
    best: Score | None = None
    """Score by which the best evaluated state is kept as best.pt beside them; null keeps none."""

    def __post_init__(self) -> None:
        _require(self.every_steps >= 0, "every_steps", self.every_steps, "at least 0")
        _require(self.keep >= 2, "keep", self.keep, "at least 2")


@dataclass(kw_only=True)
class LogConfig:
    """What is written while training."""

    every_steps: int = 10
    """Steps between lines of metrics.jsonl. The loss is read from the device, and checked, on these steps only."""
    tensorboard: bool = True
    """Whether to write the same scalars, and what the method draws, as TensorBoard events."""
    wandb: str = ""
    """Project of Weights & Biases that gets the same, by that package's own settings (WANDB_MODE=offline keeps it in
    the run's folder); "" for none."""
    mlflow: str = ""
    """Experiment of MLflow that gets the same, at MLFLOW_TRACKING_URI; "" for none."""
    meters_every: int = 5
    """Lines of metrics from one that says whether features collapse to the next, so by default 50 steps
    (`headrace.train.guard.meters`). 0 turns them off."""

    def __post_init__(self) -> None:
        _require(self.every_steps > 0, "every_steps", self.every_steps, "above 0")
        _require(self.meters_every >= 0, "meters_every", self.meters_every, "at least 0")

    def metered(self, step: int) -> bool:
        """Whether the line of metrics after `step` steps has meters of collapse."""
        return self.meters_every > 0 and step % (self.every_steps * self.meters_every) == 0


@dataclass(kw_only=True)
class GuardConfig:
    """What happens at a bad step: one whose loss or gradient is not finite, or at which features have collapsed.

    Its step is held back whole, whatever happens then: weights, optimiser, and what the method remembers.
    """

    on_bad_step: Literal["stop", "skip", "roll_back"] = "stop"
    """"stop" ends the run; "skip" leaves the step out and goes on behind it; "roll_back" goes on behind it from the
    newest checkpoint, and so leaves out all steps since then, as PaLM's authors did (arXiv 2204.02311, section 5.1)."""
    most_in_a_row: int = 5
    """Bad steps in a row that are put up with. With "skip" each is the next that could be one; with "roll_back" no
    regular checkpoint was due between them."""
    least_rank: float = 0.0
    """Effective rank of the features (`feature_rank` in metrics.jsonl) below which a step is bad; 0 for no limit."""
    least_std: float = 0.0
    """Their deviation (`feature_std`) below which a step is bad, as a share of 1 / sqrt(D), which it is where they are
    spread evenly; 0 for no limit."""
    capsules: int = 3
    """Bad steps of a run that are kept as a folder each, for `headrace replay`. 0 keeps none and, with "stop", saves
    the copy of what else moves in a step: buffers, slow networks and, of methods with hooks around a step, weights."""

    def __post_init__(self) -> None:
        _require(self.most_in_a_row >= 0, "most_in_a_row", self.most_in_a_row, "at least 0")
        _require(self.least_rank >= 0, "least_rank", self.least_rank, "at least 0")
        _require(0 <= self.least_std < 1, "least_std", self.least_std, "in [0, 1)")
        _require(self.capsules >= 0, "capsules", self.capsules, "at least 0")


@dataclass(kw_only=True)
class RunConfig:
    """Everything that defines a run. The same config, started again, resumes it."""

    method: str = "simclr"
    """A name in `headrace.models.METHODS`, or "own" for a method of yours, which `train` is given beside the config."""
    model: Any = None
    """The method's own config (for "simclr" a SimCLRConfig); null takes the paper's values. Of a method of yours
    `train` writes down its class and the fields of its config here, so that a run goes on with the same only."""
    data: str = ""
    """Folder of the shard set to train on."""
    validation: str = ""
    """Folder of a shard set that is not trained on, for evaluations: the method's loss on it, and the scores of probes;
    "" for none."""
    out: str = ""
    """Folder of the run; created where it is missing."""
    init: str = ""
    """What the backbone starts from: another run's folder, one of its checkpoints, or a file of weights (safetensors,
    or a state dict) with timm's names. It is read once, before the first step. "" for weights drawn from `seed`."""
    epochs: int = 100
    """Passes over the shard set."""
    batch_size: int = 256
    """Samples in a global batch, over all ranks; each sample gives as many views as the method wants."""
    seed: int = 0
    """Of the weights, the order, the augmentations and the dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; "auto" takes CUDA where there is some."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the forward pass; weights and optimiser stay float32. "auto" takes bfloat16 where it is faster: measured on
    a CPU, assumed on a GPU that supports it. A resumed run keeps what it chose. "float16" scales the loss, and leaves
    out the steps in which the gradient overflows."""
    sync_batch_norm: bool = False
    """Whether batch norm takes its statistics over all ranks (CUDA only); off, each rank uses its own samples."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning-rate schedule."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Data path."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    log: LogConfig = field(default_factory=LogConfig)
    """Metrics."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Evaluations."""
    stop: StopConfig = field(default_factory=StopConfig)
    """Early stopping."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Bad steps."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Several ranks."""

    def __post_init__(self) -> None:
        if self.method == OWN:
            if not isinstance(self.model, dict | None):
                raise ConfigError(f"model: is filled in by train() for a method of yours, got {self.model!r}")
        else:
            wanted = method_config(self.method)
            if self.model is None:
                self.model = wanted()
            if not isinstance(self.model, wanted):
                got = type(self.model).__name__
                raise ConfigError(f"model: {self.method} is configured by {wanted.__name__}, got {got}")
        _require(self.epochs > 0, "epochs", self.epochs, "above 0")
        _require(self.batch_size > 1, "batch_size", self.batch_size, "above 1")
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        if (self.guard.least_rank or self.guard.least_std) and not self.log.meters_every:
            raise ConfigError("log.meters_every: must be above 0 where guard.least_rank or guard.least_std is")
        if self.validation and not self.probe.every:
            raise ConfigError("validation: is looked at every probe.every epochs, which is 0")
        for name, score in (("stop.on", self.stop.on), ("checkpoint.best", self.checkpoint.best)):
            self._require_measured(name, score)

    def _require_measured(self, name: str, score: Score | None) -> None:
        """ConfigError where no evaluation measures what the field `name` is about."""
        if score is None:
            return
        _require(self.probe.every > 0, name, score, "null where probe.every is 0")
        if score == "loss":
            _require(bool(self.validation), name, score, "knn, linear or null without a validation set")
        else:
            _require(score in self.probe.protocols, name, score, "among probe.protocols")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, as YAML and checkpoints take them; `from_dict` turns it back."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The config with `values`, and defaults for what they leave out.

        Raises:
            ConfigError: for an unknown key, a value of the wrong type or one out of range.
        """
        config: RunConfig = build(cls, values, model=method_config(values.get("method", cls.method)))
        return config

    def with_overrides(self, arguments: Sequence[str]) -> RunConfig:
        """A copy with some fields changed: `["optim.lr=0.3"]`, `["--optim.lr", "0.3"]` or `["--optim.lr=0.3"]`.

        Values are YAML (`null`, `true`, `[0.4, 1]`); dashes in keys stand for underscores. A new `method` starts
        from that method's own defaults.

        Raises:
            ConfigError: as `from_dict`, and for an argument without key or value.
        """
        overrides = dict(split_arguments(arguments))
        values = self.to_dict()
        if overrides.get("method", self.method) != self.method:
            del values["model"]
        model = method_config(overrides.get("method", self.method))
        for key, text in overrides.items():
            override(values, key, text, RunConfig, model=model)
        return RunConfig.from_dict(values)

    @classmethod
    def load(cls, path: str | Path) -> RunConfig:
        """Read a YAML file that `save` or a person wrote.

        Raises:
            ConfigError: naming the file, if it is not there, no YAML mapping, or as `from_dict`.
        """
        values = read_settings(path)
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write all fields as YAML; the file is never seen half written.

        Raises:
            RunError: if the disk does not take it; what was there stays.
        """
        with replacing(Path(path)) as aside:
            aside.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")


def read_settings(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, as it is written.

    Raises:
        ConfigError: naming the file, if it is not there, or holds none.
    """
    if what := special(path):
        raise ConfigError(f"{path}: {what}, expected a file")
    try:
        values = read_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings, holds {type(values).__name__}")
    return values


def method_config(method: object) -> Any:
    """The type of `RunConfig.model`."""
    if method == OWN:
        return dict[str, Any] | None
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(f"method: unknown method {method!r}{nearest(str(method), list(METHODS))}")
    return METHODS[method].config


def recorded(config: object) -> dict[str, Any]:
    """The fields of a method's own config, if it is a dataclass, as YAML and checkpoints take them.

    Raises:
        ConfigError: for a value that they do not take.
    """
    plain: dict[str, Any] = to_plain(config) if is_dataclass(config) and not isinstance(config, type) else {}
    require_plain(plain, "model")
    return plain
