"""Files of many documents at random access: JSON lines as they lie there, Parquet through a copy that can be entered
anywhere."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from headrace.shards.mapping import MappedFile
from headrace.tools.errors import UserError
from headrace.tools.progress import say
from headrace.tools.sources.archives import ArchiveFile, check_size
from headrace.tools.sources.listing import SpecialFile, findable, open_file, printable, raise_cause, unreadable
from headrace.tools.sources.source import BadSample

MAX_DOCUMENT = 256 << 20
"""Bytes of a document, or of the line that it stands in."""
CHUNK = 8 << 20
"""Bytes that are looked through together for the ends of lines."""
BLANK = 64
"""Bytes of a line that may be nothing but blanks; a longer one is bad JSON."""
ROWS = 1024
"""Of Parquet, that are read together."""
LARGE = 64 << 20
"""Bytes of a Parquet file of which it is said that it is read."""
BOM = b"\xef\xbb\xbf"


class Records(Protocol):
    """The documents of a file. Threads read at once, and so do processes that were forked."""

    def __len__(self) -> int: ...

    def number(self, i: int) -> int:
        """What document `i` is called in its file: its line from 1, its row from 0."""

    def place(self, i: int) -> str:
        """The same for a person, behind the file's name."""

    def read(self, i: int) -> dict[str, Any]:
        """Its values; BadSample where it has none, OSError where the file cannot be read."""

    def classes(self, field: str) -> tuple[str, ...]:
        """Names of the values 0, 1, ... of a field, where the file has some."""


def decoded(content: bytes, at: int = 0) -> str:
    """Text of UTF-8, without a byte order mark; BadSample with the place of what is none, counted from `at`."""
    if content.startswith(BOM):
        content, at = content[len(BOM) :], at + len(BOM)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise BadSample(
            f"offset {at + error.start}: not UTF-8 (byte 0x{content[error.start]:02x}, {error.reason})"
        ) from None
    if (zero := text.find("\0")) >= 0:
        place = at + len(text[:zero].encode())
        raise BadSample(f"offset {place}: a byte of zero, as UTF-16 has, and no text in UTF-8")
    return text


class JsonLines:
    """A file with a JSON object a line; blank lines are none. 16 bytes of memory a line.

    UserError or MachineError where it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        file = ArchiveFile(self._path)
        try:
            begins, sizes = _lines(file)
            kept = np.ones(len(begins), np.bool_)
            for line in np.flatnonzero(sizes <= BLANK).tolist():
                kept[line] = bool(file.read(int(begins[line]), int(sizes[line])).strip())
        except OSError as error:
            raise unreadable(path, error) from error
        except BadSample as error:  # it was cut meanwhile
            raise UserError(str(error)) from error
        self._numbers = None if kept.all() else np.flatnonzero(kept) + 1
        self._begins, self._sizes = begins[kept], sizes[kept]

    def __len__(self) -> int:
        return len(self._begins)

    def number(self, i: int) -> int:
        return i + 1 if self._numbers is None else int(self._numbers[i])

    def place(self, i: int) -> str:
        return f"line {self.number(i)}, offset {self._begins[i]}"

    def classes(self, field: str) -> tuple[str, ...]:
        return ()

    def read(self, i: int) -> dict[str, Any]:
        begin, size = int(self._begins[i]), int(self._sizes[i])
        check_size(size, MAX_DOCUMENT)
        text = decoded(self._bytes(begin, size), begin)
        try:
            value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            at = begin + len(text[: error.pos].encode())
            raise BadSample(f"offset {at}: bad JSON ({error.msg})") from None
        except (ValueError, RecursionError) as error:
            raise BadSample(f"bad JSON ({error})") from None
        if not isinstance(value, dict):
            raise BadSample(f"expected a JSON object, found {type(value).__name__}")
        return value

    def _bytes(self, begin: int, size: int) -> bytes:
        """Of the file, which is opened each time: a set may have more files than a process may hold open."""
        try:
            with open_file(self._path) as file:
                file.seek(begin)
                content = file.read(size)
        except SpecialFile as error:
            raise BadSample(str(error)) from None
        if len(content) < size:
            raise BadSample(f"offset {begin}: the file ends {size - len(content)} bytes too early")
        return content


def _lines(file: ArchiveFile) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each line begins, and its bytes without the end of the line."""
    parts = [np.zeros(0, np.int64)]
    for at in range(0, file.size, CHUNK):
        content = np.frombuffer(file.read(at, min(CHUNK, file.size - at)), np.uint8)
        parts.append(np.flatnonzero(content == ord("\n")) + at)
    ends = np.concatenate(parts)
    if file.size and (not len(ends) or ends[-1] < file.size - 1):
        ends = np.append(ends, file.size)
    begins = np.concatenate([np.zeros(1, np.int64), ends + 1])[: len(ends)]
    return begins, ends - begins


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return found


