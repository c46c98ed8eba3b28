"""The same photographs in every form that a contestant reads, made once and kept in the cache folder.

Tars are Headrace's own webdataset shard set, which is plain POSIX tars: webdataset, DALI and Headrace read the very
same files. `.beton` files for ffcv come from ffcv's own writer.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from headrace.benchmarks.errors import BenchmarkError
from headrace.benchmarks.photographs import QUALITY, cache_folder

CLASSES = 10  # labels are the photograph's number modulo this
SHARDS = 8  # tars: enough for every worker of a small machine to hold some
SMALL = 32  # side of the small pictures, in pixels, as CIFAR-10 has it
SMALL_ROWS, SMALL_COLUMNS = 6, 8  # small pictures of a photograph: about 50,000 of 1,024, as CIFAR-10 has it


@dataclass(frozen=True)
class Forms:
    """Where the forms of one list of photographs are; each is made when first asked for."""

    photographs: tuple[Path, ...]
    """JPEG files, in order."""
    root: Path
    """Folder of this list's forms."""

    @staticmethod
    def of(photographs: Sequence[Path], cache: Path | None = None) -> Forms:
        """Forms in the cache folder, under a name that changes with the files."""
        state = repr([(str(path.resolve()), path.stat().st_size) for path in photographs])
        name = f"{len(photographs)}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
        return Forms(tuple(photographs), (cache_folder() if cache is None else cache) / "forms" / name)

    @property
    def megabytes(self) -> float:
        """Size of the JPEG files, in 10^6 bytes."""
        return sum(path.stat().st_size for path in self.photographs) / 1e6

    def folder(self, times: int = 1) -> Path:
        """One subfolder a class, hard links to the JPEG files, `times` to each."""
        return self._made("folder" if times == 1 else f"folder-{times}", lambda out: self._link(out, times))

    def shards(self) -> Path:
        """A Headrace shard set of tars that hold the JPEG bytes as they are."""
        return self._made("webdataset", lambda out: self.write(out, format="webdataset", raw=False))

    def beton_shards(self) -> Path:
        """A Headrace shard set of .beton files that hold the JPEG bytes as they are."""
        return self._made("headrace-beton", lambda out: self.write(out, format="ffcv", raw=False))

    def tars(self) -> list[Path]:
        """The tars of `shards`."""
        return sorted(self.shards().glob("*.tar"))

    def raw_shards(self) -> Path:
        """A Headrace shard set of one .beton that holds pixels: about eight times the bytes, and nothing to decode."""
        return self._made("headrace-raw", lambda out: self.write(out, format="ffcv", raw=True))

    def small_shards(self) -> Path:
        """A Headrace shard set of one .beton that holds the pixels of the small pictures."""
        return self._made("headrace-small", self._write_small)

    def small_pixels(self) -> Path:
        """The small pictures as one array (N, 32, 32, 3) in a .npy file."""
        return self._made("small.npy", self._save_small)

    def beton(self, *, raw: bool) -> Path:
        """A .beton by ffcv's own writer, of JPEGs (encoded again at the photographs' quality) or of pixels."""
        name = "ffcv-raw.beton" if raw else "ffcv-jpg.beton"
        return self._made(name, lambda out: in_own_process(write_beton, out, self.photographs, raw))

    def _small(self) -> Iterator[np.ndarray]:
        """Each photograph made small and cut into pieces, uint8 (32, 32, 3)."""
        for path in self.photographs:
            with Image.open(path) as photograph:
                pixels = np.asarray(photograph.convert("RGB").resize((SMALL * SMALL_COLUMNS, SMALL * SMALL_ROWS)))
            for top in range(0, SMALL * SMALL_ROWS, SMALL):
                for left in range(0, SMALL * SMALL_COLUMNS, SMALL):
                    yield pixels[top : top + SMALL, left : left + SMALL]

    def _write_small(self, out: Path) -> None:
        from headrace.shards import Field, write_shards

        samples = ({"__key__": f"{number:06d}", "image": piece} for number, piece in enumerate(self._small()))
        write_shards(out, samples, {"image": Field(kind="image", encoding="raw")}, format="ffcv", shard_size=1 << 34)

    def _save_small(self, out: Path) -> None:
        with out.open("wb") as file:  # `np.save` would add an ending to a name
            np.save(file, np.stack(list(self._small())))

    def write(self, out: Path, *, format: Literal["webdataset", "ffcv"], raw: bool) -> None:
        """A Headrace shard set of the photographs in folder `out`: JPEG bytes as they are, or pixels."""
        from headrace.shards import Field, write_shards

        fields = {
            "image": Field(kind="image", encoding="raw" if raw else "jpg"),
            "label": Field(kind="int", classes=tuple(f"class-{number}" for number in range(CLASSES))),
        }
        shard_size = 1 << 34 if raw else max(1 << 16, int(self.megabytes * 1e6 / SHARDS))
        write_shards(out, self.samples(raw=raw), fields, format=format, shard_size=shard_size)

    def samples(self, *, raw: bool) -> Iterator[dict[str, Any]]:
        """What `headrace.shards.write_shards` takes."""
        import simplejpeg

        for number, path in enumerate(self.photographs):
            data = path.read_bytes()
            image = simplejpeg.decode_jpeg(data, colorspace="RGB") if raw else data
            yield {"__key__": f"{number:06d}", "image": image, "label": number % CLASSES}

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        target = self.root / name
        if target.exists():
            return target
        self.root.mkdir(parents=True, exist_ok=True)
        with _temporary(target) as temporary:
            make(temporary)
            try:
                temporary.rename(target)
            except OSError:
                if not target.exists():  # else another process was first: its files are as good
                    raise
        return target

    def _link(self, out: Path, times: int) -> None:
        for number, path in enumerate(self.photographs * times):
            link = out / f"class-{number % CLASSES}" / f"{number:06d}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), link)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(path, link)


class Photographs:
    """The photographs as ffcv's writer wants them: indexed, (RGB pixels, label)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        import simplejpeg

        return simplejpeg.decode_jpeg(self.paths[number].read_bytes(), colorspace="RGB"), number % CLASSES


def write_beton(out: Path, photographs: Sequence[Path] | Path, raw: bool, workers: int = 2) -> None:
    """Writes a .beton with the ffcv package: of a list of photographs, which simplejpeg decodes, or of a folder, which
    torchvision's ImageFolder reads as in ffcv's documentation."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    image = RGBImageField(write_mode="raw") if raw else RGBImageField(write_mode="jpg", jpeg_quality=QUALITY)
    writer = DatasetWriter(str(out), {"image": image, "label": IntField()}, num_workers=workers)
    writer.from_indexed_dataset(ImageFolder(photographs) if isinstance(photographs, Path) else Photographs(photographs))


def in_own_process(function: Callable[..., None], *arguments: Any) -> None:
    """Runs a module-level function in a fresh process, so that what it imports and forks stays out of this one.

    Raises BenchmarkError with the function's error.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        failure = ours.recv()
    except EOFError:
        failure = "its process died"
    process.join()
    if failure:
        raise BenchmarkError(f"{function.__name__} failed: {failure}")


def _call(pipe: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    multiprocessing.set_start_method(None, force=True)  # else its workers would be spawned, not forked
    try:
        function(*arguments)
        pipe.send("")
    except Exception as error:
        traceback.print_exc()
        pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())}")


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A path beside `target` for what is to be renamed to it; whatever is left there goes away."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def read_through(path: Path) -> None:
    """Reads a file, or all files of a folder, once, so that the page cache holds them."""
    for file in [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file()):
        with file.open("rb") as stream:
            while stream.read(1 << 22):
                pass
