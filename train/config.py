"""A run in one object: every setting, whether it came from a recipe, a YAML file or the command line.

Configs are plain dataclasses, and `RunConfig.from_dict` builds them strictly: an unknown key is refused with the
nearest known one, a value of the wrong type or out of range with its field. The resolved config is saved with the
run.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from headrace.models import METHODS
from headrace.pipeline.order.window import LANES, WINDOW
from headrace.train.errors import ConfigError

OWN = "own"
"""Stands in `RunConfig.method` for a method that is none of `METHODS`; `train` is given it."""


def _require(good: bool, name: str, value: object, rule: str) -> None:
    if not good:
        raise ConfigError(f"{name}: must be {rule}, got {value!r}")


@dataclass(kw_only=True)
class OptimConfig:
    """How weights move."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """AdamW, SGD with momentum, or LARS (arXiv 1708.03888)."""
    lr: float = 1e-3
    """Peak learning rate."""
    scale_lr: bool = False
    """Whether the peak is `lr` times `batch_size` / 256, the linear scaling rule of large batches."""
    weight_decay: float = 1e-4
    """Decoupled for AdamW, added to the gradient for SGD and LARS; biases and norms are left out. 0 turns it off."""
    momentum: float = 0.9
    """Of SGD and LARS; 0 turns it off."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    trust: float = 0.001
    """LARS's trust coefficient (eta in its paper); biases and norms are not adapted."""
    lr_in_momentum: bool = True
    """Whether LARS multiplies the learning rate into its momentum, as SimCLR does; BYOL and Barlow Twins do not."""
    clip: float = 0.0
    """Largest norm of the gradient; larger ones are scaled down. 0 turns it off."""
    clip_by: Literal["all", "tensor", "module"] = "all"
    """Whose norm: of all gradients together, of each tensor by itself (DINO), or of each of the method's parts."""
    accumulate: int = 1
    """Parts in which each rank takes its share of a batch, one after the other, before one step of the optimiser along
    their mean gradient. Losses that compare samples, and batch norms, see the samples of a part only."""

    def __post_init__(self) -> None:
        _require(self.clip >= 0, "clip", self.clip, "at least 0")
        _require(self.accumulate >= 1, "accumulate", self.accumulate, "at least 1")
        _require(self.lr > 0, "lr", self.lr, "above 0")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "in [0, 1)")
        _require(self.trust > 0, "trust", self.trust, "above 0")


@dataclass(kw_only=True)
class ScheduleConfig:
    """Learning rate over the run: linear warm-up, then a way down."""

    shape: Literal["cosine", "linear"] = "cosine"
    """Of the way down: half a cosine, or a straight line."""

    warmup_epochs: float = 10.0
    """Length of the warm-up, in epochs; 0 turns it off."""
    final: float = 0.0
    """Learning rate at the end, as a share of the peak; 1 keeps it constant."""
    final_weight_decay: float | None = None
    """Weight decay at the end, reached on half a cosine over the whole run, as DINO's; null keeps it constant."""

    def __post_init__(self) -> None:
        _require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "at least 0")
        _require(0 <= self.final <= 1, "final", self.final, "in [0, 1]")


@dataclass(kw_only=True)
class LoaderConfig:
    """How batches are made. Only `order`, `window` and `lanes` change what they hold, beyond the engines' tolerance."""

    engine: Literal["native", "torchvision", "dali", "kornia", "dali+kornia", "ffcv"] = "native"
    """Which engine decodes and augments. "dali", "kornia" and "dali+kornia" (DALI crops, Kornia does the rest) need
    their packages and work on the GPU where there is one; "ffcv" needs its package and a set of .beton files;
    "torchvision" is the slow reference."""
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

    def __post_init__(self) -> None:
        _require(self.max_bad >= 0, "max_bad", self.max_bad, "at least 0")
        _require(self.threads is None or self.threads > 0, "threads", self.threads, "above 0 or null")
        _require(self.prefetch > 0, "prefetch", self.prefetch, "above 0")
        _require(self.lanes > 0, "lanes", self.lanes, "above 0")
        _require(self.window >= self.lanes, "window", self.window, f"at least lanes, {self.lanes}")


