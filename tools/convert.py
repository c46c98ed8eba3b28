"""Raw data to shard sets."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from headrace.shards import JPG, Field, ShardError, ShardWriter
from headrace.shards.images import image_header
from headrace.shards.manifest import Format
from headrace.shards.staging import REJECTS_NAME
from headrace.tools.errors import UserError
from headrace.tools.images import check_decodes, check_pixels, decode_rgb, shrink, to_jpeg, to_pixels, to_png
from headrace.tools.sources import SOURCES, BadSample, SourceData

Encode = Literal["keep", "jpeg", "raw"]
FIELD_ENCODINGS = {"keep": "mixed", "jpeg": "jpg", "raw": "raw"}


class ConvertResult(NamedTuple):
    """What a conversion did."""

    samples: int
    """Samples written."""
    rejects: int
    """Samples left out, with the reasons in rejects.jsonl beside the manifest."""
    bytes: int
    """Size of the shards."""
    seconds: float
    """Wall time."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How images are stored."""

    encode: Encode
    """keep: JPEG and PNG files that any decoder reads as 8-bit grey or RGB stay as they are, byte for byte, each
    in its own encoding, and raw pixels stay raw; every other image (WebP, palette, alpha, 16 bits, CMYK, a JPEG with
    damage that Pillow forgives, in a .beton also PNG) becomes RGB and is stored without loss, as PNG in a tar and raw
    in a .beton. jpeg: every image is encoded anew. raw: every image is decoded to RGB pixels."""
    max_side: int | None
    """Longer images are shrunk to this many pixels, which encodes them anew also under keep; None turns it off."""
    quality: int
    """JPEG quality, 1 to 100, where a JPEG is made."""
    format: Format
    """Format of the set, which decides how keep stores what it cannot keep."""

    def __post_init__(self) -> None:
        if self.encode not in FIELD_ENCODINGS:
            raise UserError(f"encode must be one of {', '.join(FIELD_ENCODINGS)}, got {self.encode!r}")
        if self.max_side is not None and self.max_side < 1:
            raise UserError(f"max side must be at least 1 pixel, got {self.max_side}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality must lie between 1 and 100, got {self.quality}")


def convert(
    source: str,
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: Format = "webdataset",
    split: str = "train",
    encode: Encode = "keep",
    max_side: int | None = None,
    quality: int = 90,
    shard_size: int = 256 << 20,
    seed: int | None = 0,
    max_rejects: float = 0.05,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> ConvertResult:
    """Read raw data and write it as a shard set; the same input and settings give the same bytes.

    A sample that cannot be read or decoded is noted in rejects.jsonl (key, source, reason), in the set's folder, and
    the conversion goes on.

    Args:
        source: A name in `headrace.tools.sources.SOURCES`.
        src: The raw data; what it may be depends on the source.
        out: Folder of the set; a set that is already there is replaced when the new one is complete.
        format: webdataset or ffcv.
        split: Part of the data.
        encode: How images are stored, see `ImageSettings.encode`.
        max_side: Longest side of an image in pixels; None for no limit.
        quality: JPEG quality, 1 to 100.
        shard_size: Bytes at which a new shard begins.
        seed: Seed of the order in which samples are stored, so that reading in order does not mean class by class;
            None keeps the order of the source.
        max_rejects: Largest share of samples, 0 to 1, that may be left out.
        workers: Threads that read and encode; None takes one per core.
        progress: Called with the number of samples done so far, good and bad.

    Raises:
        UserError: The source cannot be read, settings contradict, or too many samples are bad: then the reasons are in
            `out`.rejects.jsonl, and `out` is as before.
        ShardError: The set cannot be written.
    """
    start = time.perf_counter()
    if source not in SOURCES:
        raise UserError(f"unknown source {source!r}, use one of {', '.join(SOURCES)}")
    if not 0 <= max_rejects <= 1:
        raise UserError(f"max rejects is a share between 0 and 1, got {max_rejects}")
    settings = ImageSettings(encode=encode, max_side=max_side, quality=quality, format=format)
    data = SOURCES[source](Path(src), split)
    order = np.arange(data.total) if seed is None else stored_order(seed, data.total)
    rejects: list[dict[str, str]] = []
    with ShardWriter(
        out, stored_fields(data.fields, settings), format=format, shard_size=shard_size, total=data.total
    ) as writer:
        for done, outcome in enumerate(converted(data, order, settings, workers or os.cpu_count() or 1), 1):
            if isinstance(outcome, Reject):
                rejects.append(outcome._asdict())
                if len(rejects) > max_rejects * data.total:
                    raise too_many(rejects, data.total, max_rejects, Path(out))
            else:
                writer.add(outcome)
            if progress is not None:
                progress(done)
        if rejects:
            writer.attach(REJECTS_NAME, json_lines(rejects))
        manifest = writer.commit(
            {
                "source": source,
                "src": Path(src).name,
                "split": split,
                "encode": encode,
                "max_side": max_side,
                "quality": quality,
                "seed": seed,
                "rejects": len(rejects),
            }
        )
    return ConvertResult(manifest.samples, len(rejects), manifest.bytes, time.perf_counter() - start)


def stored_order(seed: int, total: int) -> npt.NDArray[np.int64]:
    """A permutation that depends on nothing but its arguments: Philox's raw numbers are the same in every numpy."""
    return np.argsort(np.random.Philox(key=seed).random_raw(total), kind="stable")


def stored_fields(fields: Mapping[str, Field], settings: ImageSettings) -> dict[str, Field]:
    """The source's fields with images encoded as the settings say."""
    encoding: Any = FIELD_ENCODINGS[settings.encode]
    return {
        name: replace(field, encoding=encoding) if field.kind == "image" else field for name, field in fields.items()
    }


class Reject(NamedTuple):
    """A sample that is left out."""

    key: str
    source: str
    reason: str


def converted(
    data: SourceData, order: npt.NDArray[np.int64], settings: ImageSettings, workers: int
) -> Iterator[dict[str, Any] | Reject]:
    """Samples in the given order, read and encoded in threads, a few ahead of the one that is asked for."""

    def work(i: int) -> dict[str, Any] | Reject:
        try:
            sample = {"__key__": data.key(i), **data.load(i)}
            for name, field in data.fields.items():
                if field.kind == "image":
                    sample[name] = stored_image(sample[name], settings)
            return sample
        except (BadSample, ShardError, OSError, ValueError) as error:
            return Reject(data.key(i), data.origin(i), " ".join(str(error).split()))

    numbers = iter(order.tolist())
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[dict[str, Any] | Reject]] = deque()
        try:
            waiting.extend(pool.submit(work, i) for i in islice(numbers, 4 * workers))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, i) for i in islice(numbers, 1))
        finally:
            for future in waiting:
                future.cancel()


