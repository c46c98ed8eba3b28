"""The one way to open a set, wherever it lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from headrace.shards.formats.orientation import Orientation
from headrace.shards.remote.remote import RemoteFolder, is_remote
from headrace.shards.shard_set import ShardSet, open_folder


def open_shards(
    path: str | os.PathLike[str],
    *,
    check: bool = False,
    orientation: Orientation = "apply",
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
    block_bytes: int = 1 << 20,
    storage_options: Mapping[str, Any] | None = None,
) -> ShardSet:
    """Open a shard set: a folder with manifest.json, here or remote, or what another program wrote.

    Without a manifest, a folder of .tar or .beton files, or one such file, is scanned; its fields follow from
    the extensions or from the .beton's own description, and it has no checksums. A remote set needs its manifest.

    Args:
        path: The folder, or one .tar or .beton file, or a URL such as s3://bucket/set.
        check: Compare indexes, and every payload that `ShardSet.read` returns, with their checksums.
        orientation: apply: pictures are turned and mirrored as the set says, and where another program wrote it as
            their files say. ignore: all are shown as they are stored.
        cache_dir: Where blocks of remote shards are kept, for later runs too; None is $HEADRACE_CACHE or, without it,
            ~/.cache/headrace. Of processes that open a set at the same time each has its own cache there.
        cache_bytes: Bytes of blocks kept for this set by this process; None is $HEADRACE_CACHE_BYTES or, without it,
            16 GiB. Indexes come on top.
        block_bytes: Size of a block; neighbouring ones are fetched together.
        storage_options: Of `RemoteFolder`: fsspec's options for the protocol, and `retry`.

    Raises:
        ShardError: There is no set, it is damaged, or it has another version. Files of a wrong size are found
            here (in a remote set when they are read), changed bytes by `check` and by `headrace verify`.
            MachineError, one of these, where the system fails and nothing is known about the set.
    """
    if is_remote(path):
        from headrace.shards.remote.remote_set import open_remote  # what it needs may not be installed

        options = {
            "check": check,
            "orientation": orientation,
            "cache_dir": cache_dir,
            "cache_bytes": cache_bytes,
            "block_bytes": block_bytes,
        }
        return open_remote(RemoteFolder(str(path), **(storage_options or {})), options)
    return open_folder(path, check=check, orientation=orientation)