@dataclass(kw_only=True)
class CheckpointConfig:
    """What is kept for resuming and for probes."""

    every_steps: int = 500
    """Steps between checkpoints; 0 writes one at the end of the run and when it is interrupted, no others."""
    keep: int = 2
    """How many of the newest checkpoints stay on disk; at least 2, so that a damaged one has a predecessor."""

    def __post_init__(self) -> None:
        _require(self.every_steps >= 0, "every_steps", self.every_steps, "at least 0")
        _require(self.keep >= 2, "keep", self.keep, "at least 2")


@dataclass(kw_only=True)
class LogConfig:
    """What is written while training."""

    every_steps: int = 10
    """Steps between lines of metrics.jsonl. The loss is read from the device, and checked, on these steps only."""
    tensorboard: bool = True
    """Whether to write the same scalars as TensorBoard events."""

    def __post_init__(self) -> None:
        _require(self.every_steps > 0, "every_steps", self.every_steps, "above 0")


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
    out: str = ""
    """Folder of the run; created where it is missing."""
    epochs: int = 100
    """Passes over the shard set."""
    batch_size: int = 256
    """Samples in a global batch, over all ranks; each sample gives as many views as the method wants."""
    seed: int = 0
    """Of the weights, the order, the augmentations and the dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; "auto" takes CUDA where there is some."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward pass; weights and optimiser stay float32. "auto" takes bfloat16 where it is faster: measured on
    a CPU, assumed on a GPU that supports it. A resumed run keeps what it chose."""
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

    def __post_init__(self) -> None:
        if self.method == OWN:
            if not isinstance(self.model, dict | None):
                raise ConfigError(f"model: is filled in by train() for a method of yours, got {self.model!r}")
        else:
            wanted = _method_config(self.method)
            if self.model is None:
                self.model = wanted()
            if not isinstance(self.model, wanted):
                got = type(self.model).__name__
                raise ConfigError(f"model: {self.method} is configured by {wanted.__name__}, got {got}")
        _require(self.epochs > 0, "epochs", self.epochs, "above 0")
        _require(self.batch_size > 1, "batch_size", self.batch_size, "above 1")
        _require(self.seed >= 0, "seed", self.seed, "at least 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, as YAML and checkpoints take them; `from_dict` turns it back."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The config with `values`, and defaults for what they leave out.

        Raises:
            ConfigError: for an unknown key, a value of the wrong type or one out of range.
        """
        config: RunConfig = _build(cls, values, "", model=_method_config(values.get("method", cls.method)))
        return config

    def with_overrides(self, arguments: Sequence[str]) -> RunConfig:
        """A copy with some fields changed: `["optim.lr=0.3"]`, `["--optim.lr", "0.3"]` or `["--optim.lr=0.3"]`.

        Values are YAML (`null`, `true`, `[0.4, 1]`); dashes in keys stand for underscores. A new `method` starts
        from that method's own defaults.

        Raises:
            ConfigError: as `from_dict`, and for an argument without key or value.
        """
        overrides = dict(_split_arguments(arguments))
        values = self.to_dict()
        if overrides.get("method", self.method) != self.method:
            del values["model"]
        model = _method_config(overrides.get("method", self.method))
        for key, text in overrides.items():
            _override(values, key, text, model)
        return RunConfig.from_dict(values)

    @classmethod
    def load(cls, path: str | Path) -> RunConfig:
        """Read a YAML file that `save` or a person wrote.

        Raises:
            ConfigError: naming the file, if it is not there, no YAML mapping, or as `from_dict`.
        """
        try:
            values = _yaml(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path}: must hold a mapping of settings, holds {type(values).__name__}")
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write all fields as YAML; the file is never seen half written."""
        aside = Path(f"{path}.tmp")
        aside.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")
        os.replace(aside, path)


def _method_config(method: object) -> Any:
    """The type of `RunConfig.model`."""
    if method == OWN:
        return dict[str, Any] | None
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(f"method: unknown method {method!r}{_nearest(str(method), list(METHODS))}")
    return METHODS[method].config


def _build(cls: type[Any], values: object, path: str, **hints: Any) -> Any:
    """An instance of the dataclass `cls`; `path` is its dotted key, `hints` are types that the class leaves open."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'config'}: must be a mapping, got {values!r}")
    hints = get_type_hints(cls) | hints
    known = [f.name for f in fields(cls)]
    converted = {}
    for key, value in values.items():
        dotted = f"{path}.{key}" if path else str(key)
        if key not in known:
            raise ConfigError(f"{dotted}: unknown key{_nearest(str(key), known)}")
        converted[key] = _convert(value, hints[key], dotted)
    try:
        return cls(**converted)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}" if path else str(error)) from None
    except ValueError as error:  # from the configs of methods
        raise ConfigError(f"{path}: {error}") from None


def _convert(value: object, hint: Any, key: str) -> Any:
    """`value` as the type `hint`, or ConfigError."""
    origin, options = get_origin(hint), get_args(hint)
    if hint is Any:
        return copy.deepcopy(value)
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, key)
    if origin is Literal:
        if value not in options:
            raise ConfigError(f"{key}: must be one of {', '.join(map(str, options))}, got {value!r}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_to_one(value, options, key)
    if (origin or hint) in (tuple, list, Sequence):
        return _convert_each(value, hint, key)
    if (origin or hint) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}: must be a mapping, got {value!r}")
        items = copy.deepcopy(dict(value))
        return {k: _convert(v, options[1], f"{key}.{k}") for k, v in items.items()} if options else items
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint not in _TYPE_WORDS:
        raise ConfigError(f"{key}: of the type {getattr(hint, '__name__', hint)}, which cannot be written in a config")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{key}: must be {_TYPE_WORDS[hint]}, got {value!r}")
    return value


_TYPE_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}


def _convert_each(value: object, hint: Any, key: str) -> Any:
    """A list as the tuple or list that `hint` asks for, each item as its type."""
    origin, options = get_origin(hint) or hint, get_args(hint)
    if origin is tuple and options and options[-1] is not Ellipsis:
        kinds: Sequence[Any] | None = options
    else:
        kinds = None
    if not isinstance(value, (list, tuple)) or (kinds is not None and len(value) != len(kinds)):
        wanted = "a list" if kinds is None else f"a list of {len(kinds)}"
        raise ConfigError(f"{key}: must be {wanted}, got {value!r}")
    each = kinds if kinds is not None else [options[0] if options else Any] * len(value)
    items = (_convert(item, kind, f"{key}[{i}]") for i, (item, kind) in enumerate(zip(value, each, strict=True)))
    return list(items) if origin is list else tuple(items)


def _convert_to_one(value: object, options: Sequence[Any], key: str) -> Any:
    """`value` as the one of several types that it is.

    A whole number is taken for an integer where a number may be either. Of several dataclasses the one counts whose
    fields the keys are, all of them or at least no others.
    """
    if value is None and types.NoneType in options:
        return None
    options = [option for option in options if option is not types.NoneType]
    made: list[tuple[Any, Any]] = []
    errors: list[str] = []
    for option in options:
        try:
            made.append((option, _convert(value, option, key)))
        except ConfigError as error:
            errors.append(str(error))
    if not made:
        if len(errors) == 1:
            raise ConfigError(errors[0])
        raise ConfigError(f"{key}: fits none of {len(errors)} kinds: " + "; or ".join(errors))
    exact = [result for option, result in made if _is_exactly(value, option)]
    if len(exact) == 1:
        return exact[0]
    if len({type(result) for _, result in made}) > 1 and isinstance(value, Mapping):
        kinds = ", ".join(option.__name__ for option, _ in made)
        raise ConfigError(f"{key}: may be {kinds}; give more keys, so that it is one of them, got {value!r}")
    return exact[0] if exact else made[0][1]


def _is_exactly(value: object, option: Any) -> bool:
    """Whether `value` is of the type, rather than something that becomes it."""
    if is_dataclass(option):
        return isinstance(value, Mapping) and value.keys() == {f.name for f in fields(option)}
    return option in _TYPE_WORDS and type(value) is option


def _is_text(hint: Any) -> bool:
    """Whether a field takes what stands on the command line as it is, and nothing else, but for null."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(_is_text(option) for option in get_args(hint) if option is not types.NoneType)
    return hint is str or (get_origin(hint) is Literal and all(isinstance(each, str) for each in get_args(hint)))


def _split_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of each override."""
    rest = iter(arguments)
    for argument in rest:
        key, equals, text = argument.removeprefix("--").partition("=")
        if not equals:
            if not argument.startswith("--"):
                raise ConfigError(f"{argument}: an override reads key=value or --key value")
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise ConfigError(f"{argument}: needs a value")
            text = following
        yield key.replace("-", "_"), text


def _override(values: dict[str, Any], key: str, text: str, model: Any) -> None:
    """Set the dotted `key` of the nested `values` to what `text` means for the field's type."""
    cls: type[Any] = RunConfig
    *groups, last = key.split(".")
    for i, name in enumerate([*groups, last]):
        hint = (get_type_hints(cls) | ({"model": model} if cls is RunConfig else {})).get(name)
        if hint is None:
            raise ConfigError(f"{key}: unknown key{_nearest(key, list(_dotted_keys(RunConfig, model)))}")
        if i == len(groups):
            nullable = types.NoneType in get_args(hint)
            as_it_is = _is_text(hint) and not (nullable and text in ("null", "~", ""))
            values[last] = text if as_it_is else _parse(text, key)
            return
        values = values.setdefault(name, {})
        if get_origin(hint) is dict:  # free-form from here on
            values[".".join([*groups, last][i + 1 :])] = _parse(text, key)
            return
        if not is_dataclass(hint):
            raise ConfigError(f"{key}: {'.'.join(groups[: i + 1])} has no keys of its own")
        cls = hint  # type: ignore[assignment]


def _dotted_keys(cls: type[Any], model: Any, prefix: str = "") -> Iterator[str]:
    for name, hint in (get_type_hints(cls) | ({"model": model} if cls is RunConfig else {})).items():
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _dotted_keys(hint, model, f"{prefix}{name}.")
        else:
            yield prefix + name


def _nearest(key: str, known: Sequence[str]) -> str:
    """What to add to a message about an unknown key."""
    same_name = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    near = same_name or difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


class _Loader(yaml.SafeLoader):
    """Safe YAML that also reads 1e-4 as a number, which YAML 1.1 takes for a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # a SafeLoader


def _parse(text: str, key: str) -> Any:
    try:
        return _yaml(text)
    except yaml.YAMLError:
        raise ConfigError(f"{key}: not a YAML value: {text!r}") from None


def recorded(config: object) -> dict[str, Any]:
    """The fields of a method's own config, if it is a dataclass, as YAML and checkpoints take them.

    Raises:
        ConfigError: for a value that they do not take.
    """
    plain: dict[str, Any] = _plain(asdict(config)) if is_dataclass(config) and not isinstance(config, type) else {}
    _require_plain(plain, "model")
    return plain


def _require_plain(value: object, key: str) -> None:
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _require_plain(item, f"{key}.{name}")
    elif type(value) not in _TYPE_WORDS:
        kind = type(value).__name__
        raise ConfigError(f"{key}: a {kind} cannot be written in a config; numbers, texts and lists of them can")


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
