"""Is every coefficient of a JPEG there? Reads the codes of all scans and makes no pixels of them.

ITU-T T.81: annex B for the markers, F for sequential scans, G for progressive ones, of any sampling. libjpeg decodes a
picture of which coefficients are missing to its end, and its warnings do not tell them from a few stray bytes, which
cost nothing. Here a picture is whole where each coefficient of each block has its code, whatever else the file holds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from headrace.pipeline.compiled import kernel, kernel_part
from headrace.pipeline.jpeg.huffman import ac_step, build_table, skip_bits, skip_block, skip_dc
from headrace.pipeline.jpeg.markers import (
    APP0,
    APP15,
    COM,
    DAC,
    DHT,
    DNL,
    DQT,
    DRI,
    EOI,
    JPG,
    RST0,
    RST7,
    SOF0,
    SOF15,
    SOI,
    SOS,
    TEM,
    unstuff,
    word,
)
from headrace.pipeline.jpeg.memory import load_word
from headrace.pipeline.jpeg.scan import unread_bits
from headrace.pipeline.jpeg.scratch import DECODED, TABLE_SIZE

WHOLE, UNKNOWN, NO_END, SHORT, MISSING, BAD_CODE, TOO_LONG, BROKEN, NO_TABLE, SCANS = range(10)
"""What `read_scans` finds: all is there; not 8 bits with Huffman codes, or a sampling that libjpeg refuses, so that it
cannot say; no end marker; a scan that ends too early; coefficients that no scan has; bits that are no code; a scan of
more blocks than the picture has; segments that are none; no Huffman table; more than MAX_SCANS."""
MARKERS, TAIL, ALL = range(3)
"""How much it reads: the markers; of a large scan that is the only one the end, since what was cut hardly ever ends
there as an encoder ends; or every code."""
MAX_SCANS = 500
"""Scans of a JPEG. Each runs over the whole picture, so that a small file with a million empty ones decodes for hours;
encoders write about ten."""

_EXTENDED, _PROGRESSIVE = SOF0 + 1, SOF0 + 2
_LARGE = 1 << 15
"""Bytes of a scan that TAIL reads all of."""
_TAIL, _APART, _SETTLED = 2048, 61, 256
"""Bytes at a large scan's end that TAIL reads, twice, from two places so far apart; and how many at the end it must
have read without an error."""
_NEVER = 99
"""Bits that a coefficient lacks of which a scan was left out."""
MOST_OF_MCU = 10
"""Blocks (B.2.3)."""
_HOLE = 4
"""Words of zeros. So many hardly ever occur in a scan; a block that a disk or a download lost has 64 or more."""


class Frame(NamedTuple):
    """Working memory of `read_scans`, beside a `JpegScratch`."""

    components: np.ndarray
    """int64 (4, 8): id, horizontal and vertical sampling, blocks in a row and in a column, number of the first block in
    `coded`, Huffman tables, quantisation."""
    lacks: np.ndarray
    """int64 (4, 64): bits that each coefficient lacks so far, -1 for all."""
    scanned: np.ndarray
    """int64 (4,): numbers of the components of the scan under way."""
    ends: np.ndarray
    """int64 (MAX_SCANS + 1, 2): of each scan, counted from 1, where its data end, and 1 where it has a hole of zeros;
    what MARKERS leaves for TAIL."""


def frame_scratch() -> Frame:
    """Working memory for any JPEG."""
    sizes = ((4, 8), (4, 64), (4,), (MAX_SCANS + 1, 2))
    return Frame(*(np.zeros(size, np.int64) for size in sizes))


@kernel
def read_scans(data, mode, scratch, frame):
    """Read a JPEG up to its end marker.

    Args:
        data: uint8 (bytes of the file,).
        mode: MARKERS, TAIL, which comes behind MARKERS of the same file, or ALL.
        scratch: `jpeg_scratch` for at least this many bytes, of which MARKERS needs none.
        frame: `frame_scratch`.

    Returns: what it finds, the byte of the file where it finds it (where it is WHOLE, behind the end marker), and
    whether the picture is progressive.
    """
    components, lacks = frame.components, frame.lacks
    end, position = len(data), np.int64(2)
    kind, count, scans, restart_interval, tables, quantums = 0, 0, 0, 0, 0, 0
    blocks, mcu_rows, mcu_columns = 0, 0, 0
    coded = np.zeros(1, np.int64)  # a bit per coefficient of a block that is not zero so far, of progressive pictures
    if end < 4 or data[0] != 0xFF or data[1] != SOI:
        return BROKEN, position, False
    while True:
        position = _next_marker(data, position)
        if position + 1 >= end:
            return NO_END, end, kind == _PROGRESSIVE
        marker = np.int64(data[position + 1])
        if marker == EOI:
            break
        if marker == TEM or RST0 <= marker <= RST7:  # markers without a segment
            position += 2
            continue
        if marker == SOI or position + 4 > end or word(data, position + 2) < 2:
            return BROKEN, position, kind == _PROGRESSIVE
        at, length = position + 4, word(data, position + 2)
        position += 2 + length
        if position > end:
            return NO_END, end, kind == _PROGRESSIVE
        if marker == DRI:
            if length != 4:
                return BROKEN, at, kind == _PROGRESSIVE
            restart_interval = word(data, at)
        elif marker == DQT:
            while at < position:
                quantums |= 1 << (data[at] & 15)
                at += 129 if data[at] >> 4 else 65
        elif marker == DHT and mode != MARKERS:
            while at < position:
                if at + 17 > position or (data[at] & 15) > 3 or data[at] > 31:
                    return BROKEN, at, kind == _PROGRESSIVE
                table = np.int64(data[at] >> 4) * 4 + np.int64(data[at] & 15)
                used = build_table(data, at + 1, position, table, scratch)
                if used == 0:
                    return BROKEN, at, kind == _PROGRESSIVE
                tables |= 1 << table
                at += 1 + used
        elif SOF0 <= marker <= SOF15 and marker != DHT and marker != DAC and marker != JPG:
            if marker > _PROGRESSIVE or length < 8 or data[at] != 8:
                return UNKNOWN, at, False
            count = np.int64(data[at + 5])
            if kind or not 1 <= count <= 4 or length != 8 + 3 * count:
                return BROKEN, at, False
            kind = marker
            blocks, mcu_rows, mcu_columns = _read_frame(data, at, count, frame)
            if blocks == 0:
                return UNKNOWN, at, False
            lacks[:] = -1
            if kind == _PROGRESSIVE and mode != MARKERS:
                coded = np.zeros(blocks, np.int64)
        elif marker == SOS:
            scans += 1
            if scans > MAX_SCANS:
                return SCANS, at, kind == _PROGRESSIVE
            found = _read_scan_header(data, at, length, kind, count, frame)
            if found != WHOLE:
                return found, at, kind == _PROGRESSIVE
            for c in frame.scanned[: np.int64(data[at])]:
                if not quantums >> components[c, 7] & 1:
                    return BROKEN, at, kind == _PROGRESSIVE
            if mode == MARKERS:
                position, hole = _scan_end(data, position)
                frame.ends[scans, 0], frame.ends[scans, 1] = position, hole
                continue
            several = np.int64(data[at])
            spectral = at + 1 + 2 * several
            first, last, high = np.int64(data[spectral]), np.int64(data[spectral + 1]), data[spectral + 2] >> 4
            if kind != _PROGRESSIVE:
                first, last, high = 0, 63, 0
            for c in frame.scanned[:several]:
                dc, ac = components[c, 6] >> 4, 4 + (components[c, 6] & 15)
                if dc > 3 or ac > 7:
                    return BROKEN, at, kind == _PROGRESSIVE
                if (first == 0 and high == 0 and not tables >> dc & 1) or (last > 0 and not tables >> ac & 1):
                    return NO_TABLE, at, kind == _PROGRESSIVE  # refining DC takes plain bits, no table
            if mode == TAIL and kind != _PROGRESSIVE and several == count and not restart_interval:
                stop, hole = frame.ends[scans, 0], frame.ends[scans, 1]
                if stop - position > _LARGE:
                    if hole or stop - position < blocks // 4 or not _tail_fits(data, stop, several, scratch, frame):
                        return SHORT, stop, False
                    position = stop
                    continue
            status, segments, stop = unstuff(data, position, restart_interval, scratch)
            if status != DECODED:
                return NO_END if stop == end else BROKEN, stop, kind == _PROGRESSIVE
            mcus = mcu_rows * mcu_columns
            if several == 1:
                mcus = components[frame.scanned[0], 3] * components[frame.scanned[0], 4]
            if kind != _PROGRESSIVE:
                found = _sequential(mcus, several, restart_interval, segments, scratch, frame)
            elif first == 0:
                found = _progressive_dc(mcus, several, high > 0, restart_interval, segments, scratch, frame)
            else:
                found = _progressive_ac(mcus, first, last, high > 0, restart_interval, segments, scratch, frame, coded)
            if found != WHOLE:
                return found, stop, kind == _PROGRESSIVE
            position = stop
        elif not (APP0 <= marker <= APP15 or marker in (COM, DHT, DAC, DNL)):
            return BROKEN, at, kind == _PROGRESSIVE
    if not kind:
        return BROKEN, position, False
    for c in range(count):
        for k in range(64):
            if lacks[c, k]:
                return MISSING, position, kind == _PROGRESSIVE
    return WHOLE, position + 2, kind == _PROGRESSIVE


@kernel
def _next_marker(data, position):
    """The place of the next FF that begins a marker; bytes before it belong to none, and libjpeg skips them, too."""
    end = len(data)
    while position + 1 < end and (data[position] != 0xFF or data[position + 1] == 0 or data[position + 1] == 0xFF):
        position += 1
    return position


@kernel
def _scan_end(data, position):
    """The place of the marker that ends a scan's data, or the file's end; and whether there is a hole of zeros."""
    end = len(data)
    zeros, hole = 0, False
    while position + 1 < end:
        while position + 8 <= end:
            eight = load_word(data.ctypes.data + position)
            inverse = ~eight
            if (inverse - np.uint64(0x0101010101010101)) & eight & np.uint64(0x8080808080808080):
                break
            if eight:
                zeros = 0
            else:
                zeros += 1
                hole |= zeros >= _HOLE
            position += 8
        if position + 1 >= end:
            break
        if data[position] == 0xFF:
            zeros = 0
            follower = data[position + 1]
            if follower != 0 and follower != 0xFF and not RST0 <= follower <= RST7:
                return position, hole
        position += 1
    return end, hole


@kernel
def _read_frame(data, at, count, frame):
    """Fills `frame.components`. Returns all blocks, 0 for a frame that libjpeg refuses; rows and columns of MCUs."""
    components = frame.components
    height, width = word(data, at + 1), word(data, at + 3)
    most_across = most_down = 1
    for c in range(count):
        entry = at + 6 + 3 * c
        components[c, 0] = data[entry]
        components[c, 1], components[c, 2] = data[entry + 1] >> 4, data[entry + 1] & 15
        components[c, 7] = data[entry + 2] & 15
        if not (1 <= components[c, 1] <= 4 and 1 <= components[c, 2] <= 4):
            return 0, 0, 0
        most_across, most_down = max(most_across, components[c, 1]), max(most_down, components[c, 2])
    blocks, of_mcu = 0, 0
    for c in range(count):
        of_mcu += components[c, 1] * components[c, 2]
        if most_across % components[c, 1] or most_down % components[c, 2] or of_mcu > MOST_OF_MCU:
            return 0, 0, 0
        columns = (width * components[c, 1] + most_across - 1) // most_across
        rows = (height * components[c, 2] + most_down - 1) // most_down
        components[c, 3], components[c, 4], components[c, 5] = (columns + 7) // 8, (rows + 7) // 8, blocks
        blocks += components[c, 3] * components[c, 4]
    mcu_height, mcu_width = 8 * most_down, 8 * most_across
    return blocks, (height + mcu_height - 1) // mcu_height, (width + mcu_width - 1) // mcu_width


@kernel
def _read_scan_header(data, at, length, kind, count, frame):
    """B.2.3 and G.1.1.1.1 of T.81. Fills `frame.scanned` and notes in `frame.lacks` what the scan brings."""
    if length < 8:  # so short, it may be at the file's end
        return BROKEN
    several = np.int64(data[at])
    if not kind or not 1 <= several <= 4 or length != 6 + 2 * several:
        return BROKEN
    spectral = at + 1 + 2 * several
    first, last = np.int64(data[spectral]), np.int64(data[spectral + 1])
    high, low = np.int64(data[spectral + 2] >> 4), np.int64(data[spectral + 2] & 15)
    if kind != _PROGRESSIVE:
        first, last, high, low = 0, 63, 0, 0
    elif (
        last > 63
        or (first == 0 and last != 0)
        or first > last
        or (first > 0 and several > 1)
        or low > 13
        or (high and high != low + 1)
    ):
        return BROKEN
    for number in range(several):
        c = 0
        while c < count and frame.components[c, 0] != data[at + 1 + 2 * number]:
            c += 1
        if c == count:
            return BROKEN
        frame.scanned[number] = c
        frame.components[c, 6] = data[at + 2 + 2 * number]
        for k in range(first, last + 1):
            follows = kind != _PROGRESSIVE or frame.lacks[c, k] == (high if high else -1)
            frame.lacks[c, k] = low if follows else _NEVER
    return WHOLE


@kernel
def _sequential(mcus, several, restart_interval, segments, scratch, frame):
    """All blocks of a scan of annex F."""
    stream = scratch.stream.ctypes.data
    interval = restart_interval if restart_interval else mcus
    segment, done = 0, 0
    bits, available, position = np.uint64(0), np.int64(0), np.int64(0)
    while True:
        for _ in range(min(interval, mcus - done)):
            bits, available, position, good = _skip_mcu(stream, bits, available, position, several, scratch, frame)
            if not good:
                return BAD_CODE
            if unread_bits(available, position, scratch.segments[segment + 1]) < 0:
                return SHORT
        done += interval
        segment += 1
        if done >= mcus:
            break
        if segment >= segments:
            return SHORT
        bits, available, position = np.uint64(0), np.int64(0), scratch.segments[segment]
    # Stray bytes behind the last block cost nothing. Where they are blocks, others were lost before them.
    end = scratch.segments[segment]
    if unread_bits(available, position, end) >= 8:
        while True:
            bits, available, position, good = _skip_mcu(stream, bits, available, position, several, scratch, frame)
            unread = unread_bits(available, position, end)
            if not good or unread < 0:
                break
            if unread < 8:
                return TOO_LONG
    return WHOLE


@kernel
def _skip_mcu(stream, bits, available, position, several, scratch, frame):
    """Past one MCU: the reader, and whether all bits were codes."""
    components = frame.components
    for number in range(several):
        c = frame.scanned[number]
        dc_table = scratch.tables.ctypes.data + TABLE_SIZE * (components[c, 6] >> 4)
        ac_table = scratch.tables.ctypes.data + TABLE_SIZE * (4 + (components[c, 6] & 15))
        for _ in range(components[c, 1] * components[c, 2] if several > 1 else 1):
            bits, available, position, _dc, found = skip_block(
                stream, bits, available, position, np.int64(0), dc_table, ac_table
            )
            if found < 0:
                return bits, available, position, False
    return bits, available, position, True


@kernel
def _tail_fits(data, stop, several, scratch, frame):
    """Does a large scan end where an MCU does, filled up with ones to a whole byte?

    Codes can be read from anywhere: after some wrong ones the reader falls into step. Two that began at different
    places and agree have done so.
    """
    begin = stop - _TAIL
    if data[begin - 1] == 0xFF:
        begin += 1
    status, segments, _stop = unstuff(data, begin, 0, scratch)
    end = scratch.segments[1]
    if status != DECODED or segments != 1:
        return False
    one, one_since = _last_mcu(0, end, several, scratch, frame)
    other, other_since = _last_mcu(_APART, end, several, scratch, frame)
    padding = (1 << (8 * end - one)) - 1
    settled = one >= 0 and one == other and max(one_since, other_since) < end - _SETTLED
    return settled and scratch.stream[end - 1] & padding == padding


@kernel
def _last_mcu(begin, end, several, scratch, frame):
    """The bit behind the last MCU, of those that are read from a byte on, -1 where it is not in the last byte; and the
    byte from which on there was no error."""
    stream = scratch.stream.ctypes.data
    bits, available, position = np.uint64(0), np.int64(0), np.int64(begin)
    while position < end:
        bits, available, position, good = _skip_mcu(stream, bits, available, position, several, scratch, frame)
        unread = unread_bits(available, position, end)
        if not good:
            begin = position = max(end - (unread >> 3), begin + 1)
            bits, available = np.uint64(0), np.int64(0)
        elif unread < 8:
            return 8 * end - unread if unread >= 0 else np.int64(-1), begin
    return np.int64(-1), begin


@kernel
def _progressive_dc(mcus, several, refines, restart_interval, segments, scratch, frame):
    """All blocks of a scan of G.1.2.1."""
    components, stream = frame.components, scratch.stream.ctypes.data
    interval = restart_interval if restart_interval else mcus
    segment, done = 0, 0
    bits, available, position = np.uint64(0), np.int64(0), np.int64(0)
    while True:
        for _ in range(min(interval, mcus - done)):
            for number in range(several):
                c = frame.scanned[number]
                table = scratch.tables.ctypes.data + TABLE_SIZE * (components[c, 6] >> 4)
                blocks = components[c, 1] * components[c, 2] if several > 1 else 1
                if refines:
                    bits, available, position = skip_bits(stream, bits, available, position, blocks)
                    continue
                for _ in range(blocks):
                    bits, available, position, good = skip_dc(stream, bits, available, position, table)
                    if not good:
                        return BAD_CODE
            if unread_bits(available, position, scratch.segments[segment + 1]) < 0:
                return SHORT
        done += interval
        segment += 1
        if done >= mcus:
            return WHOLE
        if segment >= segments:
            return SHORT
        bits, available, position = np.uint64(0), np.int64(0), scratch.segments[segment]


@kernel
def _progressive_ac(blocks, first, last, refines, restart_interval, segments, scratch, frame, coded):
    """All blocks of a scan of G.1.2.2 or G.1.2.3, which has one component."""
    c = frame.scanned[0]
    base = frame.components[c, 5]
    table = scratch.tables.ctypes.data + TABLE_SIZE * (4 + (frame.components[c, 6] & 15))
    stream = scratch.stream.ctypes.data
    interval = restart_interval if restart_interval else blocks
    segment, done = 0, 0
    bits, available, position = np.uint64(0), np.int64(0), np.int64(0)
    while True:
        ended = np.int64(0)  # blocks that end without a code of their own
        for block in range(base + done, base + min(done + interval, blocks)):
            k = first
            while k <= last and not ended:
                bits, available, position, run, value, length = ac_step(stream, bits, available, position, table)
                if length == 0:
                    return BAD_CODE
                if value == 0 and run < 15:
                    bits, available, position, ended = _ended_blocks(stream, bits, available, position, run)
                    break
                if not refines:
                    k += run
                    if k > 63:
                        return BAD_CODE
                    if value:
                        coded[block] |= np.int64(1) << k
                else:
                    if value * value > 1:
                        return BAD_CODE
                    corrections = 0
                    while k <= last:
                        if coded[block] >> k & 1:
                            corrections += 1
                        elif run == 0:
                            break
                        else:
                            run -= 1
                        k += 1
                    bits, available, position = skip_bits(stream, bits, available, position, corrections)
                    if value and k <= last:
                        coded[block] |= np.int64(1) << k
                k += 1
            if ended:
                if refines:
                    corrections = 0
                    while k <= last:
                        corrections += coded[block] >> k & 1
                        k += 1
                    bits, available, position = skip_bits(stream, bits, available, position, corrections)
                ended -= 1
            if unread_bits(available, position, scratch.segments[segment + 1]) < 0:
                return SHORT
        if ended:
            return TOO_LONG
        done += interval
        segment += 1
        if done >= blocks:
            return WHOLE
        if segment >= segments:
            return SHORT
        bits, available, position = np.uint64(0), np.int64(0), scratch.segments[segment]


@kernel_part
def _ended_blocks(stream, bits, available, position, run):
    """How many blocks end here: two to the power of `run`, and as many more as the bits behind it say."""
    bits, available, position = skip_bits(stream, bits, available, position, 0)  # which refills
    more = np.int64((bits >> np.uint64(1)) >> np.uint64(63 - run))
    bits, available, position = skip_bits(stream, bits, available, position, run)
    return bits, available, position, (np.int64(1) << run) + more
