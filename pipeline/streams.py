"""What a method asks for: streams by name, each with its own field, views, masks and normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.pipeline.checks import check
from headrace.pipeline.clips.clips import ClipSpec
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.sounds.sounds import SoundSpec
from headrace.pipeline.texts.packed import PackedTextSpec
from headrace.pipeline.texts.texts import TextSpec

Spec = ViewSpec | ClipSpec | TextSpec | PackedTextSpec | SoundSpec
"""What is delivered of one field of a sample."""

LONE = {ViewSpec: "image", ClipSpec: "clip", TextSpec: "text", PackedTextSpec: "text", SoundSpec: "sound"}
"""Kinds of specification, and the name of the stream that a lone one of them stands for."""


@dataclass(frozen=True, kw_only=True)
class Other:
    """Another sample's part in the place of the sample's own: a positive of the same class, or a negative.

    Whose is drawn from (seed, epoch, sample), so that a batch is the same whatever else is in it, and stands in
    `Batch.others`. The sample is bad if the other is.
    """

    spec: Spec
    among: Literal["all", "label"] = "all"
    """all: any sample of the set but itself, all equally likely. label: any but itself that has its label; the sample
    itself where there is none, or where it has no label."""

    def __post_init__(self) -> None:
        _check_among(self)


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Two samples in one: `weight` times the sample's own views plus `1 - weight` times another's, drawn as in `Other`.

    mixup (arXiv 1710.09412): the weight is from Beta(alpha, alpha), one a sample, and stands in `Batch.others` with the
    other sample. Levels are rounded to the nearest. With affine normalisation it is the same before and after mixing.
    """

    spec: ViewSpec | ClipSpec
    alpha: float = 0.2
    """Of the Beta distribution; 1 makes all weights equally likely."""
    among: Literal["all", "label"] = "all"
    """See `Other`."""

    def __post_init__(self) -> None:
        check(self.alpha > 0, self, "alpha", self.alpha, "above 0")
        _check_among(self)


def _check_among(one: Other | Mixed) -> None:
    check(one.among in ("all", "label"), one, "among", one.among, "all or label")


Stream = Spec | Other | Mixed
Inputs = Stream | Mapping[str, Stream]
"""What a loader delivers of each sample: streams by name, or a lone one."""


def spec_of(stream: Stream) -> Spec:
    """What a stream shows, of whichever sample."""
    return stream.spec if isinstance(stream, Other | Mixed) else stream


def streams_of(inputs: Inputs) -> dict[str, Stream]:
    """The streams by name; a lone one has the name that `LONE` says.

    Raises:
        TypeError: for anything that is no stream.
        ValueError: if there is none, or packed texts are not alone.
    """
    named: Mapping[Any, Any] = inputs if isinstance(inputs, Mapping) else {LONE.get(type(spec_of(inputs)), ""): inputs}
    if not named:
        raise ValueError("inputs must have at least one stream")
    for name, stream in named.items():
        if type(spec_of(stream)) not in LONE or not isinstance(name, str):
            kinds = ", ".join(kind.__name__ for kind in LONE)
            raise TypeError(f"inputs must be one of {kinds}, or some of them by name, got {name!r}: {stream!r}")
        if isinstance(spec_of(stream), PackedTextSpec) and (len(named) > 1 or isinstance(stream, Other | Mixed)):
            raise ValueError("a PackedTextSpec must be alone: its blocks are parts of several samples")
    return dict(named)


def is_packed(inputs: Inputs) -> bool:
    """Whether the loader's samples are not the set's, but blocks of packed texts."""
    return any(isinstance(spec_of(stream), PackedTextSpec) for stream in streams_of(inputs).values())


def lone_spec(inputs: Inputs) -> Spec | None:
    """The specification where there is one stream, of each sample's own."""
    streams = streams_of(inputs)
    (stream,) = streams.values() if len(streams) == 1 else (None,)
    return None if stream is None or isinstance(stream, Other | Mixed) else stream
