"""The file's markers: tables and frame up to the scan (annex B of T.81), and the scan's bytes without stuffing."""

from __future__ import annotations

import numpy as np

from headrace.pipeline.compiled import inlined, kernel
from headrace.pipeline.jpeg.huffman import build_table
from headrace.pipeline.jpeg.memory import load_word, store_word
from headrace.pipeline.jpeg.scratch import DAMAGED, DECODED, STREAM_SLACK, UNSUPPORTED

# Marker codes, table B.1 of T.81.
SOF0, DHT, EOI, SOS, DQT, DRI, APP0, APP14, APP15, COM = (
    0xC0,
    0xC4,
    0xD9,
    0xDA,
    0xDB,
    0xDD,
    0xE0,
    0xEE,
    0xEF,
    0xFE,
)
RST0, RST7, SOI, TEM = 0xD0, 0xD7, 0xD8, 0x01
JPG, DAC, SOF15, DNL = 0xC8, 0xCC, 0xCF, 0xDC


@inlined
def word(data, position):
    """16 bits."""
    return (np.int64(data[position]) << 8) | np.int64(data[position + 1])


@kernel
def read_header(data, height, width, scratch):
    """Markers up to the scan. Returns status, where the scan's data begins, components, restart interval."""
    end = len(data)
    position = 2
    count = 0
    restart_interval = 0
    colour_transform = -1
    tables = 0  # bit per Huffman table seen
    quantums = 0  # bit per quantisation table seen
    if end < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return DAMAGED, 0, 0, 0
    while position + 4 <= end:
        if data[position] != 0xFF:
            return DAMAGED, 0, 0, 0
        marker = np.int64(data[position + 1])
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = word(data, position + 2)
        at = position + 4
        position += 2 + length
        if length < 2 or position > end:
            return DAMAGED, 0, 0, 0
        if marker == DQT:
            while at < position:
                if data[at] > 3:  # 16-bit steps, or no such table
                    return UNSUPPORTED, 0, 0, 0
                if at + 65 > position:
                    return DAMAGED, 0, 0, 0
                quantums |= 1 << data[at]
                for k in range(64):
                    scratch.quantum[data[at], scratch.natural[k]] = data[at + 1 + k]
                at += 65
        elif marker == DHT:
            while at < position:
                if at + 17 > position or (data[at] & 15) > 3 or data[at] > 31:
                    return DAMAGED, 0, 0, 0
                table = np.int64(data[at] >> 4) * 4 + np.int64(data[at] & 15)
                used = build_table(data, at + 1, position, table, scratch)
                if used == 0:
                    return DAMAGED, 0, 0, 0
                tables |= 1 << table
                at += 1 + used
        elif marker == SOF0:
            if length < 8 or count > 0:
                return DAMAGED, 0, 0, 0
            count = np.int64(data[at + 5])
            if data[at] != 8 or (count != 1 and count != 3) or length != 8 + 3 * count:
                return UNSUPPORTED, 0, 0, 0
            if word(data, at + 1) != height or word(data, at + 3) != width:
                return DAMAGED, 0, 0, 0
            for c in range(count):
                entry = at + 6 + 3 * c
                component = scratch.components[c]
                component[0] = data[entry]
                component[1] = data[entry + 1] >> 4
                component[2] = data[entry + 1] & 15
                component[3] = data[entry + 2]
                if component[3] > 3:
                    return DAMAGED, 0, 0, 0
        elif marker == DRI:
            if length != 4:
                return DAMAGED, 0, 0, 0
            restart_interval = word(data, at)
        elif marker == APP0:
            if length >= 16 and data[at] == 0x4A and data[at + 1] == 0x46 and data[at + 5] != 1:  # "JF(IF)", revision
                return DAMAGED, 0, 0, 0
        elif marker == APP14:
            if length >= 14 and data[at] == 0x41 and data[at + 1] == 0x64:  # "Ad(obe)"
                colour_transform = np.int64(data[at + 11])
        elif marker == SOS:
            if count == 0 or length != 6 + 2 * count or np.int64(data[at]) != count:
                return UNSUPPORTED, 0, 0, 0
            tail = at + 1 + 2 * count
            if data[tail] != 0 or data[tail + 1] != 63 or data[tail + 2] != 0:  # not one sequential scan
                return DAMAGED, 0, 0, 0
            for c in range(count):
                selector = np.int64(data[at + 2 + 2 * c])
                component = scratch.components[c]
                component[4] = selector >> 4
                component[5] = 4 + (selector & 15)
                known = component[4] <= 3 and component[5] <= 7
                if np.int64(data[at + 1 + 2 * c]) != component[0] or not known:
                    return UNSUPPORTED, 0, 0, 0
                if not (tables >> component[4] & 1 and tables >> component[5] & 1 and quantums >> component[3] & 1):
                    return DAMAGED, 0, 0, 0
            if not _samples_supported(count, colour_transform, width, height, scratch.components):
                return UNSUPPORTED, 0, 0, 0
            return DECODED, position, count, restart_interval
        elif marker != COM and not APP0 < marker <= APP15:  # another kind of frame, arithmetic coding, no scan, ...
            return UNSUPPORTED, 0, 0, 0
    return DAMAGED, 0, 0, 0


