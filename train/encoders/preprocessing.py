"""What an encoder is shown, in plain values, for files that other programs read; and back, and from timm's words."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from headrace.pipeline import ClipSpec, Inputs, Normalize, SoundSpec, TextSpec, View, ViewSpec, center_view
from headrace.pipeline.sounds.sounds import EFFECTS
from headrace.pipeline.streams import lone_spec
from headrace.train.errors import RunError

INTERPOLATIONS = ("bilinear", "bicubic")


class Shown(NamedTuple):
    """Of each image."""

    inputs: ViewSpec
    """The largest centred square, resized."""
    side: int
    """Side of the middle of that which the network takes, in pixels; at most the side of the square."""


def describe(inputs: Inputs, side: int | None = None) -> dict[str, Any]:
    """What is shown of each sample, in values that JSON holds.

    Of images: "resize" is the side in pixels to which the largest centred square is resized (or, which differs by less
    than a pixel, the shorter side before the square is cut), antialiased by "interpolation"; "size" is the side of the
    middle of that; levels are divided by 255, taken into the colours of "colour", and then "mean" is subtracted and
    divided by "std" ("per_view": those of each channel of each picture instead). The network takes float32 in the
    order of "layout". Of clips also "frames" and "stride", from the middle of the video. Of sounds and texts the fields
    of `Sound` and `TextSpec`.

    Args:
        side: as `Encoder.side`; None for that of the view.

    Raises:
        RunError: for several streams at once.
    """
    spec = lone_spec(inputs)
    if isinstance(spec, ViewSpec):
        return {"kind": "image", "field": spec.field, "layout": "BCHW", **_of_view(spec.views[0], side)}
    if isinstance(spec, ClipSpec):
        (clip,) = spec.clips
        of_time = {"frames": clip.frames, "stride": clip.strides[0], "short": clip.short}
        return {"kind": "clip", "field": spec.field, "layout": "BCTHW", **of_time, **_of_view(clip.view, side)}
    if isinstance(spec, SoundSpec):
        (sound,) = spec.sounds
        layout = "BT" if sound.mel is None else "B1TF"
        said = {key: value for key, value in asdict(sound).items() if key not in EFFECTS}
        return {"kind": "sound", "field": spec.field, "layout": layout, **said}
    if isinstance(spec, TextSpec):
        said = {"length": spec.length, "tokenizer": os.path.basename(spec.tokenizer)}
        return {"kind": "text", "field": spec.field, "layout": "BL", **said}
    raise RunError("it is shown several streams at once, which has no description outside of Headrace")


def _of_view(view: View, side: int | None) -> dict[str, Any]:
    normalize = view.normalize
    return {
        "resize": view.size,
        "size": view.size if side is None else side,
        "interpolation": view.interpolation,
        "antialias": True,
        "colour": normalize.space,
        "channels": "RGB" if normalize.space == "rgb" else "Lab",
        "mean": list(normalize.mean),
        "std": list(normalize.std),
        "per_view": normalize.per_view,
    }


def shown_as_described(said: Mapping[str, Any]) -> Shown:
    """What `describe` said of images. KeyError, TypeError or ValueError where these are not its values."""
    if said["kind"] != "image":
        raise ValueError(f"it is shown a {said['kind']}, not images")
    normalize = Normalize(
        mean=tuple(said["mean"]), std=tuple(said["std"]), space=said["colour"], per_view=said["per_view"]
    )
    views = center_view(int(said["resize"]), normalize, said["interpolation"]).views
    return Shown(ViewSpec(views, field=said.get("field")), int(said["size"]))


def shown_by_timm(cfg: Mapping[str, Any]) -> tuple[Shown, list[str]]:
    """What timm's evaluation shows a network of the `pretrained_cfg`, and a line for each thing that is not the same.

    timm resizes the shorter side to floor(size / crop_pct) and cuts the middle of `size`. Here the largest centred
    square is cut first and resized to that number, of which the network takes the middle: pixels of pictures that are
    not square may lie up to half a pixel elsewhere. Resizing is Headrace's, antialiased as PIL's is, with levels that
    differ by one now and then. `crop_mode` "squash" and "border" become "center", interpolations other than bilinear
    and bicubic become bicubic; both are said.

    Raises:
        ValueError: for inputs that are no square RGB pictures.
    """
    channels, height, width = cfg.get("input_size") or (3, 224, 224)
    if channels != 3 or height != width:
        raise ValueError(f"it takes {channels} x {height} x {width}, and views are squares of 3 channels")
    differs = []
    interpolation: Any = cfg.get("interpolation") or "bicubic"
    if interpolation not in INTERPOLATIONS:
        differs.append(f"its pictures are resized by {interpolation}, here by bicubic")
        interpolation = "bicubic"
    mode = cfg.get("crop_mode") or "center"
    if mode != "center":
        differs.append(f"its pictures are made square by {mode}, here by the largest centred square")
    resized = math.floor(height / (cfg.get("crop_pct") or 0.875)) if mode == "center" else height
    normalize = Normalize(mean=tuple(cfg["mean"]), std=tuple(cfg["std"]))
    return Shown(center_view(max(resized, height), normalize, interpolation), height), differs


def timm_says(inputs: Inputs, side: int | None) -> dict[str, Any]:
    """What a `pretrained_cfg` of timm's says of what is shown.

    Raises:
        ValueError: in one line, for what it has no words for.
    """
    said = describe(inputs, side)
    if said["kind"] != "image":
        raise ValueError(f"it is shown a {said['kind']}, and timm's configuration describes images")
    if said["per_view"] or said["colour"] != "rgb":
        how = "each view by itself" if said["per_view"] else "in Lab"
        raise ValueError(f"its pictures are normalised {how}, for which timm's configuration has no words")
    return {
        "input_size": [3, said["size"], said["size"]],
        "interpolation": said["interpolation"],
        # floor(size / crop_pct) is to be the side again
        "crop_pct": 1.0 if said["size"] == said["resize"] else said["size"] / (said["resize"] + 0.5),
        "crop_mode": "center",
        "mean": said["mean"],
        "std": said["std"],
    }
