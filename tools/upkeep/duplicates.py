"""Pictures that a set holds twice, or that two sets share: the same file, the same pixels, or nearly the same picture.

Near duplicates are found by a perceptual hash of 64 bits (`imagehash.phash`: signs of the lowest frequencies of the
picture at 32x32) and confirmed by the correlation of two thumbnails of 16x16 grey pixels, since the few bits of a hash
agree by chance among a million. What re-encoding, resizing and a change of brightness do to a picture stays within the
default limits; a crop or a rotation does not. docs/duplicates.md has the measured rates.

n pictures have n^2 / 2 pairs, a million have half a million million. Only those are looked at whose hashes nearly agree
in one of four bands of 16 bits: if two hashes differ in at most 4 r + 3 bits, one band differs in at most r
(Norouzi et al., multi-index hashing, arXiv:1307.2982). At the default distance r is 2, and a million pictures with
evenly spread hashes have 4 * 10^9 such pairs: one and a half minutes of numpy on one core, where decoding takes a
quarter of an hour on two. At a distance of 7 it is 10 seconds. Where hashes are not spread, as for drawings on white,
there are more pairs, at worst all.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

from headrace.pipeline.images.decode import decode_image, decode_rgb, to_rgb, transposed
from headrace.pipeline.images.reading import open_image, plain_words
from headrace.pipeline.images.whole import check_whole
from headrace.shards import ShardError, ShardSet
from headrace.shards.errors import MachineError
from headrace.shards.formats.orientation import UPRIGHT, orientation_in
from headrace.shards.machine import cores
from headrace.tools.errors import UserError
from headrace.tools.upkeep.inspect import image_field

Kind = Literal["bytes", "pixels", "near"]

DISTANCE = 11
"""Bits in which the hashes of near duplicates may differ, of 64."""
LIKENESS = 0.97
"""Least correlation of their thumbnails."""
FLAT = 3.0
"""Grey levels. A picture whose thumbnail deviates less has no structure to compare: only its exact copies are found."""
THUMBNAIL = 16
CHUNK = 64
"""Samples that a thread takes at a time."""
BLOCK = 1 << 21
"""Pairs that are compared at a time; each takes some 40 bytes."""
MAX_PAIRS = 5_000_000
SHOWN = 20
"""Pairs that a printed report lists; the file has all of them."""


class Pair(NamedTuple):
    """Two samples with the same picture."""

    kind: Kind
    """bytes: the same file or the same raw pixels; pixels: they decode to the same; near: they look the same."""
    distance: int
    """Bits in which their hashes differ, 0 to 64."""
    likeness: float
    """Correlation of their thumbnails, -1 to 1."""
    set_a: str
    key_a: str
    set_b: str
    key_b: str


@dataclass(frozen=True, kw_only=True)
class DuplicatesReport:
    """What `find_duplicates` found."""

    samples: int
    """Pictures that were compared, of both sets."""
    pairs: list[Pair]
    """The exact ones first, then by distance. A picture that is there many times as the same bytes is paired with its
    first copy; else every pair is listed."""
    unreadable: list[str]
    """Samples that do not decode, and were left out."""
    surplus: int
    """Samples that could go: those left out when of each group of pairs one stays, or with a second set, all that the
    second set shares with the first."""
    seconds: float
    """Wall time."""

    def counts(self) -> dict[str, int]:
        """Pairs of each kind."""
        found = Counter(pair.kind for pair in self.pairs)
        return {kind: found[kind] for kind in ("bytes", "pixels", "near")}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "counts": self.counts(), "pairs": [pair._asdict() for pair in self.pairs]}

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.counts().items() if count)
        lines = [
            f"{len(self.pairs):,} pairs{f' ({kinds})' if kinds else ''} among {self.samples:,} pictures; "
            f"{self.surplus:,} could go; {self.seconds:.1f} s"
        ]
        for pair in self.pairs[:SHOWN]:
            what = pair.kind if pair.kind != "near" else f"near, {pair.distance} bits"
            lines.append(f"  {what}: {pair.set_a} {pair.key_a}  =  {pair.set_b} {pair.key_b}")
        if len(self.pairs) > SHOWN:
            lines.append(f"  ... and {len(self.pairs) - SHOWN:,} more; --pairs FILE writes all")
        lines += [f"  left out: {line}" for line in self.unreadable[:SHOWN]]
        if len(self.unreadable) > SHOWN:
            lines.append(f"  ... and {len(self.unreadable) - SHOWN:,} more that do not decode")
        return "\n".join(lines)


def find_duplicates(
    shards: ShardSet,
    other: ShardSet | None = None,
    *,
    field: str | None = None,
    distance: int = DISTANCE,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> DuplicatesReport:
    """Find pictures that a set holds more than once, or that two sets share.

    Takes about 300 bytes of memory a picture, and the time of decoding JPEGs at an eighth of their size and other
    pictures in full.

    Args:
        shards: The set.
        other: A second set: then only pairs between the two are found, such as training pictures in a test set.
        field: An image field of both; None is the first of `shards`.
        distance: Bits in which two hashes may differ, 0 to 64; see `DISTANCE`. Above 11 the search among a million
            pictures takes many minutes.
        workers: Threads; None takes one per core.
        progress: Called with the number of pictures hashed so far.

    Raises:
        UserError: There is no such field, imagehash is missing, or there are more than `MAX_PAIRS` pairs.
        MachineError: A set cannot be read.
    """
    start = time.perf_counter()
    if not 0 <= distance <= 64:
        raise UserError(f"distance must lie between 0 and 64 bits, got {distance}")
    sets = [shards] if other is None else [shards, other]
    field = image_field(shards, field)
    for each in sets:
        image_field(each, field)
    pictures = Pictures(sets, field)
    unreadable = pictures.take(workers or cores(), progress)
    found: dict[tuple[int, int], tuple[Kind, int]] = {}
    for i, j in pictures.same_bytes():
        found[i, j] = ("bytes", 0)
    first, second, bits = pictures.near(distance)
    for i, j, differing in zip(first.tolist(), second.tolist(), bits.tolist(), strict=True):
        found[i, j] = ("pixels" if pictures.same_pixels(i, j) else "near", differing)
    pairs = [
        Pair(kind, differing, round(pictures.likeness(i, j), 4), *pictures.name(i), *pictures.name(j))
        for (i, j), (kind, differing) in found.items()
    ]
    ranks = {"bytes": 0, "pixels": 1, "near": 2}
    pairs.sort(key=lambda pair: (ranks[pair.kind], pair.distance, -pair.likeness, *pair[3:]))
    return DuplicatesReport(
        samples=len(pictures),
        pairs=pairs,
        unreadable=unreadable,
        surplus=surplus(found) if other is None else len({j for _, j in found}),
        seconds=time.perf_counter() - start,
    )


def surplus(pairs: Any) -> int:
    """Samples that are left out when one of each connected group stays."""
    root: dict[int, int] = {}

    def find(i: int) -> int:
        while root.setdefault(i, i) != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in pairs:
        root[max(find(i), find(j))] = min(find(i), find(j))
    return sum(find(i) != i for i in list(root))


class Pictures:
    """What is kept of the pictures of one or two sets, numbered through: digests, hashes and thumbnails."""

    def __init__(self, sets: list[ShardSet], field: str) -> None:
        self.sets = sets
        self.field = field
        self.split = len(sets[0])
        """Number of the first picture of the second set."""
        total = sum(map(len, sets))
        self.digests = np.zeros(total, "S16")
        self.hashes = np.zeros(total, np.uint64)
        self.thumbnails = np.zeros((total, THUMBNAIL * THUMBNAIL), np.uint8)
        self.usable = np.zeros(total, np.bool_)
        """False for pictures that do not decode or have no structure."""
        self.pixel_digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.hashes)

    def locate(self, i: int) -> tuple[ShardSet, int]:
        """Set and number in it."""
        return (self.sets[0], i) if i < self.split else (self.sets[1], i - self.split)

    def name(self, i: int) -> tuple[str, str]:
        """Set and key."""
        shards, number = self.locate(i)
        return str(shards.path), shards.key(number)

    def take(self, workers: int, progress: Callable[[int], None] | None) -> list[str]:
        """Read every picture; the lines say which do not decode."""
        unreadable: list[str] = []

        def work(chunk: range) -> list[str]:
            return [line for i in chunk if (line := self.take_one(i))]

        chunks = [range(start, min(start + CHUNK, len(self))) for start in range(0, len(self), CHUNK)]
        with ThreadPoolExecutor(workers) as pool:
            for chunk, lines in zip(chunks, pool.map(work, chunks), strict=True):
                unreadable += lines
                if progress is not None:
                    progress(chunk.stop)
        return unreadable

    def take_one(self, i: int) -> str:
        """Read one picture; what is wrong with it, or nothing."""
        shards, number = self.locate(i)
        try:
            sample = shards.read(number, [self.field])
        except MachineError:
            raise  # says nothing about the picture
        except ShardError as error:
            return str(error)
        value, orientation = sample[self.field], orientation_in(sample, self.field)
        digest = hashlib.blake2b(value, digest_size=16)
        if orientation != UPRIGHT:  # one set may turn what another shows as it is stored
            digest.update(b"%d" % orientation)
        if isinstance(value, np.ndarray):
            digest.update(repr(value.shape).encode())
        # numpy cuts zeros off the end of what it takes for text.
        self.digests[i] = digest.digest()[:15] + b"."
        try:
            grey = small_grey(value, orientation)
        except ValueError as error:
            return f"{shards.where(number, self.field)}: {error}"
        self.hashes[i] = perceptual_hash(grey)
        self.thumbnails[i] = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).ravel()
        self.usable[i] = self.thumbnails[i].std() >= FLAT
        return ""

    def between(self, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> Any:
        """True for pairs that count: with two sets, those between them."""
        return True if len(self.sets) == 1 else (i < self.split) & (j >= self.split)

    def copies(self) -> list[npt.NDArray[np.int64]]:
        """Groups of pictures with the same bytes, each in order."""
        order = np.argsort(self.digests, kind="stable")
        order = order[self.digests[order] != b""]
        ends = np.flatnonzero(self.digests[order][1:] != self.digests[order][:-1]) + 1
        return np.split(order, ends) if len(order) else []

    def same_bytes(self) -> Iterator[tuple[int, int]]:
        """Each copy with the first, and with two sets each with the first of the other set."""
        for group in self.copies():
            ours = group[group < self.split].tolist()
            theirs = group[group >= self.split].tolist()
            if len(self.sets) == 1:
                yield from ((ours[0], i) for i in ours[1:])
            elif ours and theirs:
                yield from ((ours[0], j) for j in theirs)
                yield from ((i, theirs[0]) for i in ours[1:])

    def near(self, distance: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """(numbers, larger numbers, distances) of pictures with near hashes and like thumbnails; of pictures with the
        same bytes only the first of each set is searched, and with two sets all copies are named."""
        groups = [part for group in self.copies() for part in (group[group < self.split], group[group >= self.split])]
        members = {int(part[0]): part for part in groups if len(part)}
        subset = np.array(sorted(members), np.int64)
        subset = subset[self.usable[subset]]
        digests = self.digests
        parts = []
        total = 0
        for a, b, bits in near_pairs(self.hashes[subset], distance):
            first, second = np.minimum(subset[a], subset[b]), np.maximum(subset[a], subset[b])
            wanted = self.between(first, second) & (digests[first] != digests[second])
            first, second, bits = first[wanted], second[wanted], bits[wanted]
            like = self.likenesses(first, second) >= LIKENESS
            parts.append((first[like], second[like], bits[like]))
            total += int(like.sum())
            if total > 8 * MAX_PAIRS:  # each was found in up to four bands
                raise too_many(distance)
        if not parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8)
        first, second, bits = (np.concatenate(column) for column in zip(*parts, strict=True))
        _, once = np.unique(first * len(self) + second, return_index=True)
        first, second, bits = first[once], second[once], bits[once]
        if len(self.sets) == 2:
            named = [
                (i, j, differing)
                for a, b, differing in zip(first.tolist(), second.tolist(), bits.tolist(), strict=True)
                for i, j in chain(((a, j) for j in members[b].tolist()), ((i, b) for i in members[a][1:].tolist()))
            ]
            table = np.array(named, np.int64).reshape(-1, 3)
            first, second, bits = table[:, 0], table[:, 1], table[:, 2].astype(np.uint8)
        if len(first) > MAX_PAIRS:
            raise too_many(distance)
        return first, second, bits

    def likenesses(self, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Correlation of the thumbnails of each pair."""
        result = np.empty(len(i), np.float32)
        for start in range(0, len(i), 1 << 14):
            rows = slice(start, start + (1 << 14))
            one, two = (self.thumbnails[part[rows]].astype(np.float32) for part in (i, j))
            one -= one.mean(axis=1, keepdims=True)
            two -= two.mean(axis=1, keepdims=True)
            norms = np.sqrt((one * one).sum(axis=1) * (two * two).sum(axis=1))
            result[rows] = (one * two).sum(axis=1) / np.maximum(norms, 1e-6)
        return result

    def likeness(self, i: int, j: int) -> float:
        """Correlation of two thumbnails; 1 for the same."""
        if self.digests[i] == self.digests[j]:
            return 1.0
        return float(self.likenesses(np.array([i]), np.array([j]))[0])

    def same_pixels(self, i: int, j: int) -> bool:
        """Do two pictures decode to the same?"""
        return self.pixel_digest(i) == self.pixel_digest(j)

    def pixel_digest(self, i: int) -> bytes:
        """Of the decoded picture and its size; different for each that does not decode to its end."""
        if i not in self.pixel_digests:
            shards, number = self.locate(i)
            sample = shards.read(number, [self.field])
            value, orientation = sample[self.field], orientation_in(sample, self.field)
            try:
                pixels = value if isinstance(value, np.ndarray) else decode_image(value, orientation)
                digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, key=repr(pixels.shape).encode()).digest()
            except ValueError:
                digest = b"%d" % i
            self.pixel_digests[i] = digest
        return self.pixel_digests[i]


