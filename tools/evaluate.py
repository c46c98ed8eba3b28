"""Scores of a run: probes of the trained encoder, beside the raw input and the untrained encoder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from headrace.models import Method
from headrace.pipeline import ClipSpec, SoundSpec, TextSpec, ViewSpec
from headrace.shards import UNREADABLE, ShardSet, open_shards
from headrace.shards.remote.remote import from_anywhere, has_secrets
from headrace.tools.errors import UserError
from headrace.tools.fields import image_field
from headrace.train import RunError, load_run
from headrace.train.probes import (
    FROZEN_PROBES,
    Features,
    band_features,
    extract_features,
    finetune_probe,
    frozen_scores,
    image_views,
    pixel_features,
    word_features,
)
from headrace.train.run import first_weights

ENCODERS = {"pixels": "raw input", "random": "untrained encoder", "trained": "trained encoder"}
PROBES = {"knn": "k-NN", "linear": "linear", "finetune": "fine-tuned"}
RESULTS = "results.json"
PIXEL_SIDE = 32  # raw pixels are compared at this size at most: a linear probe of larger ones fills the memory
CLIP_SIDE = 16  # likewise, of every frame

Place = str | os.PathLike[str]
"""A folder, or for shard sets also a URL."""
Scores = dict[str, dict[str, float]]
"""Encoder (a key of ENCODERS) to probe (a key of PROBES) to accuracy, 0 to 1."""


def evaluate(
    run: Path,
    data: Place,
    test: Place | None = None,
    *,
    probes: Sequence[str] = tuple(FROZEN_PROBES),
    encoders: Sequence[str] = tuple(ENCODERS),
    method: Callable[[], Method] | None = None,
) -> Scores:
    """Probe the newest checkpoint of `run`, and keep the scores in its results.json beside those of earlier calls.

    Args:
        run: run folder.
        data: labelled shard set that probes learn from.
        test: labelled shard set that scores them; None holds a fifth of `data` out for that, always the same.
        probes: keys of PROBES. "finetune" trains the encoder too, so the raw input has none, and it needs `test`. Bad
            samples end them or are left out, as the run's `loader.on_error` says.
        encoders: keys of ENCODERS; "pixels" are counts of words where the method reads texts.
        method: makes the method of a run that was trained with one of yours; see `headrace.train.train`.

    Raises:
        ConfigError: as `headrace.train.load_run`.
        RunError: if the run has no checkpoint, or a shard set has no labels or not what the method is shown; for
            fine-tuning, if the method is not one of images, and for the raw input, if it is shown several streams.
        UserError: for fine-tuning without `test`, and in one of several processes of torchrun, which would all do the
            same.
        ShardError: for a shard set that cannot be read.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("eval works in one process, which sees each sample once: start it without torchrun")
    if any(has_secrets(place) for place in (data, test) if place is not None):
        raise UserError(
            f"a user, password or query in a URL would be kept in {RESULTS}; give them to the store's own tools "
            "instead, by variables of the environment or .netrc (docs/remote.md)"
        )
    config, trained = load_run(run, method=method)
    untrained = first_weights(config, method)[1].eval()
    scores = {}
    max_bad = config.loader.probes_max_bad
    with ExitStack() as stack:
        learn = stack.enter_context(open_shards(data))
        score = stack.enter_context(open_shards(test)) if test is not None else None
        if "finetune" in probes:
            image_views(trained)  # whether it can be, before anything is computed
        for encoder in encoders:
            probed = trained if encoder == "trained" else untrained
            frozen = [probe for probe in probes if probe in FROZEN_PROBES]
            scores[encoder] = _frozen(probed, encoder, learn, score, frozen, max_bad)
            if "finetune" in probes and encoder != "pixels":
                if score is None:
                    raise UserError("fine-tuning is scored on a test set: name one with --test")
                scores[encoder]["finetune"] = finetune_probe(probed, learn, score, device=device(), max_bad=max_bad)
    _keep(run, data, test, scores)
    return scores


