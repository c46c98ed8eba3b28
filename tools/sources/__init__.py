"""Readers of raw data, by the name that `headrace shard` takes. A new source is one file and one line here."""

import os

from headrace.shards.remote.remote import is_remote
from headrace.tools.errors import UserError
from headrace.tools.sources import cifar10, coco, folder, imagenet, mnist, shards, sound, text, video
from headrace.tools.sources.left_out import counted
from headrace.tools.sources.listing import StrPath, below, findable
from headrace.tools.sources.source import BadSample, Source, SourceData

SOURCES: dict[str, Source] = {
    "mnist": mnist.read,
    "folder": folder.read,
    "cifar10": cifar10.read,
    "imagenet": imagenet.read,
    "coco": coco.read,
    "video": video.read,
    "sound": sound.read,
    "text": text.read,
    "shards": shards.read,
}

WALKED = {"folder": ("",), "video": ("",), "sound": ("",), "text": ("",), "imagenet": ("train", "val")}
"""Folders in SRC in which a source takes what it finds."""


def check_apart(source: str, src: StrPath, out: StrPath) -> None:
    """UserError where a source would take the shards for data, the next time: labels that count folders would move."""
    for name in WALKED.get(source, ()):
        if not is_remote(out) and below(out, os.path.join(src, name)):
            raise UserError(
                f"{findable(out)}: lies in {findable(src)}, which is read as a whole; put the shards beside it"
            )


__all__ = ["SOURCES", "BadSample", "Source", "SourceData", "check_apart", "counted"]