def too_many(distance: int) -> UserError:
    """What to say instead of filling the memory with pairs."""
    return UserError(
        f"more than {MAX_PAIRS:,} pairs within {distance} bits: the pictures are too alike; lower --distance"
    )


def small_grey(value: bytes | npt.NDArray[np.uint8], orientation: int) -> Image.Image:
    """The picture as it is shown, in grey, of a JPEG no more than its nearest fraction above 64 pixels; ValueError if
    it is none."""
    if isinstance(value, np.ndarray):
        return Image.fromarray(value).convert("L")
    check_whole(value, thorough=False)
    image = open_image(value)
    try:
        image.draft("L", (64, 64))
        return transposed(to_rgb(image).convert("L"), orientation)
    except Exception as error:
        raise ValueError(plain_words(error)) from error


def perceptual_hash(grey: Image.Image) -> np.uint64:
    """The 64 bits of imagehash.phash."""
    return np.packbits(phash()(grey).hash.ravel()).view(">u8")[0]


@lru_cache(maxsize=1)
def phash() -> Callable[[Image.Image], Any]:
    """imagehash.phash; UserError where it is not installed."""
    try:
        import imagehash
    except ImportError as error:
        raise UserError(f"finding duplicates needs imagehash: pip install 'headrace[duplicates]' ({error})") from error
    return imagehash.phash


Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]
BANDS, BAND_BITS = 4, 16


