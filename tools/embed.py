"""Features of every sample of a set, in one file, in stored order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardSet, open_shards
from headrace.shards.remote.remote import redact
from headrace.tools.errors import UserError
from headrace.tools.feature_rows import fill_rows, make_rows
from headrace.tools.placing import placed
from headrace.tools.progress import say
from headrace.train import RunError
from headrace.train.distributed import join
from headrace.train.encoders import Encoder

TIMEOUT_S = 24 * 3600.0
"""That ranks wait for the slowest."""
CHUNK_BYTES = 1 << 26
"""Of features that are held in memory at a time when they are written; also of a row group of Parquet."""
ENDINGS = (".npy", ".parquet")


class Embedded(NamedTuple):
    """What was written."""

    out: Path
    samples: int
    """Rows of the file."""
    features: int
    """D."""
    left_out: dict[str, str]
    """Why, by the key of each bad sample."""


def embed(
    encoder: Encoder,
    data: str | os.PathLike[str],
    out: Path,
    *,
    batch_size: int = 256,
    threads: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Embedded:
    """Write the features of every sample of a set, those without a label too, in stored order, as float32.

    X.npy holds the features (n, D), X.keys.npy the keys, strings (n,), and X.labels.npy the labels, int64 (n,), -1
    where there is none. X.parquet has the columns key (string), label (int64, null where there is none) and feature
    (fixed-size list of D float32), and who made them under "headrace" in the metadata of its schema.

    A rank of torchrun computes whole batches, which are those that one process computes. They share the folder of
    `out`, and a file of n D float32 numbers in it while they work; the memory that is taken does not grow with n.

    Args:
        encoder: it is moved to the device.
        data: a shard set.
        out: a file, by its ending .npy or .parquet.
        batch_size: of each rank; on a CPU features may differ in their last bits with it.
        threads: of each rank, that decode; None takes all cores.
        device: "cpu", "cuda" or "auto" for CUDA where there is some.
        overwrite: whether what is there may be replaced.

    Raises:
        UserError: if `out` is there, or ends otherwise.
        RunError: if the set lacks what is shown, or ranks do not see one folder.
        NotFiniteError: if a feature is not finite.
        ShardError: for a bad sample, unless the encoder's run puts up with as many (`loader.on_error`, `max_bad`);
            these are named and left out.
        ImportError: if pyarrow is missing, for Parquet.
    """
    if out.suffix not in ENDINGS:
        raise UserError(f"{out}: the name of a file of features ends in one of {', '.join(ENDINGS)}")
    if out.suffix == ".parquet":
        _pyarrow()
    with ExitStack() as stack:
        world = stack.enter_context(join(device, TIMEOUT_S))
        shards = stack.enter_context(open_shards(data))
        shape = len(shards), encoder.feature_dim
        new, trouble = out, ""
        if world.rank == 0:
            also = [out.with_suffix(f".{name}.npy") for name in ("keys", "labels")] if out.suffix == ".npy" else []
            try:
                new = stack.enter_context(placed(out, overwrite, also))
                make_rows(_work(new), *shape)
            except (UserError, OSError) as error:
                if world.size == 1:
                    raise
                trouble = str(error)
        new, trouble = world.each((new, trouble))[0]
        if trouble:
            raise UserError(trouble)
        left_out = fill_rows(
            encoder.to(world.device), shards, _work(new), world, batch_size=batch_size, threads=threads
        )
        if world.rank == 0:
            kept = np.setdiff1d(np.arange(len(shards)), np.array(sorted(left_out), np.int64))
            if not len(kept):
                raise RunError(f"{shards.path}: no sample of it can be decoded")
            write = _write_parquet if out.suffix == ".parquet" else _write_npy
            write(encoder, shards, kept, new)
        named = {shards.key(i): why for i, why in sorted(left_out.items())}
    return Embedded(out, shape[0] - len(left_out), shape[1], named)


def _work(new: Path) -> Path:
    """The file of all samples' features, the bad ones' too."""
    return new.with_name("features.work")


def _write_npy(encoder: Encoder, shards: ShardSet, kept: np.ndarray, new: Path) -> None:
    """X.npy, X.keys.npy and X.labels.npy."""
    longest = max(len(shards.key(int(i))) for i in kept)
    keys = np.lib.format.open_memmap(
        new.with_suffix(".keys.npy"), mode="w+", dtype=f"<U{max(1, longest)}", shape=(len(kept),)
    )
    for row, i in enumerate(kept):
        keys[row] = shards.key(int(i))
    keys.flush()
    np.save(new.with_suffix(".labels.npy"), _labels(shards)[kept])
    if len(kept) == len(shards):
        os.rename(_work(new), new)
        return
    features = np.load(_work(new), mmap_mode="r")
    whole = np.lib.format.open_memmap(new, mode="w+", dtype=np.float32, shape=(len(kept), features.shape[1]))
    for rows in _chunks(len(kept), features.shape[1]):
        whole[rows] = features[kept[rows]]
    whole.flush()
    _work(new).unlink()


def _write_parquet(encoder: Encoder, shards: ShardSet, kept: np.ndarray, new: Path) -> None:
    """A row group for each chunk."""
    arrow, parquet = _pyarrow()
    features, labels = np.load(_work(new), mmap_mode="r"), _labels(shards)
    width = features.shape[1]
    columns = [("key", arrow.string()), ("label", arrow.int64()), ("feature", arrow.list_(arrow.float32(), width))]
    said = {"network": encoder.name, "digest": encoder.digest, "data": redact(str(shards.path))}
    schema = arrow.schema(columns, metadata={"headrace": json.dumps(said)})
    with parquet.ParquetWriter(new, schema) as file:
        for rows in _chunks(len(kept), width):
            some = kept[rows]
            # A key that is no UTF-8 shows its bytes.
            keys = [shards.key(int(i)).encode(errors="surrogateescape").decode(errors="backslashreplace") for i in some]
            values = arrow.array(np.ascontiguousarray(features[some]).reshape(-1))
            lists = arrow.FixedSizeListArray.from_arrays(values, width)
            none = labels[some] == NO_LABEL
            file.write_table(arrow.table([arrow.array(keys), arrow.array(labels[some], mask=none), lists], schema))
    _work(new).unlink()


def _labels(shards: ShardSet) -> np.ndarray:
    """int64 (n,) of all samples."""
    if "label" not in shards.fields:
        return np.full(len(shards), NO_LABEL, np.int64)
    return np.asarray(shards.ints("label"))


def _chunks(samples: int, width: int) -> Iterator[slice]:
    step = max(1, CHUNK_BYTES // (4 * width))
    for begin in range(0, samples, step):
        yield slice(begin, min(begin + step, samples))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"Parquet needs the package pyarrow: pip install headrace[parquet] ({error})") from error
    return pyarrow, pyarrow.parquet


def tell_left_out(done: Embedded) -> None:
    """A line for each bad sample."""
    for key, why in done.left_out.items():
        say(f"left out: {key}: {why}")
