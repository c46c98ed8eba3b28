"""An encoder measured by protocols, beside the raw input and the untrained encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headrace.models import Method
from headrace.pipeline import ClipSpec, SoundSpec, TextSpec, ViewSpec
from headrace.shards import UNREADABLE, ShardSet, open_shards
from headrace.shards.remote.remote import has_secrets
from headrace.tools.errors import UserError
from headrace.tools.evaluation.feature_cache import FeatureCache
from headrace.tools.evaluation.protocol import ENCODERS, FileTask, Protocol, Task
from headrace.tools.evaluation.results import RESULTS, Place, Scores, keep, keep_pictures, short
from headrace.tools.evaluation.table import PROTOCOLS
from headrace.tools.fields import image_field
from headrace.train import RunError
from headrace.train.distributed import join
from headrace.train.encoders import as_method, open_encoder
from headrace.train.probes import Features, band_features, image_views, matched_labels, pixel_features, word_features
from headrace.train.settings.plain import to_plain

PIXEL_SIDE = 32  # raw pixels are compared at this size at most: a linear probe of larger ones fills the memory
CLIP_SIDE = 16  # likewise, of every frame
TIMEOUT_S = 7 * 24 * 3600.0
"""That ranks wait for the first, which may fine-tune meanwhile."""


def evaluate(
    run: str | Path,
    data: Place,
    test: Place | None = None,
    *,
    protocols: Sequence[str] = ("knn", "linear"),
    encoders: Sequence[str] = tuple(ENCODERS),
    method: Callable[[], Method] | None = None,
) -> Scores:
    """`measure` with every protocol's own settings: encoder to protocol to score."""
    return short(measure(run, data, test, protocols=protocols, encoders=encoders, method=method))


