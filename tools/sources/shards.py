"""Samples of an existing shard set: for another format, encoding, size or order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.shards import open_shards
from headrace.tools.errors import UserError
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.folder import legal_keys
from headrace.tools.sources.source import BadSample, SourceData


def read(src: Path | str, split: str | None) -> SourceData:
    """Every sample of the set at `src`, with its key. Where keys appear twice, as in tars of other programs that count
    anew in every file, the file's name is put before them. A key of another program that is none here, such as an
    absolute path, becomes what the source `folder` would make of such a path. Samples of another program that lack a
    file which most have come last, as bad ones.

    Args:
        src: A shard set, also by its URL, or tars or .beton files that another program wrote.
        split: None or "train"; a shard set has no splits.
    """
    if split not in (None, "train"):
        raise UserError(f"a shard set has no splits: leave --split {split} away")
    shards = open_shards(src)
    left_out = shards.omitted.samples
    keys = [*map(shards.key, range(len(shards))), *(left.key for left in left_out)]
    keys = [key.removeprefix("./") for key in keys]
    if len(set(keys)) < len(keys):
        names = [shard.name for shard in shards.manifest.shards for _ in range(shard.samples)]
        files = [Path(name).stem for name in (*names, *(left.shard for left in left_out))]
        keys = [f"{file}/{key}" for file, key in zip(files, keys, strict=True)]
    keys = legal_keys(keys)
    first = next(iter(shards.fields))

    def load(i: int) -> Mapping[str, Any]:
        if i >= len(shards):
            raise BadSample(left_out[i - len(shards)].reason)
        sample = shards.read(i)
        del sample["__key__"]
        return sample

    fingerprint = Fingerprint(shards.fields)
    fingerprint.content(shards.manifest.to_json())
    for shard in shards.manifest.shards:
        if not shard.checksum:  # another program's, which has no manifest
            path = Path(src)
            fingerprint.file(path if path.is_file() else path / shard.name)
    return SourceData(
        fields=shards.fields,
        total=len(keys),
        key=keys.__getitem__,
        origin=lambda i: shards.where(i, first) if i < len(shards) else left_out[i - len(shards)].where,
        left_out=shards.omitted.files,
        fingerprint=str(fingerprint),
        load=load,
        fork_safe=not shards.remote,
    )
