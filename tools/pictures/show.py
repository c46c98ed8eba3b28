"""Pictures of what a method will see: stored samples beside each of its streams, with the numbers that made them."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.figure import Figure

from headrace.pipeline import (
    ClipSpec,
    Inputs,
    NegativeFrameDraw,
    PackedTextSpec,
    SoundSpec,
    Spec,
    TextSpec,
    ViewSpec,
    streams_of,
)
from headrace.pipeline.streams import spec_of
from headrace.shards import ShardSet, open_shards
from headrace.shards.remote.remote import redact
from headrace.tools.errors import UserError
from headrace.tools.pictures.animation import save_animated
from headrace.tools.pictures.canvas import check_count, check_request, save
from headrace.tools.pictures.delivered import Delivered, delivered
from headrace.tools.pictures.show_clips import clips_of, draw_clips
from headrace.tools.pictures.show_sounds import draw_sounds, sounds_of
from headrace.tools.pictures.show_texts import draw_texts, texts_of
from headrace.tools.pictures.show_views import draw_masks, draw_tiles, draw_views, views_of

PICTURED = {"views": draw_views, "masks": draw_masks, "tiles": draw_tiles}
"""What can be drawn of images."""
PAGED = ("sounds", "texts")
"""What can be shown as a page."""


def shown(inputs: Inputs) -> dict[str, list[str]]:
    """What there is to show, and in which streams, such as `{"views": ["image"], "masks": ["image"]}`."""
    found: dict[str, list[str]] = {}
    for name, stream in streams_of(inputs).items():
        for what in _kinds(spec_of(stream)):
            found.setdefault(what, []).append(name)
    return found


def _kinds(spec: Spec) -> list[str]:
    if isinstance(spec, TextSpec | PackedTextSpec):
        return ["texts"]
    if isinstance(spec, SoundSpec):
        return ["sounds", *["masks"] * any(not isinstance(mask, NegativeFrameDraw) for mask in spec.masks)]
    if isinstance(spec, ClipSpec):
        return ["clips", *["masks"] * bool(spec.masks)]
    return ["views", *["masks"] * bool(spec.masks), *["tiles"] * bool(spec.arranged)]


def show(
    what: str,
    path: str | os.PathLike[str],
    inputs: Inputs,
    out: Path,
    *,
    count: int = 6,
    seed: int = 0,
    epoch: int = 0,
) -> list[Path]:
    """Draw `count` samples into the picture `out`, or where several streams have what is asked for, a picture each;
    sounds and texts also into a page (.html), where sounds can be heard.

    Args:
        what: "views", "masks", "tiles", "clips", "sounds" or "texts".

    Returns:
        The files; of several streams `out` with the stream's name behind its own. Clips play in a WebP beside each.

    Raises:
        UserError: if the name of `out` is no picture's, `count` is not positive, or there is nothing of `what` to draw
            in `inputs` or in the set.
        ShardError: if the shard set at `path` cannot be read.
    """
    as_page = what in PAGED and out.suffix.lower() == ".html"
    if as_page:
        check_count(count)
    else:
        check_request(out, count)
    names = shown(inputs).get(what, [])
    if not names:
        raise UserError(f"there are no {what}; there are {' and '.join(shown(inputs))}")
    title = f"{os.path.basename(redact(os.fspath(path)))}, seed {seed}, epoch {epoch}"
    lone = len(names) == 1
    files = []
    with open_shards(path) as shards:
        found = delivered(shards, inputs, count=count, seed=seed, epoch=epoch)
        if as_page:
            _write_page(what, out, shards, [found[name] for name in names], title)
            return [out]
        for name in names:
            files.append(out if lone else out.with_stem(f"{out.stem}_{name}"))
            one, named = found[name], title if lone else f"{title}, {name}"
            if isinstance(one.spec, ClipSpec):
                clips = clips_of(one, masks=what == "masks")
                save(draw_clips(clips, named), files[-1])
                files.append(save_animated(clips, files[-1]))
            else:
                save(_figure(what, shards, one, named), files[-1])
    return files


def _write_page(what: str, out: Path, shards: ShardSet, streams: list[Delivered], title: str) -> None:
    from headrace.tools.pictures.pages import write_sounds_page, write_texts_page  # sounds need an extra

    if what == "texts":
        write_texts_page(out, [text for one in streams for text in texts_of(one)], title)
    else:
        write_sounds_page(out, shards, streams, title)


def _figure(what: str, shards: ShardSet, one: Delivered, title: str) -> Figure:
    if isinstance(one.spec, TextSpec | PackedTextSpec):
        return draw_texts(texts_of(one), title)
    if isinstance(one.spec, SoundSpec):
        return draw_sounds(sounds_of(one, masks=what == "masks"), title)
    assert isinstance(one.spec, ViewSpec)
    return PICTURED[what](views_of(shards, one), one.spec, title)