def near_pairs(hashes: npt.NDArray[np.uint64], distance: int) -> Iterator[Found]:
    """(numbers, numbers, distances) of all pairs of hashes that differ in at most `distance` bits, in blocks.

    A pair comes up to four times, in any order, never a number with itself.
    """
    masks = [
        sum(1 << bit for bit in bits)
        for count in range(distance // BANDS + 1)
        for bits in combinations(range(BAND_BITS), count)
    ]
    for band in range(BANDS):
        values = (hashes >> np.uint64(BAND_BITS * band)).astype(np.uint16).astype(np.int64)
        order = np.argsort(values, kind="stable")
        starts = np.searchsorted(values[order], np.arange((1 << BAND_BITS) + 1))
        for mask in masks:
            # Of two values that differ by the mask, only the one without its highest bit asks for the other.
            asking = order if not mask else order[values[order] >> (mask.bit_length() - 1) & 1 == 0]
            begin, end = starts[values[asking] ^ mask], starts[(values[asking] ^ mask) + 1]
            if not mask:
                begin = np.arange(1, len(order) + 1)  # only those behind it in its own bucket
            yield from compared(hashes, order, asking, begin, end, distance)


def compared(
    hashes: npt.NDArray[np.uint64],
    order: npt.NDArray[np.int64],
    asking: npt.NDArray[np.int64],
    begin: npt.NDArray[np.int64],
    end: npt.NDArray[np.int64],
    distance: int,
) -> Iterator[Found]:
    """Pairs of each number in `asking` with those in its range of `order`, as far as they are near."""
    ends = np.cumsum(end - begin)
    first = 0
    while first < len(asking):
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + BLOCK, side="right")), first + 1)
        counts = (end - begin)[first:last]
        if counts.any():
            one = np.repeat(asking[first:last], counts)
            within = np.arange(len(one)) - np.repeat(ends[first:last] - counts - before, counts)
            two = order[np.repeat(begin[first:last], counts) + within]
            bits = bit_count(hashes[one] ^ hashes[two])
            near = np.flatnonzero(bits <= distance)
            yield one[near], two[near], bits[near]
        first = last


