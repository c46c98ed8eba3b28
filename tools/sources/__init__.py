"""Readers of raw data, by the name that `headrace shard` takes. A new source is one file and one line here."""

from headrace.tools.sources import cifar10, coco, folder, imagenet, mnist, shards, video
from headrace.tools.sources.source import BadSample, Source, SourceData

SOURCES: dict[str, Source] = {
    "mnist": mnist.read,
    "folder": folder.read,
    "cifar10": cifar10.read,
    "imagenet": imagenet.read,
    "coco": coco.read,
    "video": video.read,
    "shards": shards.read,
}

__all__ = ["SOURCES", "BadSample", "Source", "SourceData"]
