"""Features of a set, computed once for all protocols and kept on the disk, where they may be larger than the memory."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from headrace.models import Method
from headrace.pipeline import TextSpec
from headrace.pipeline.streams import spec_of, streams_of
from headrace.shards import ShardSet
from headrace.shards.remote.remote_set import cache_folder
from headrace.tools.errors import UserError
from headrace.tools.progress import sample_bar
from headrace.train.probes import Features
from headrace.train.probes.features import labelled_batches

VERSION = 1
"""Of the files, and of how features are computed."""
CAPACITY = 16 << 30
"""Bytes that are kept, those of least recent use go first."""


class FeatureCache:
    """Features by what they were computed from: the weights, what is shown, and the bytes of the set.

    A set without checksums of its own, as one of another program's tars, is computed anew each time.

    Args:
        kept: False keeps nothing for the next call: features lie in a temporary folder until `close`.
    """

    def __init__(self, *, kept: bool = True, device: str, max_bad: int | None) -> None:
        self._device, self._max_bad = device, max_bad
        root = cache_folder(None)
        self._root = root.with_name(f"{root.name}-features") if kept else None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Remove what is not kept."""
        if self._temporary:
            self._temporary.cleanup()

    def features(self, method: Method, shards: ShardSet) -> Features:
        """What `headrace.train.probes.extract_features` gives of `method.encode`, float32 (n, D) over the memory of a
        file."""
        key = _key(method, shards, self._max_bad)
        folder = self._place(key)
        if not (folder / "labels.npy").exists():
            _compute(method, shards, folder, self._device, self._max_bad)
        with suppress(OSError):
            os.utime(folder)
        # Copied on writing: torch warns of memory that cannot be written.
        return np.load(folder / "features.npy", mmap_mode="c"), np.load(folder / "labels.npy")

    def _place(self, key: str | None) -> Path:
        if self._root is not None and key is not None:
            with suppress(OSError):
                self._root.mkdir(parents=True, exist_ok=True)
                _trim(self._root, CAPACITY, keep=key)
                return self._root / key
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="headrace-features-")
        return Path(self._temporary.name) / (key or f"set-{len(os.listdir(self._temporary.name))}")


def _key(method: Method, shards: ShardSet, max_bad: int | None) -> str | None:
    """None where the bytes of the set, or what is shown of them, are not known."""
    if not all(shard.checksum for shard in shards.manifest.shards):
        return None
    digest = hashlib.sha256()
    shown = repr(method.probe_inputs)
    if " at 0x" in shown:  # something of the user's own, which says nothing of what it does
        return None
    for text in (VERSION, torch.__version__, type(method).__qualname__, shown, shards.orientation, max_bad):
        digest.update(f"{text}\n".encode())
    digest.update(shards.manifest.to_json().encode())
    for spec in map(spec_of, streams_of(method.probe_inputs).values()):
        if isinstance(spec, TextSpec):
            digest.update(Path(spec.tokenizer).read_bytes())
    for name, tensor in method.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _compute(method: Method, shards: ShardSet, folder: Path, device: str, max_bad: int | None) -> None:
    """Write features.npy and labels.npy into a folder that is there when both are whole."""
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True)
        labels, done = [], 0
        with _rows(aside / "features.npy") as rows, sample_bar("features", len(shards)) as progress:
            for features, of_batch, _ in labelled_batches(
                method.encode, shards, method.probe_inputs, device=device, max_bad=max_bad
            ):
                rows.add(features)
                labels.append(of_batch)
                done += len(features)
                progress(done)
        np.save(aside / "labels.npy", np.concatenate(labels))
        if folder.exists():  # another process was faster
            return
        with suppress(FileExistsError):
            os.rename(aside, folder)
    except OSError as error:
        raise UserError(f"{folder}: features cannot be kept ({error.strerror or error})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class _Rows:
    """A .npy file of float32 rows whose number is known in the end."""

    HEADER = 128

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._count, self._width = file, 0, 0
        file.write(b"\0" * self.HEADER)

    def add(self, rows: np.ndarray) -> None:
        """Append (b, D)."""
        self._count, self._width = self._count + len(rows), rows.shape[1]
        self._file.write(np.ascontiguousarray(rows, np.float32).data)

    def finish(self) -> None:
        """Write the header (format 1.0 of numpy.lib.format, padded to `HEADER` bytes)."""
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self._count}, {self._width}), }}"
        start = b"\x93NUMPY\x01\x00" + (self.HEADER - 10).to_bytes(2, "little")
        self._file.seek(0)
        self._file.write(start + text.encode().ljust(self.HEADER - 11) + b"\n")


@contextmanager
def _rows(path: Path) -> Iterator[_Rows]:
    with open(path, "wb") as file:
        rows = _Rows(file)
        yield rows
        rows.finish()


def _trim(root: Path, capacity: int, *, keep: str) -> None:
    """Remove whole entries, those of least recent use first, until the rest fits."""
    entries = []
    for entry in root.iterdir():
        if not entry.name.endswith(".tmp"):
            sizes = [file.stat().st_size for file in entry.iterdir()]
            entries.append((entry.stat().st_mtime, sum(sizes), entry))
    held = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if held <= capacity:
            break
        if entry.name != keep:
            shutil.rmtree(entry, ignore_errors=True)
            held -= size