class Parquet:
    """A Parquet file. Its rows lie compressed in groups, so that it is read once from begin to end and written without
    compression into a temporary file that is gone with the process, at whose rows threads may look in any order.

    Columns that JSON cannot hold are left out, see `omitted`. NaN, which programs write for what is missing, is None.

    Raises:
        UserError: it is damaged, there is no room for the copy, or pyarrow is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise UserError(
                f"{findable(path)}: Parquet needs pyarrow: pip install 'headrace[parquet]' ({error})"
            ) from error
        ArchiveFile(Path(path))  # which says what is no file
        try:
            file = pq.ParquetFile(path)
            schema = file.schema_arrow
            self._said = schema.metadata or {}
            kept = [field.name for field in schema if _fits(pa, field.type)]
            self.omitted = [f"{field.name} ({field.type})" for field in schema if field.name not in kept]
            """Columns, with their types."""
            if os.path.getsize(path) > LARGE:
                say(f"{findable(path)}: reading it once into a temporary file")
            self._mapped = _copy(pa, file, kept)
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise unreadable(error.filename or path, error) from error
            raise_cause(path, error)
            raise UserError(f"{findable(path)}: a damaged Parquet file ({' '.join(str(error).split())})") from error
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._mapped)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def number(self, i: int) -> int:
        return i

    def place(self, i: int) -> str:
        return f"row {i}"

    def classes(self, field: str) -> tuple[str, ...]:
        """As Hugging Face's `datasets` writes them."""
        try:
            features = json.loads(self._said.get(b"huggingface", b"{}"))["info"]["features"]
            names = features[field]["names"]
        except (ValueError, KeyError, TypeError):
            return ()
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()

    def read(self, i: int) -> dict[str, Any]:
        part = int(np.searchsorted(self._starts, i, side="right")) - 1
        batch = self._mapped[part]
        row = int(i - self._starts[part])
        return {name: _plain(name, column[row].as_py()) for name, column in zip(batch.schema.names, batch, strict=True)}


def _fits(pa: Any, kind: Any) -> bool:
    """Whether JSON can hold a column of this type."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return _fits(pa, kind.value_type)
    if types.is_dictionary(kind):
        return _fits(pa, kind.value_type)
    plain = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    return any(fits(kind) for fits in plain)


def _copy(pa: Any, file: Any, columns: list[str]) -> list[Any]:
    """The record batches of some columns of a Parquet file, in memory that is mapped from a file without a name."""
    with tempfile.NamedTemporaryFile(prefix="headrace-parquet-") as copy:
        writer = None
        for batch in file.iter_batches(ROWS, columns=columns, use_threads=False):
            # Strings as bytes, since nobody has looked whether they are UTF-8.
            arrays = [column.cast(_as_bytes(pa, column.type)) for column in batch]
            plain = pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
            writer = writer or pa.ipc.new_file(copy.name, plain.schema)
            writer.write_batch(plain)
        if writer is None:
            return []
        writer.close()
        mapped = MappedFile(Path(copy.name))  # a map of pyarrow's holds a descriptor
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped.array)))
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _as_bytes(pa: Any, kind: Any) -> Any:
    types = pa.types
    if types.is_dictionary(kind):
        return _as_bytes(pa, kind.value_type)
    return pa.large_binary() if types.is_string(kind) or types.is_large_string(kind) else kind


def _plain(name: str, value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, bytes):
        try:
            return decoded(value)
        except BadSample as error:
            raise BadSample(f"column {printable(name)}, {error}") from None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(name, each) for each in value] if isinstance(value, list) else value


def readable(records: Records, most: int | None = None) -> Iterator[Mapping[str, Any]]:
    """The records that can be read, of the first `most`, or of all; the others are found bad later. UserError or
    MachineError where the file cannot be read."""
    for i in range(len(records) if most is None else min(most, len(records))):
        try:
            yield records.read(i)
        except BadSample:
            continue
        except OSError as error:
            raise unreadable(error.filename or records.place(i), error) from error