def _frozen(
    method: Method,
    encoder: str,
    learn: ShardSet,
    score: ShardSet | None,
    probes: Sequence[str],
    max_bad: int | None,
) -> dict[str, float]:
    """Accuracy of the probes that leave the encoder as it is."""
    if not probes:
        return {}
    shown = method.probe_inputs if encoder == "pixels" else None
    if isinstance(shown, SoundSpec | TextSpec):
        raw: Callable[..., Features] = band_features if isinstance(shown, SoundSpec) else word_features
        test = None if score is None else raw(score, shown, max_bad=max_bad)
        return frozen_scores(probes, raw(learn, shown, max_bad=max_bad), test, device=device())
    side = _pixel_side(method, learn) if encoder == "pixels" else None
    test = None if score is None else features(method, score, pixel_side=side, max_bad=max_bad)
    learned = features(method, learn, pixel_side=side, max_bad=max_bad)
    return frozen_scores(probes, learned, test, device=device())


def features(
    method: Method, shards: ShardSet, *, pixel_side: int | None = None, max_bad: int | None = None
) -> Features:
    """float32 (n, D) and int64 (n,): what `method` makes of every sample, or the pixels that it is shown, at
    `pixel_side`; `max_bad` as in `headrace.train.probes.extract_features`."""
    if pixel_side is not None:
        shown = method.probe_inputs
        return pixel_features(shards, pixel_side, clips=shown if isinstance(shown, ClipSpec) else None, max_bad=max_bad)
    return extract_features(method.to(device()).encode, shards, method.probe_inputs, device=device(), max_bad=max_bad)


def _pixel_side(method: Method, shards: ShardSet) -> int:
    """The side of what the method is shown of a video, or the stored images' own, judged by the first, if it is small
    enough."""
    shown = method.probe_inputs
    if isinstance(shown, ClipSpec):
        return min(shown.clips[0].view.size, CLIP_SIDE)
    if not isinstance(shown, ViewSpec):
        raise RunError(f"{type(method).__name__} is shown no pixels, so that there are none to compare with")
    sizes = shards.places(image_field(shards), np.arange(len(shards)))
    first = int(np.argmax(sizes.encoding != UNREADABLE))
    return min(int(sizes.height[first]), int(sizes.width[first]), PIXEL_SIDE)


def device() -> str:
    """Where probes compute."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time merges its scores; where the file system has no locks, all do at once."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _keep(run: Path, data: Place, test: Place | None, scores: Scores) -> None:
    """Merge `scores` into results.json; scores on other data are dropped."""
    place = {"data": from_anywhere(data), "test": None if test is None else from_anywhere(test)}
    with _alone_in(run):
        kept = read_results(run)
        probes: Scores = kept.get("probes", {}) if place.items() <= kept.items() else {}
        for encoder, found in scores.items():
            probes[encoder] = probes.get(encoder, {}) | found
        save_results(run, {"probes": probes, **place})


def read_results(folder: Path) -> dict[str, Any]:
    """What `save_results` wrote; empty where there is nothing.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / RESULTS
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); delete it and evaluate again") from None
    return results if isinstance(results, dict) else {}


def save_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results.json in one step."""
    write_aside(folder / RESULTS, json.dumps(results, indent=2) + "\n")


def write_aside(path: Path, text: str) -> None:
    """Write a file that is never seen half written, and whose writers do not meet."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def rows(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The lines of a table of results: name of the features to their scores; one trained line a format."""
    scores: Scores = results.get("probes", {})
    named = {ENCODERS[encoder]: found for encoder, found in scores.items()}
    formats: Mapping[str, Any] = results.get("formats", {})
    if formats:
        named.pop(ENCODERS["trained"], None)
        named |= {f"{ENCODERS['trained']}, {name}": each["probes"]["trained"] for name, each in formats.items()}
    return named


def table(results: Mapping[str, Any]) -> Table:
    """The scores for a terminal."""
    lines = rows(results)
    probes = [probe for probe in PROBES if any(probe in found for found in lines.values())]
    made = Table("features", *(PROBES[probe] for probe in probes), title="accuracy on held-out samples")
    for name, found in lines.items():
        cells = [f"{100 * found[probe]:.1f} %" if probe in found else "" for probe in probes]
        made.add_row(name, *cells, style="bold" if name.startswith(ENCODERS["trained"]) else None)
    return made
