"""Shard sets: WebDataset tars and FFCV .beton files with one manifest and one index a shard.

write_shards("digits", samples, {"image": Field(kind="image", encoding="raw"), "label":
Field(kind="int")})
with open_shards("digits") as shards:
    sample = shards.read(0)
"""

from headrace.shards.errors import ShardError
from headrace.shards.fields import IMAGE_ENCODINGS, JPG, OTHER, PNG, RAW, UNREADABLE, Field
from headrace.shards.manifest import Manifest
from headrace.shards.opening import open_shards
from headrace.shards.shard_set import ShardSet, Spans
from headrace.shards.writing.writer import ShardWriter, write_shards

__all__ = [
    "IMAGE_ENCODINGS",
    "JPG",
    "OTHER",
    "PNG",
    "RAW",
    "UNREADABLE",
    "Field",
    "Manifest",
    "ShardError",
    "ShardSet",
    "ShardWriter",
    "Spans",
    "open_shards",
    "write_shards",
]
