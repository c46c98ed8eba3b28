"""CIFAR-10 in its two official layouts (https://www.cs.toronto.edu/~kriz/cifar.html).

    cifar-10-python.tar.gz   cifar-10-batches-py/data_batch_1 ... data_batch_5, test_batch    pickles
    cifar-10-binary.tar.gz   cifar-10-batches-bin/data_batch_1.bin ... test_batch.bin         3,073 bytes a record

Both hold the same 60,000 pictures in the same order, and give the same shards. The pickles are never given to pickle
itself: `ArrayUnpickler` knows arrays of bytes and nothing else.
"""

from __future__ import annotations

import io
import math
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards import Field
from headrace.tools.errors import UserError
from headrace.tools.sources.archives import read_file, tar_gz
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.listing import check_no_special, exists, is_file, raise_cause, unreadable
from headrace.tools.sources.source import BadSample, SourceData

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
PIXELS = 3 * 32 * 32
MAX_FILE = 64 << 20
"""Bytes; the official files have 31 MB."""


def read(src: Path, split: str | None) -> SourceData:
    """Pictures as RGB pixels (32, 32, 3); the key is the batch and the place in it.

    Args:
        src: One of the archives, what it unpacks to, or the folder that holds either.
        split: "train" (50,000 pictures) or "test" (10,000).
    """
    split = split or "train"
    if split not in SPLITS:
        raise UserError(f"cifar10 has the splits train and test, not {split!r}")
    place = find(src)
    check_no_special(place)
    contents = read_archive(place, SPLITS[split]) if is_file(place) else read_folder(place, SPLITS[split])
    batches = [parse_batch(place, name, *contents[name]) for name in SPLITS[split]]
    pixels = np.concatenate([batch[0] for batch in batches])
    labels = np.concatenate([batch[1] for batch in batches])
    keys = [
        f"{name}/{row:05d}"
        for name, (_, of_batch) in zip(SPLITS[split], batches, strict=True)
        for row in range(len(of_batch))
    ]
    fields = {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int", classes=CLASSES)}
    fingerprint = Fingerprint(fields)
    for batch in batches:
        fingerprint.content(batch[0].tobytes() + batch[1].tobytes())
    return SourceData(
        fields=fields,
        total=len(keys),
        key=keys.__getitem__,
        origin=lambda i: f"{place}, {keys[i]}",
        fingerprint=str(fingerprint),
        # Stored plane by plane: red, green, blue.
        load=lambda i: {"image": pixels[i].reshape(3, 32, 32).transpose(1, 2, 0), "label": int(labels[i])},
    )


def find(src: Path) -> Path:
    """The archive or the folder with the batches, at `src` or in it."""
    if is_file(src):
        return src
    for name in (".", "cifar-10-batches-py", "cifar-10-batches-bin"):
        if exists(src / name / "data_batch_1") or exists(src / name / "data_batch_1.bin"):
            return src / name
    for name in ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"):
        if exists(src / name):
            return src / name
    raise UserError(f"{src}: holds neither cifar-10-python.tar.gz nor cifar-10-binary.tar.gz nor what they unpack to")


def read_folder(folder: Path, names: list[str]) -> dict[str, tuple[bytes, bool]]:
    """Content of each batch, and True where it is binary."""
    contents = {}
    for name in names:
        binary = not exists(folder / name)
        path = folder / (f"{name}.bin" if binary else name)
        try:
            contents[name] = read_file(path, MAX_FILE), binary
        except BadSample as error:
            raise UserError(f"{path}: {error}; a batch of CIFAR-10 has 31 MB") from error
        except OSError as error:
            raise unreadable(path, error) from error
    return contents


def read_archive(archive: Path, names: list[str]) -> dict[str, tuple[bytes, bool]]:
    """The same from a .tar.gz, which is read once and not unpacked."""
    contents: dict[str, tuple[bytes, bool]] = {}
    try:
        with tar_gz(archive) as tar:
            for member in tar:
                base, _, ending = Path(member.name).name.partition(".")
                if base not in names or ending not in ("", "bin") or not member.isreg():
                    continue
                if member.size > MAX_FILE:
                    raise UserError(f"{archive}, {member.name}: {member.size} bytes, a batch of CIFAR-10 has 31 MB")
                file = tar.extractfile(member)
                assert file is not None  # it is a regular file
                contents[base] = file.read(), ending == "bin"
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise_cause(archive, error)
        raise UserError(f"{archive}: the archive is damaged or cut off ({error}); download it again") from error
    missing = [name for name in names if name not in contents]
    if missing:
        raise UserError(f"{archive}: holds no {missing[0]}; is it the official CIFAR-10 archive?")
    return contents


def parse_batch(
    place: Path, name: str, content: bytes, binary: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """(pixels (n, 3072), labels (n,)) of one batch."""
    try:
        pixels, labels = parse_binary(content) if binary else parse_pickle(content)
        if pixels.ndim != 2 or pixels.shape[1] != PIXELS or len(labels) != len(pixels) or not len(labels):
            raise ValueError(f"{len(labels)} labels and pixels of shape {pixels.shape}, expected (n, {PIXELS})")
        if labels.min() < 0 or labels.max() >= len(CLASSES):
            raise ValueError(f"label {labels.max()} of 10 classes")
    except (ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{place}, {name}: not a batch of CIFAR-10 ({error})") from error
    return pixels, labels


def parse_binary(content: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Records of a label byte and 3,072 pixel bytes."""
    if len(content) % (1 + PIXELS):
        raise ValueError(f"{len(content)} bytes are no whole number of records of {1 + PIXELS} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def parse_pickle(content: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """A dict with "data" and "labels"; keys are bytes in the official files, which Python 2 wrote."""
    try:
        batch = ArrayUnpickler(content).load()
    # A damaged pickle can raise anything: IndexError, KeyError for an opcode, UnicodeDecodeError, ...
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"a pickled {type(batch).__name__}, expected a dict")
    batch = {key.decode(errors="replace") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, PickledArray) or data.array is None:
        raise ValueError("it has no array called data")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError("it has no list of integers called labels")
    return data.array, np.array(labels, np.int64)


class PickledArray:
    """Stands in for numpy.ndarray while unpickling: takes an array's state apart itself."""

    array: npt.NDArray[np.uint8] | None = None

    def __setstate__(self, state: object) -> None:
        """`state` is numpy's: version, shape, dtype, whether Fortran-ordered, content."""
        match state:
            case (int(), tuple() as shape, PickledDtype(code="u1"), (bool() | int()) as fortran, bytes() as content):
                if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) != len(content):
                    raise ValueError(f"an array of shape {shape} in {len(content)} bytes")
                order = "F" if fortran else "C"
                self.array = np.frombuffer(content, np.uint8).reshape(shape, order=order)  # type: ignore[call-overload]
            case _:
                raise ValueError("an array of something else than bytes")


class PickledDtype:
    """Stands in for numpy.dtype; its state (byte order, alignment) does not matter for single bytes."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code.decode(errors="replace") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Nothing to restore."""


def reconstruct(*_: object) -> PickledArray:
    """Stands in for numpy's function that makes an empty array, to be filled by `__setstate__`."""
    return PickledArray()


MAX_OPCODES = 1 << 20
"""The official files have some 50,000."""
# None for sets, buffers, persistent ids, extensions, or calls of classes: no batch has them.
OPCODES = (
    pickle.PROTO + pickle.FRAME + pickle.STOP + pickle.MARK + pickle.POP + pickle.DUP + pickle.MEMOIZE
    + pickle.PUT + pickle.BINPUT + pickle.LONG_BINPUT + pickle.GET + pickle.BINGET + pickle.LONG_BINGET
    + pickle.NONE + pickle.NEWTRUE + pickle.NEWFALSE + pickle.INT + pickle.BININT + pickle.BININT1 + pickle.BININT2
    + pickle.LONG + pickle.LONG1 + pickle.STRING + pickle.BINSTRING + pickle.SHORT_BINSTRING
    + pickle.UNICODE + pickle.BINUNICODE + pickle.SHORT_BINUNICODE + pickle.BINUNICODE8
    + pickle.BINBYTES + pickle.SHORT_BINBYTES + pickle.BINBYTES8
    + pickle.TUPLE + pickle.EMPTY_TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3
    + pickle.LIST + pickle.EMPTY_LIST + pickle.APPEND + pickle.APPENDS
    + pickle.DICT + pickle.EMPTY_DICT + pickle.SETITEM + pickle.SETITEMS
    + pickle.GLOBAL + pickle.STACK_GLOBAL + pickle.REDUCE + pickle.BUILD
)  # fmt: skip


class Dispatch(dict[int, Callable[[Any], None]]):
    """What to do for each opcode; UnpicklingError after `MAX_OPCODES`. Each can make an object of 64 bytes."""

    left = MAX_OPCODES

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(f"more than {MAX_OPCODES:,} opcodes")
        return super().__getitem__(code)


class ArrayUnpickler(pickle._Unpickler):
    """Unpickles dicts, lists, numbers, text and arrays of bytes. No class or function of a pickle is ever looked up:
    the few names that pickled arrays need stand for the functions above.

    This is the standard library's unpickler in Python, not that in C, which takes 64 GB for ten bytes that put
    something at the last place of its memo. Memory stays within some times the file's size and 200 MB.
    """

    # Of the base, which the type checker knows only in part.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        own = {
            pickle.BUILD[0]: ArrayUnpickler.load_build,
            pickle.SETITEM[0]: ArrayUnpickler.load_setitem,
            pickle.SETITEMS[0]: ArrayUnpickler.load_setitems,
            pickle.DICT[0]: ArrayUnpickler.load_dict,
        }
        codes = {code: pickle._Unpickler.dispatch[code] for code in OPCODES}
        self.dispatch = Dispatch(codes | own)  # type: ignore[misc]
        self.encoded = len(content)

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for; UnpicklingError for all others."""
        admitted: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): PickledArray,
            ("numpy", "dtype"): PickledDtype,
            ("_codecs", "encode"): self.encode_latin1,
        }
        try:
            return admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}, which no batch contains") from None

    def encode_latin1(self, text: object, codec: object) -> bytes:
        """Stands in for `_codecs.encode`, by which Python 3 writes bytes in the old protocols.

        The results may take as much memory as the pickle itself: encoding one text again and again is refused."""
        if not isinstance(text, str) or codec != "latin1":
            raise pickle.UnpicklingError("text in a codec other than latin1")
        self.encoded -= len(text)
        if self.encoded < 0:
            raise pickle.UnpicklingError("more encoded text than the pickle holds")
        return text.encode("latin1")

    def load_build(self) -> None:
        """Gives a state to an array or a dtype, and to nothing else: not to the functions above."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], PickledArray | PickledDtype):
            raise pickle.UnpicklingError(f"a state for a {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    def load_setitems(self) -> None:
        """Keys are text: tuples of tuples of tuples could take forever to hash."""
        items = self.pop_mark()
        self.set_items(items)

    def load_setitem(self) -> None:
        """Likewise."""
        value = self.stack.pop()
        self.set_items([self.stack.pop(), value])

    def load_dict(self) -> None:
        """Likewise."""
        items = self.pop_mark()
        self.append({})
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values, in turn, into the dict on the stack."""
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, bytes | str) or not isinstance(self.stack[-1], dict):
                raise pickle.UnpicklingError("a key that is no text")
            self.stack[-1][key] = value