def bit_count(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Ones in each number."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        counts: npt.NDArray[np.uint8] = np.bitwise_count(values)
        return counts
    return bit_count_by_sums(values)


def bit_count_by_sums(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Likewise, for numpy 1: sums of neighbouring 1, 2 and 4 bits, then of all bytes (Hacker's Delight, 5-1)."""
    one, two, four, bytes_ = (np.uint64(number) for number in (1, 2, 4, 56))
    values = values - (values >> one & np.uint64(0x5555555555555555))
    values = (values & np.uint64(0x3333333333333333)) + (values >> two & np.uint64(0x3333333333333333))
    values = values + (values >> four) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (values * np.uint64(0x0101010101010101) >> bytes_).astype(np.uint8)


def check_pairs_name(path: Path) -> None:
    """UserError for a file of another type than `write_pairs` writes."""
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{path}: pairs are written to a .csv or a .jsonl file")


def write_pairs(pairs: list[Pair], path: Path) -> None:
    """All pairs, as .csv with a header or as .jsonl with an object a line."""
    check_pairs_name(path)
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        if path.suffix == ".csv":
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Pair._fields)
            writer.writerows(pairs)
        else:
            for pair in pairs:
                line = json.dumps(pair._asdict(), ensure_ascii=False) + "\n"
                # JSON is Unicode: a byte that is none is written as Python keeps it, "\udce9".
                file.write(line.encode(errors="backslashreplace").decode())


def pair_sheet(
    pairs: list[Pair], sets: list[ShardSet], out: Path, *, field: str | None = None, count: int = 24
) -> None:
    """Write a PNG with pairs side by side, the least alike first: these are the ones to judge the limits by.

    Args:
        pairs: As in the report.
        sets: The sets that the pairs name.
        out: File to write.
        field: An image field; None is the first of the first set.
        count: Pairs, at most.
    """
    field = image_field(sets[0], field)
    cell, gap, line = 160, 6, 14
    chosen = sorted(pairs, key=lambda pair: (pair.kind != "near", -pair.distance, pair.likeness))[:count]
    by_path = {str(shards.path): shards for shards in sets}
    numbers: dict[tuple[str, str], int] = {}
    wanted = {side for pair in chosen for side in (pair[3:5], pair[5:7])}
    for path, shards in by_path.items():
        numbers.update({(path, key): i for i in range(len(shards)) if (path, key := shards.key(i)) in wanted})
    columns = 3
    rows = -(-max(len(chosen), 1) // columns)
    width, height = 2 * cell + 3 * gap, cell + line + gap
    sheet = Image.new("RGB", (columns * width, rows * height + gap), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for place, pair in enumerate(chosen):
        row, column = divmod(place, columns)
        left, top = column * width + gap, row * height + gap
        draw.text((left, top), f"{pair.kind}, {pair.distance} bits, likeness {pair.likeness:.3f}", (0, 0, 0))
        for side, (path, key) in enumerate((pair[3:5], pair[5:7])):
            sample = by_path[path].read(numbers[path, key], [field])
            value, orientation = sample[field], orientation_in(sample, field)
            of_pixels = isinstance(value, np.ndarray)
            picture = Image.fromarray(value) if of_pixels else decode_rgb(value, cell, orientation=orientation)
            picture = ImageOps.contain(picture, (cell, cell), Image.Resampling.BICUBIC)
            sheet.paste(picture, (left + side * (cell + gap), top + line))
    sheet.save(out, "PNG")