def measure(
    source: str | Path,
    data: Place,
    test: Place | None = None,
    *,
    protocols: Sequence[str],
    encoders: Sequence[str] = tuple(ENCODERS),
    settings: Mapping[str, Any] | None = None,
    method: Callable[[], Method] | None = None,
    timm: str | None = None,
    cache: bool = True,
) -> dict[str, Any]:
    """Measure an encoder, and keep what is found of a run in its results.json beside that of earlier calls.

    Under torchrun the ranks share the computing of features; all the rest is rank 0's, and the others wait.

    Args:
        source: a run's folder or checkpoint, a file of a timm network, or timm's name of one; see
            `headrace.train.encoders.open_encoder`.
        data: shard set that is learned from.
        test: shard set that is scored; None holds a fifth of `data` out for that, always the same.
        protocols: keys of PROTOCOLS. Bad samples end them or are left out, as a run's `loader.on_error` says.
        encoders: keys of ENCODERS; a protocol that cannot measure one leaves it out. The raw input is pixels,
            statistics of bands where sounds are heard, and counts of words where texts are read.
        settings: of protocols by name, each an instance of the class of `Protocol.settings`; by default that one.
        method: makes the method of a run that was trained with one of yours; see `headrace.train.train`.
        timm: which network a file holds, where it does not say.
        cache: keep features for the next call.

    Returns:
        By protocol: its version, settings and metric, and for each of its encoders every metric with its interval. On
        ranks but the first, without encoders.

    Raises:
        ConfigError: as `headrace.train.load_run`.
        RunError: if there is no encoder, a shard set has no labels or not what is shown, or `test` has samples of
            classes that `data` has not; for fine-tuning, if the encoder is not one of images, and for the raw input, if
            it is shown several streams.
        UserError: for what is scored on a test set alone without `test`.
        ShardError: for a shard set that cannot be read.
    """
    if any(has_secrets(place) for place in (data, test) if place is not None):
        raise UserError(
            f"a user, password or query in a URL would be kept in {RESULTS}; give them to the store's own tools "
            "instead, by variables of the environment or .netrc (docs/remote.md)"
        )
    chosen = [PROTOCOLS[name] for name in protocols]
    if of_file := [protocol.name for protocol in chosen if protocol.of_file]:
        raise UserError(f"{', '.join(of_file)} scores a file of predictions, and no encoder")
    settings = {protocol.name: (settings or {}).get(protocol.name, protocol.settings) for protocol in chosen}
    found: dict[str, Any] = {
        protocol.name: {
            "version": protocol.version,
            "settings": to_plain(settings[protocol.name]),
            "metric": protocol.metric,
            "encoders": {},
        }
        for protocol in chosen
    }
    trained = open_encoder(source, timm=timm, method=method)
    run = Path(source) if trained.method is not None and Path(source).is_dir() else None
    with ExitStack() as stack:
        world = stack.enter_context(join("auto", TIMEOUT_S))
        learn = stack.enter_context(open_shards(data))
        score = stack.enter_context(open_shards(test)) if test is not None else None
        if score is not None and any(protocol.labels for protocol in chosen):
            check_labels(learn, score)
        if any(protocol.name.startswith("finetune") for protocol in chosen):
            image_views(as_method(trained))  # whether it can be, before anything is computed
        kept = stack.enter_context(closing(FeatureCache(world, kept=cache)))
        untrained = trained.untrained()
        for encoder in encoders:
            probed = (trained if encoder == "trained" else untrained).to(world.device)
            measuring = [protocol for protocol in chosen if encoder in protocol.encoders]
            if encoder != "input" and any(protocol.of_features for protocol in measuring):
                for shards in (learn, score):
                    if shards is not None:
                        kept.compute(probed, shards)
            if world.rank:
                continue
            features: Callable[[ShardSet], Features] = partial(kept.features, probed)
            if encoder == "input":
                features = partial(_raw, as_method(probed), learn, probed.max_bad)
            for protocol in measuring:
                task = Task(
                    encoder=encoder,
                    method=as_method(probed),
                    learn=learn,
                    test=score,
                    settings=settings[protocol.name],
                    features=features,
                    device=str(world.device),
                    max_bad=probed.max_bad,
                )
                outcome = protocol.measure(task)
                found[protocol.name]["metric"] = next(iter(outcome.metrics))
                found[protocol.name]["encoders"][encoder] = outcome.to_json()
                if encoder == "trained" and run is not None:
                    keep_pictures(run, protocol.name, outcome.pictures)
        world.each(None)  # the others wait for the folder of features, and rank 0 for nobody's
    if world.rank == 0 and run is not None:
        keep(run, data, test, found)
    return found


def measure_file(path: Path, data: Place, protocol: Protocol, settings: Any = None) -> dict[str, Any]:
    """Score a file of predictions against a set by one protocol `of_file`; nothing is kept.

    Returns:
        The protocol's version, settings and metric, every metric with its interval, and details.

    Raises:
        UserError: for a file that is not as the protocol wants it.
        RunError: for a set that has not what the protocol scores by.
        ShardError: for a shard set that cannot be read.
    """
    settings = settings or protocol.settings
    with open_shards(data) as shards:
        outcome = protocol.measure(FileTask(path=path, shards=shards, settings=settings))
    return {
        "version": protocol.version,
        "settings": to_plain(settings),
        "metric": protocol.metric,
        **outcome.to_json(),
    }


def check_labels(learn: ShardSet, score: ShardSet) -> None:
    """RunError before anything is computed where labels of two sets cannot be compared, as `matched_labels` does."""
    if all("label" in shards.fields for shards in (learn, score)):  # who needs them says so where there are none
        matched_labels(learn, score)


def _raw(method: Method, learn: ShardSet, max_bad: int | None, shards: ShardSet) -> Features:
    """What is shown of each sample of `shards`, without an encoder, in the form that suits `learn`."""
    shown = method.probe_inputs
    if isinstance(shown, SoundSpec):
        return band_features(shards, shown, max_bad=max_bad)
    if isinstance(shown, TextSpec):
        return word_features(shards, shown, max_bad=max_bad)
    clips = shown if isinstance(shown, ClipSpec) else None
    return pixel_features(shards, _pixel_side(method, learn), clips=clips, max_bad=max_bad)


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
