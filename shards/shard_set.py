"""Reading a shard set."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards.errors import ClosedError, ShardError
from headrace.shards.fields import UNREADABLE, Field, as_stored
from headrace.shards.formats import ffcv, webdataset
from headrace.shards.formats.foreign import how_to_name, scan_shards
from headrace.shards.formats.foreign_choice import Omitted
from headrace.shards.formats.images import picture_header
from headrace.shards.formats.orientation import UPRIGHT, Orientation
from headrace.shards.index import (
    IndexReader,
    OpenShard,
    all_upright,
    entry_places,
    misplaced,
    misshaped,
    orientations,
    unturnable,
)
from headrace.shards.manifest import MANIFEST_NAME, Manifest, Shard, read_manifest
from headrace.shards.mapping import MappedFile, cannot_read, leased
from headrace.shards.opened import FEW, FewShards, ManyShards, OpenShards
from headrace.shards.remote.remote import RemoteFolder, redact
from headrace.shards.writing.staging import displaced_name


class Spans(NamedTuple):
    """Where the payloads of n samples lie in memory."""

    address: npt.NDArray[np.int64]
    """(n,): pointer to the first byte, for raw images the first pixel; valid while this array lives or one made from it
    by slicing or copying, even where the set is closed meanwhile."""
    size: npt.NDArray[np.int64]
    """(n,): bytes."""
    height: npt.NDArray[np.int32]
    """(n,): pixels; 0 where the field is no image."""
    width: npt.NDArray[np.int32]
    """(n,): likewise."""
    encoding: npt.NDArray[np.uint8]
    """(n,): 0 jpg, 1 raw, 2 png; 0 where the field is no image. In sets that other programs wrote also 3, another
    picture that Pillow decodes. In what `ShardSet.request` and `places` give also 255, whatever the field, where a
    sample cannot be read: an image's height and width are 1 then."""
    orientation: npt.NDArray[np.uint8]
    """(n,): how the picture is to be shown, 1 to 8, see `headrace.shards.formats.orientation`; 1 in most sets."""

    def shown_sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of the pictures as they are shown, (n, 2); `height` and `width` are as they are stored."""
        sizes = np.stack([self.height, self.width], axis=1)
        exchanged = self.orientation > 4
        if exchanged.any():
            sizes[exchanged] = sizes[exchanged, ::-1]
        return sizes


class ChecksumError(ShardError):
    """Bytes differ from their checksum."""


def here() -> None:
    """What to wait for where bytes are on this machine."""


class ShardSet:
    """Random access to the samples of a set, numbered from 0. Made by `open_shards`.

    Thread-safe. Pickles as its path: the other process opens the set again. Shards are memory-mapped, so
    memory is the page cache, shared by all processes of a machine. A map goes when the set is closed and the last
    reader of what lies in it is gone.
    """

    def __init__(
        self,
        path: Path | RemoteFolder,
        manifest: Manifest,
        shards: Sequence[OpenShard] | OpenShards,
        *,
        check: bool = False,
        orientation: Orientation = "apply",
        omitted: Omitted | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.fields: Mapping[str, Field] = manifest.fields
        if orientation == "ignore":
            self.fields = {name: as_stored(field) for name, field in manifest.fields.items()}
        self.check = check
        self.orientation: Orientation = orientation
        self.omitted = omitted or Omitted()
        """What another program's files hold and the set does not."""
        self._files: OpenShards | None = shards if isinstance(shards, OpenShards) else FewShards(shards)
        self._starts = np.concatenate([[0], np.cumsum(self._files.samples)])
        self._places = {name: entry_places(manifest.fields, manifest.checksums, name) for name in manifest.fields}
        self._checksum = manifest.checksums.of_payload
        self._columns: dict[str, Spans] = {}
        self._unreadable: dict[str, npt.NDArray[np.int64]] = {}
        """Of the fields in `_columns`."""
        self._ints: dict[str, npt.NDArray[np.int64]] = {}
        self._lock = threading.Lock()
        self._decode = webdataset.decode if manifest.format == "webdataset" else ffcv.decode
        _OPEN.add(self)

    remote = False
    """Whether the shards lie on a store, from which they are fetched by blocks."""
    cache_bytes = block_bytes = 0
    """Of a remote set: room for blocks on this machine, and the size of one."""

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shard_samples(self) -> npt.NDArray[np.int64]:
        """Samples of each shard, (number of shards,), in the order in which samples are numbered."""
        return np.diff(self._starts)

    def __repr__(self) -> str:
        return f"ShardSet({str(self.path)!r}, {len(self)} samples, {', '.join(self.fields)})"

    def read(self, i: int, fields: Iterable[str] | None = None) -> dict[str, Any]:
        """One sample: its key under "__key__" and the value of every field, or of some.

        Images are bytes (jpg, png) or uint8 (H, W, 3); everything is a copy. Where pictures are to be turned, which
        `Field.oriented` says, they come as they are stored, and "__orientation__" has the number of each such field,
        1 to 8, by its name; see `headrace.shards.formats.orientation`. IndexError outside of the set; ShardError where
        a value does not decode or, in a set opened with `check=True`, differs from its checksum; MachineError where it
        cannot be read.
        """
        files, number, row = self._locate(i)
        index = files.index(number)
        record = index[row].item()
        content, shard_bytes = files.mapped(number), int(files.sizes[number])
        sample: dict[str, Any] = {"__key__": record[-1].decode(errors="surrogateescape")}
        for name in self.fields if fields is None else fields:
            field = self._field(name)
            offset, size, checksum, *image = (record[place] for place in self._places[name])
            outside = misplaced(shard_bytes, offset, size)
            payload = content.read(offset, offset + size) if not outside else np.empty(0, np.uint8)
            if image[2:] == [UNREADABLE] and not outside:  # of another program's tar
                raise ShardError(f"{self.where(i, name)}: {name} is no image that can be read ({why_not(payload)})")
            if outside or (image and misshaped(size, *image)):
                lies = "lies outside of the shard or has an impossible size; verify the set"
                raise ShardError(f"{self.where(i, name)}: {name} {lies}")
            if self.check and self._checksum(payload.data) != checksum:
                raise ChecksumError(f"{self.where(i, name)}: {name} differs from its checksum; copy the shard again")
            try:
                sample[name] = self._decode(field, payload, *image)
            except (ValueError, TypeError, SyntaxError, RecursionError) as error:
                raise ShardError(f"{self.where(i, name)}: {name} does not decode ({error})") from error
            if field.oriented:
                orientation = int(orientations(index, name)[row])
                if unturnable(orientation):
                    raise ShardError(f"{self.where(i, name)}: {name} has the orientation {orientation}; verify the set")
                sample.setdefault("__orientation__", {})[name] = orientation
            if row in files.unreadable(number, name):
                such = f"others are names, such as {field.classes[0]!r}"
                raise ShardError(f"{self.where(i, name)}: {name} is the number {sample[name]}, and {such}")
        return sample

    def decode(self, field: str, payload: npt.NDArray[np.uint8]) -> Any:
        """What the payload of a field that is no image stands for, as `read` gives it; ValueError where it does not
        decode, RecursionError for JSON that is nested too deeply."""
        return self._decode(self._field(field), payload)

    def key(self, i: int) -> str:
        """The key of one sample."""
        files, number, row = self._locate(i)
        return files.index(number)[row]["key"].decode(errors="surrogateescape")

    def spans(self, field: str, ids: npt.ArrayLike) -> Spans:
        """Where one field of the samples `ids`, int64 (n,), lies in memory; no copy, no loop over samples.

        Every address has been checked to lie, with its size, inside the mapped file. Of a remote set the bytes are
        fetched first.

        Raises:
            IndexError: Outside of the set.
            ShardError: A sample cannot be read, as its index tells; or a remote set's bytes cannot be fetched, or do
                not fit into its cache at once.
        """
        spans, wait = self.request(field, ids)
        wait()
        self.refuse_unreadable(field, ids, spans)
        return spans

    def request(self, field: str, ids: npt.ArrayLike) -> tuple[Spans, Callable[[], None]]:
        """`spans` without waiting: to be called, from any thread, before the bytes are read is what comes second.
        Samples that cannot be read are marked, see `Spans.encoding`."""
        files = self._open_files()
        number, places = self._find(field, ids)
        first, lease = files.hold(number)
        return places._replace(address=leased(first + places.address, lease)), here

    def places(self, field: str, ids: npt.ArrayLike) -> Spans:
        """`spans` for their sizes and shapes: nothing is mapped or fetched, and what stands for addresses are offsets
        in the shards. Samples that cannot be read are marked."""
        return self._find(field, ids)[1]

    def ints(self, field: str = "label") -> npt.NDArray[np.int64]:
        """All values of an int field, (number of samples,), read-only."""
        if self._field(field).kind != "int":
            raise ShardError(f"{self.path}: {field} is of kind {self.fields[field].kind}, not int")
        with self._lock:
            if field not in self._ints:
                files = self._open_files()
                values = np.empty(len(self), np.int64)
                for number, (start, stop) in enumerate(pairwise(self._starts.tolist())):
                    values[start:stop] = files.passing(number)[f"{field}.value"]
                values.flags.writeable = False
                self._ints[field] = values
            return self._ints[field]

    def unreadable(self, field: str) -> npt.NDArray[np.int64]:
        """The samples, in ascending order, of which the index tells that the field cannot be read. Others may still not
        decode."""
        if self._field(field).kind != "int":
            self._load_columns(field)
            return self._unreadable[field]
        files = self._open_files()
        starts = enumerate(self._starts[:-1].tolist())
        return np.array(sorted(start + row for n, start in starts for row in files.unreadable(n, field)), np.int64)

    def refuse_unreadable(self, field: str, ids: npt.ArrayLike, spans: Spans) -> None:
        """ShardError for the first of some samples that cannot be read, with its reason; to be called before the bytes
        at `spans`, which `request` gave, are read."""
        if not len(self._unreadable.get(field, ())):
            return
        bad = spans.encoding == UNREADABLE
        if bad.any():
            i = int(np.asarray(ids)[bad][0])
            self.read(i, [field])  # which says what is wrong with it
            raise ShardError(f"{self.where(i, field)}: {field} cannot be read; verify the set")

    def where(self, i: int, field: str) -> str:
        """Where a field of a sample is stored, for error messages: shard, offset and key."""
        path, within = self._where(i, field)
        return f"{os.path.basename(path)}{within}"

    def _where(self, i: int, field: str) -> tuple[str, str]:
        files, number, row = self._locate(i)
        self._field(field)
        record = files.index(number)[row]
        key = record["key"].decode(errors="backslashreplace")
        return files.path(number), f", offset {record[f'{field}.offset']}, key {key}"

    def close(self) -> None:
        """Let go of the shards. Their memory goes when nobody reads it any more; see `Spans.address`."""
        with self._lock:
            self._files = None
            self._columns.clear()
            self._ints.clear()

    def __enter__(self) -> ShardSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (str(self.path), self.check, self.orientation)

    def _open_files(self) -> OpenShards:
        files = self._files
        if files is None:
            raise ClosedError(f"{self.path}: the set is closed")
        return files

    def _field(self, name: str) -> Field:
        if name not in self.fields:
            raise ShardError(f"{self.path}: there is no field {name!r}, the set has {', '.join(self.fields)}")
        return self.fields[name]

    def _locate(self, i: int) -> tuple[OpenShards, int, int]:
        """The files, and number and row of a sample: in which shard, and where in its index."""
        files = self._open_files()
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        number = int(np.searchsorted(self._starts, i, side="right")) - 1
        return files, number, int(i - self._starts[number])

    def _find(self, field: str, ids: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], Spans]:
        """Which shards some samples are in, int64 (n,), and their places in these; see `places`."""
        columns = self._columns.get(field) or self._load_columns(field)
        rows = np.asarray(ids, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"sample ids must lie in [0, {len(self)})")
        number = np.searchsorted(self._starts, rows, side="right") - 1
        return number, Spans._make(column[rows] for column in columns)

    def _load_columns(self, name: str) -> Spans:
        """`places` of a field in the whole set: about 25 bytes a sample, one more where pictures may be turned; built
        and checked once."""
        field = self._field(name)
        with self._lock:
            files = self._open_files()
            if name not in self._columns:
                wanted = ["offset", "size", *(("height", "width", "encoding") if field.kind == "image" else ())]
                count = len(self)
                columns = Spans(
                    address=np.empty(count, np.int64),
                    size=np.empty(count, np.int64),
                    height=np.zeros(count, np.int32),
                    width=np.zeros(count, np.int32),
                    encoding=np.zeros(count, np.uint8),
                    orientation=np.empty(count, np.uint8) if field.oriented else all_upright(count),
                )
                arrays: tuple[npt.NDArray[Any], ...] = columns
                for number, (start, stop) in enumerate(pairwise(self._starts.tolist())):
                    index = files.passing(number)
                    for column, values in zip(wanted, arrays, strict=False):
                        values[start:stop] = index[f"{name}.{column}"]
                    if field.oriented:
                        columns.orientation[start:stop] = orientations(index, name)
                self._unreadable[name] = self._mark_unreadable(files, field, columns)
                self._columns[name] = columns
            return self._columns[name]

    @staticmethod
    def _mark_unreadable(files: OpenShards, field: Field, columns: Spans) -> npt.NDArray[np.int64]:
        """Marks the samples whose field is misplaced or misshaped, and gives them a place and a shape that do no harm.
        Returns their numbers."""
        sizes: Any = files.sizes.repeat(files.samples)
        outside = misplaced(sizes, columns.address, columns.size)
        bad = outside
        if field.kind == "image":
            height, width = columns.height.astype(np.int64), columns.width.astype(np.int64)
            bad = bad | misshaped(columns.size, height, width, columns.encoding)
            if field.oriented:
                bad = bad | unturnable(columns.orientation)
                columns.orientation[bad] = UPRIGHT
            columns.height[bad] = columns.width[bad] = 1
        columns.address[outside] = columns.size[outside] = 0
        columns.encoding[bad] = UNREADABLE
        return np.flatnonzero(bad)