def stored_image(value: bytes | npt.NDArray[np.uint8], settings: ImageSettings) -> bytes | npt.NDArray[np.uint8]:
    """One image as the settings say; ValueError with the reason where it cannot be decoded."""
    if isinstance(value, np.ndarray):
        check_pixels(value.shape[1], value.shape[0])
        fits = settings.max_side is None or max(value.shape[:2]) <= settings.max_side
        if fits and settings.encode != "jpeg":
            return value
        image = shrink(Image.fromarray(value), settings.max_side)
        return to_jpeg(image, settings.quality) if settings.encode == "jpeg" else to_pixels(image)
    if settings.encode == "raw":
        return to_pixels(decode_rgb(value, settings.max_side))
    if settings.encode == "jpeg":
        return to_jpeg(decode_rgb(value, settings.max_side), settings.quality)
    return kept_image(value, settings)


def kept_image(data: bytes, settings: ImageSettings) -> bytes | npt.NDArray[np.uint8]:
    """The file itself if readers can use it, else its pixels without loss, see `ImageSettings.encode`."""
    try:
        header = image_header(data)
    except ValueError:
        header = None  # another format, or damaged, which decoding will find
    if header is not None and header.plain:
        if settings.max_side is not None and max(header.height, header.width) > settings.max_side:
            if header.encoding == JPG:
                return to_jpeg(decode_rgb(data, settings.max_side), settings.quality)
        elif header.encoding == JPG or settings.format == "webdataset":
            try:
                check_decodes(data)
                return data
            except ValueError:
                pass  # Pillow has the last word on what is too damaged
    image = decode_rgb(data, settings.max_side)
    return to_png(image) if settings.format == "webdataset" else to_pixels(image)


def json_lines(rows: list[dict[str, str]]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(errors="replace")


def too_many(rejects: list[dict[str, str]], total: int, max_rejects: float, out: Path) -> UserError:
    """The error that ends a conversion, after its reasons have been written beside the set that there is not."""
    report = out.with_name(f"{out.name}.{REJECTS_NAME}")
    first = f"the first: {rejects[0]['source']}: {rejects[0]['reason']}"
    try:
        report.write_bytes(json_lines(rejects))
        where = f"all reasons so far are in {report}"
    except OSError as error:
        where = f"the reasons could not be written to {report} ({error.strerror})"
    share = f"{len(rejects)} of {total} samples cannot be used, more than {max_rejects:.0%}"
    return UserError(f"{share}; {first}; {where}")
