"""Features of a set, computed once for all protocols and kept on the disk, where they may be larger than the memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardSet
from headrace.shards.kept import ASIDE, trim
from headrace.shards.remote.remote_set import cache_folder
from headrace.tools.errors import UserError
from headrace.tools.feature_rows import fill_rows, make_rows
from headrace.train import RunError
from headrace.train.distributed import World
from headrace.train.encoders import Encoder
from headrace.train.probes import Features

VERSION = 2
"""Of the files, and of how features are computed."""
CAPACITY = 16 << 30
"""Bytes that are kept, those of least recent use go first."""
ROWS, BAD = "features.npy", "bad.json"
"""Features of every sample, and why by the number of each that has none."""


class FeatureCache:
    """Features by what they are computed from: the weights, what is shown, and the bytes of the set.

    A set without checksums of its own, as one of another program's tars, is computed anew each time.

    Args:
        world: of the ranks that share the work; they see one cache folder.
        kept: False keeps nothing for the next call: features lie in a temporary folder until `close`.
    """

    def __init__(self, world: World, *, kept: bool = True) -> None:
        self._world, self._kept = world, kept
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._places: dict[tuple[str, str], Path] = {}

    def close(self) -> None:
        """Remove what is not kept. Not before all ranks have what they want."""
        if self._temporary:
            self._temporary.cleanup()

    def compute(self, encoder: Encoder, shards: ShardSet) -> None:
        """See that there are features. All ranks call it, in the same order.

        Raises:
            RunError, NotFiniteError, ShardError: as `headrace.tools.feature_rows.fill_rows`.
            UserError: if they cannot be written.
        """
        named = encoder.digest, str(shards.path)
        if named in self._places:
            return
        mine = self._prepared(encoder, shards) if self._world.rank == 0 else ("", "")
        folder, aside = map(Path, self._world.each(mine)[0])
        if aside != folder:
            bad = fill_rows(encoder, shards, aside / ROWS, self._world)
            if self._world.rank == 0:
                (aside / BAD).write_text(json.dumps(bad), encoding="utf-8")
                with suppress(OSError):  # another process was faster
                    os.rename(aside, folder)
                shutil.rmtree(aside, ignore_errors=True)
        self._places[named] = folder

    def features(self, encoder: Encoder, shards: ShardSet) -> Features:
        """float32 (n, D), over the memory of a file where every sample has some, and int64 (n,) of the n samples that
        have a label, in stored order. Where `compute` was not called before, this rank computes alone.

        Raises:
            RunError: also where the set has no labels.
        """
        labels = _labels(shards)
        named = encoder.digest, str(shards.path)
        if named not in self._places:
            alone = FeatureCache(World(0, 1, self._world.device), kept=self._kept)
            alone._temporary, alone._places = self._temporary, self._places
            alone.compute(encoder, shards)
            self._temporary = alone._temporary
        folder = self._places[named]
        # Copied on writing: torch warns of memory that cannot be written.
        rows = np.load(folder / ROWS, mmap_mode="c")
        known = labels != NO_LABEL
        known[[int(number) for number in json.loads((folder / BAD).read_text(encoding="utf-8"))]] = False
        if not known.any():
            raise RunError(f"{shards.path}: no sample that has a label can be decoded")
        return (rows, labels) if known.all() else (rows[known], labels[known])

    def _prepared(self, encoder: Encoder, shards: ShardSet) -> tuple[str, str]:
        """The folder, and either it again, where it has what is wanted, or one aside with rows to fill."""
        folder = self._place(_key(encoder, shards))
        if (folder / BAD).exists():
            bad = json.loads((folder / BAD).read_text(encoding="utf-8"))
            if len(bad) <= (encoder.max_bad or 0):
                with suppress(OSError):
                    os.utime(folder)
                return str(folder), str(folder)
            shutil.rmtree(folder)  # computed by a run that puts up with more
        aside = folder.with_name(f"{folder.name}.{os.getpid()}{ASIDE}")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            make_rows(aside / ROWS, len(shards), encoder.feature_dim)
        except OSError as error:
            raise UserError(f"{aside}: features cannot be kept ({error.strerror or error})") from error
        return str(folder), str(aside)

    def _place(self, key: str | None) -> Path:
        if self._kept and key is not None:
            cache = cache_folder(None)
            root = cache.with_name(f"{cache.name}-features")
            with suppress(OSError):
                root.mkdir(parents=True, exist_ok=True)
                trim(root, CAPACITY, keep=key)
                return root / key
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="headrace-features-")
        return Path(self._temporary.name) / (key or f"set-{len(os.listdir(self._temporary.name))}")


def _labels(shards: ShardSet) -> np.ndarray:
    if "label" not in shards.fields:
        raise RunError(f"{shards.path}: has no label field, which probes need{shards.omitted.hint}")
    labels = np.asarray(shards.ints("label"))
    if not (labels != NO_LABEL).any():
        raise RunError(f"{shards.path}: every label is {NO_LABEL}, which stands for none, and probes need some")
    return labels


def _key(encoder: Encoder, shards: ShardSet) -> str | None:
    """None where the bytes of the set, or what is shown of them, are not known."""
    if not all(shard.checksum for shard in shards.manifest.shards):
        return None
    if " at 0x" in repr(encoder.inputs):  # something of the user's own, which says nothing of what it does
        return None
    digest = hashlib.sha256()
    for text in (VERSION, torch.__version__, encoder.digest, shards.orientation, shards.manifest.to_json()):
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()[:32]