_OPEN: weakref.WeakSet[ShardSet] = weakref.WeakSet()


def _unlock() -> None:
    """In a forked process: nobody is there who would give back the locks that threads held."""
    for shards in _OPEN:
        shards._lock = threading.Lock()
        if shards._files is not None:
            shards._files.unlock()


os.register_at_fork(after_in_child=_unlock)


def open_folder(path: str | os.PathLike[str], *, check: bool = False, orientation: Orientation = "apply") -> ShardSet:
    """`headrace.shards.open_shards` for what lies on this machine."""
    folder = Path(path)
    if not _exists(folder):
        hint = how_to_name(os.fspath(path))
        if re.match(r"[a-z0-9+.-]{2,}:/[^/]", str(folder)):
            hint = "; pass a URL as text, because pathlib takes one of its slashes away"
        if displaced_name(folder).exists():
            hint = f"; the old set is at {displaced_name(folder)}, its replacement was killed: rename it back"
        raise ShardError(f"{redact(str(folder))}: there is no such file or folder{hint}")
    if folder.is_file() or not _exists(folder / MANIFEST_NAME):
        if check:
            raise ShardError(f"{folder}: has no manifest, so there are no checksums to check")
        manifest, shards, omitted = scan_shards(folder)
        return ShardSet(folder, manifest, shards, orientation=orientation, omitted=omitted)
    manifest = read_manifest(folder)
    files = open_files(folder, manifest, check=check)
    return ShardSet(folder, manifest, files, check=check, orientation=orientation)


