"""From what a person names, a run, a file or a model of timm's, to an encoder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import timm as timm_library

from headrace.models import Method
from headrace.pipeline import ClipSpec, ViewSpec
from headrace.pipeline.streams import lone_spec
from headrace.train.config import RunConfig
from headrace.train.encoders.encoder import Encoder
from headrace.train.encoders.preprocessing import Shown
from headrace.train.encoders.timm_network import Made, TimmNetwork, fill, find, made_of, shown_by_name
from headrace.train.errors import RunError
from headrace.train.run import first_weights, load_run
from headrace.train.weights.files import read_weights


def open_encoder(
    source: str | os.PathLike[str],
    *,
    timm: str | None = None,
    method: Callable[[], Method] | None = None,
) -> Encoder:
    """The encoder that a run trained, that a file holds weights of, or that timm has under a name.

    A foreign network is shown what its configuration in timm says, mapped onto a `ViewSpec` as exactly as that goes:
    see `headrace.train.encoders.preprocessing.shown_by_timm` for what differs, a warning says where more than half a
    pixel does. Its features are what stands in front of its classifier.

    Args:
        source: a run's folder, of which the newest readable checkpoint counts, or one checkpoint file of a run; a file
            of safetensors, or a state dict that `torch.save` wrote, of a network of timm's, or a folder in timm's
            layout (config.json, model.safetensors), both as `headrace export` writes them, too; or a model that timm
            lists. Nothing is ever downloaded: a name alone stands for random weights, always the same.
        timm: name of timm's model that a file holds, perhaps with a tag behind a dot, which says what it is shown; None
            takes what the file's metadata, the JSON of its name beside it or config.json say.
        method: makes the method of a run that was trained with one of yours; see `headrace.train.train`.

    Raises:
        ConfigError: as `headrace.train.load_run`.
        RunError: in one line, if there is nothing of the kind, or the weights are of another network.
        OSError: if the disk cannot read it.
    """
    path = Path(source)
    if not path.exists():
        name = os.fspath(source)
        if timm is not None or not timm_library.is_model(name):
            find(path)  # which says that there is nothing
        return _of_name(name)
    if timm is not None and not timm_library.is_model(timm):
        raise RunError(f"{timm}: no model that timm lists")
    if path.is_dir():
        return _of_run(path, method) if (path / "checkpoints").exists() or method else _of_file(path, timm)
    if path.suffix != ".safetensors" and timm is None:
        try:
            return _of_run(path, method)
        except RunError as not_ours:
            try:
                read_weights(path)
            except RunError:  # not another program's either
                raise not_ours from None
    return _of_file(path, timm)


def _of_run(path: Path, make: Callable[[], Method] | None) -> Encoder:
    config, trained = load_run(path, method=make)

    def untrained() -> Encoder:
        return _of_method(config, first_weights(config, make)[1].eval(), untrained)

    return _of_method(config, trained, untrained)


def _of_method(config: RunConfig, method: Method, restart: Callable[[], Encoder]) -> Encoder:
    spec = lone_spec(method.probe_inputs)
    views = spec.views if isinstance(spec, ViewSpec) else spec.views.views if isinstance(spec, ClipSpec) else ()
    return Encoder(
        name=config.method,
        module=method,
        inputs=method.probe_inputs,
        side=views[0].size if views else None,
        backbone=method.backbone,
        feature_dim=method.feature_dim,
        method=method,
        max_bad=config.loader.probes_max_bad,
        made_of={"method": config.method, "model": config.to_dict()["model"]},
        restart=restart,
    )


def _of_name(name: str) -> Encoder:
    try:
        shown, differs = shown_by_name(name)
    except ValueError as error:
        raise RunError(f"{name}: {error}") from None
    _warn(name, differs)
    return _of_network(Made(name, {}, 0), shown, None)


def _of_file(path: Path, name: str | None) -> Encoder:
    file = find(path)
    made, shown, differs = made_of(file, name, path)
    _warn(path, differs)
    return _of_network(made, shown, file.weights)


def _of_network(made: Made, shown: Shown, weights: Path | None) -> Encoder:
    """With the weights in a file, or random ones."""
    try:
        network, dim = made.build()
    except (ValueError, RuntimeError, AssertionError) as error:
        raise RunError(f"{weights or made.name}: {' '.join(str(error).split())}") from None
    if weights is not None:
        classifier = _classifier(network)
        unused = [name for name in fill(network, weights) if not name.rpartition(".")[0].endswith(classifier)]
        if unused:
            _warn(weights, [f"{len(unused)} tensors of it are not used, such as {unused[0]}"])
    return Encoder(
        name=made.name,
        module=TimmNetwork(network, shown.side).eval(),
        inputs=shown.inputs,
        side=shown.side,
        backbone=network,
        feature_dim=dim,
        method=None,
        max_bad=None,
        made_of={"timm": made.name, "options": dict(made.options), "outputs": made.outputs},
        restart=lambda: _of_network(made, shown, None),
    )


def _classifier(network: object) -> tuple[str, ...]:
    """Names of the layers behind the features."""
    found = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def _warn(source: object, lines: list[str]) -> None:
    for line in lines:
        warnings.warn(f"{source}: {line}", stacklevel=4)