@kernel
def _samples_supported(count, colour_transform, width, height, components):
    """Grey; or YCbCr with 4:4:4, 4:2:2 or 4:2:0 chroma."""
    if width < 8 or height < 8:  # libjpeg-turbo upsamples the narrowest images in another way
        return False
    if count == 1:
        components[0, 1] = components[0, 2] = 1  # one component is never interleaved: sampling does not matter
        return True
    if colour_transform == 0:
        return False
    # Without an Adobe marker, components named R, G, B are RGB.
    if components[0, 0] == 82 and components[1, 0] == 71 and components[2, 0] == 66:
        return False
    for c in (1, 2):
        if components[c, 1] != 1 or components[c, 2] != 1:
            return False
    h, v = components[0, 1], components[0, 2]
    return (h == 1 and v == 1) or (h == 2 and v == 1) or (h == 2 and v == 2)


@kernel
def unstuff(data, begin, restart_interval, scratch):
    """Copy a scan, which begins at `begin`, without stuffed zero bytes.

    Returns: DECODED, or DAMAGED where the data ends or restart markers are out of order; the number of restart
    segments; and where the marker is that ends the scan, or the data.
    """
    stream, segments = scratch.stream, scratch.segments
    end = len(data)
    position = begin
    written = 0
    count = 1
    segments[0] = 0
    while position < end:
        # Eight bytes at a time while none is 0xFF.
        while position + 8 <= end:
            word = load_word(data.ctypes.data + position)
            inverse = ~word
            if (inverse - np.uint64(0x0101010101010101)) & word & np.uint64(0x8080808080808080):
                break
            store_word(stream.ctypes.data + written, word)
            position += 8
            written += 8
        byte = data[position]
        if byte != 0xFF:
            stream[written] = byte
            written += 1
            position += 1
            continue
        if position + 1 >= end:
            return DAMAGED, 0, end
        follower = data[position + 1]
        if follower == 0:
            stream[written] = 0xFF
            written += 1
            position += 2
        elif follower == 0xFF:
            position += 1
        elif RST0 <= follower <= RST7:
            if restart_interval == 0 or np.int64(follower) != RST0 + (count - 1) % 8:
                return DAMAGED, 0, position
            segments[count] = written
            count += 1
            position += 2
        else:
            segments[count] = written
            stream[written : written + STREAM_SLACK] = 0
            return DECODED, count, position
    return DAMAGED, 0, end


@kernel
def only_scan(data, begin, restart_interval, scratch):
    """`unstuff` of a scan behind which the picture ends: status, and the number of restart segments."""
    status, segments, stop = unstuff(data, begin, restart_interval, scratch)
    if status == DECODED and data[stop + 1] != EOI:  # more scans
        return UNSUPPORTED, 0
    return status, segments
