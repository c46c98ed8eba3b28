"""Sets of a thousand shards and more, written in a second: one sample each, nothing is synced."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headrace.shards import Field, Manifest
from headrace.shards.checksums import CURRENT
from headrace.shards.formats.webdataset import TarShard, encode
from headrace.shards.index import IndexBuilder, index_bytes
from headrace.shards.manifest import MANIFEST_NAME, Shard, index_name, shard_name

FIELDS = {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int", classes=("a", "b"))}


def write_many(folder: Path, count: int) -> Path:
    """A set of `count` shards; sample i has the key of six digits."""
    folder.mkdir(parents=True)
    shards = []
    for number in range(count):
        path = folder / shard_name(number, "webdataset")
        values = {"image": np.full((8, 8, 3), number % 256, np.uint8), "label": number % 2}
        key = b"%06d" % number
        tar, builder = TarShard(path, CURRENT), IndexBuilder(FIELDS, CURRENT)
        with tar.file:
            builder.add(key, tar.add(key, [encode(name, field, values[name]) for name, field in FIELDS.items()]))
            checksum = tar.finish()
        content = index_bytes(builder.build())
        (folder / index_name(path.name)).write_bytes(content)
        shards.append(
            Shard(
                name=path.name,
                samples=1,
                bytes=path.stat().st_size,
                checksum=checksum,
                index=index_name(path.name),
                index_bytes=len(content),
                index_checksum=CURRENT.of_file(content),
            )
        )
    manifest = Manifest(format="webdataset", fields=FIELDS, shards=tuple(shards))
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return folder