def why_not(payload: npt.NDArray[np.uint8]) -> str:
    """What is wrong with the bytes of an image of which no index could say the size."""
    try:
        picture_header(payload.data)
    except ValueError as error:
        return str(error)
    return "its size in the index is impossible; verify the set"


def open_files(folder: Path, manifest: Manifest, *, check: bool = False, changing: bool = False) -> OpenShards:
    """The shards of a folder: mapped, if they are few, else when they are read.

    Args:
        folder: Where they lie.
        manifest: What should lie there.
        check: Whether indexes must have their checksums.
        changing: Whether files may be written to, as those of a cache are.

    Raises:
        ShardError: A file is missing, or has not the size or the checksum that it should have.
    """
    if len(manifest.shards) > FEW:
        return ManyShards(folder, manifest, check=check, changing=changing)
    reader = IndexReader(folder, manifest)
    return FewShards([open_shard(folder, manifest, shard, check=check, reader=reader) for shard in manifest.shards])


def open_shard(
    folder: Path, manifest: Manifest, shard: Shard, *, check: bool = False, reader: IndexReader | None = None
) -> OpenShard:
    """Map one shard and its index; ShardError where either is missing or has not the size that it should have, with
    `check` also where the index differs from its checksum. `reader` is of the set, for many shards of it."""
    mapped = MappedFile(folder / shard.name)
    if mapped.size != shard.bytes:
        sizes = f"{mapped.size} bytes, the manifest says {shard.bytes}"
        raise ShardError(f"{mapped.path}: {sizes}; copy the shard again")
    index_map, index = (reader or IndexReader(folder, manifest)).map(shard, check=check)
    return OpenShard(mapped, index, index_map)


def _exists(path: Path) -> bool:
    """Whether there is a file or folder; MachineError where the system cannot say."""
    try:
        return path.exists()
    except OSError as error:
        raise cannot_read(path, error) from error


def _reopened(path: str, check: bool, orientation: Orientation) -> ShardSet:
    return open_folder(path, check=check, orientation=orientation)
