"""Sound files, as whoever trains on them decodes them: what they hold, and whether all of it is there."""

from __future__ import annotations

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.sounds.decode import ENCODINGS, open_sound
from headrace.shards.formats.containers import check_whole, sized
from headrace.tools.media.videos import AudioInfo, probe_audio

EXACT = ("flac", "wav")
"""Types whose headers say how many samples there are."""
PAGED = ("ogg", "opus")
"""Types in pages that have checksums. Decoders leave out a page that differs from its own, and say nothing."""


def _table() -> np.ndarray:
    """uint32 (256,): of the polynomial 0x04c11db7, not reflected."""
    table = np.arange(256, dtype=np.uint32) << np.uint32(24)
    for _ in range(8):
        table = table << np.uint32(1) ^ (table >> np.uint32(31)) * np.uint32(0x04C11DB7)
    return table


_TABLE = _table()


def probe_sound(data: bytes) -> AudioInfo:
    """Decode a sound to its end, with FFmpeg, which stops at damaged frames, and open it as loaders do, with
    libsndfile, which decodes what cannot be entered in the middle (OGG, Opus, MP3).

    Raises:
        ValueError: with the reason, where it is cut off, does not decode or is shorter than its header says, or of a
            type that loaders do not read.
    """
    found = check_whole("audio", data)
    if found not in ENCODINGS:
        raise ValueError(f"files of the type {found} are not read by loaders; make it one of {', '.join(ENCODINGS)}")
    if found in PAGED and (at := _damaged_page(np.frombuffer(data, np.uint8), _TABLE)) >= 0:
        raise ValueError(f"damaged: the page at offset {at} differs from its checksum")
    info = probe_audio(sized(found, data))
    with open_sound(data) as sound:
        samples = round(info.seconds * info.rate)
        if found in EXACT and samples != sound.length:
            raise ValueError(f"{samples:,} of {sound.length:,} samples decode")
    return info


@kernel
def _damaged_page(data, table):
    """Offset of the first page whose checksum is not that of its bytes with four zeros in its place (RFC 3533, 6); -1
    for none. The file is whole, see `check_ogg`."""
    at = 0
    while (
        at + 27 <= len(data) and data[at] == 79 and data[at + 1] == 103 and data[at + 2] == 103 and data[at + 3] == 83
    ):
        body = at + 27 + np.int64(data[at + 26])
        end = body
        for place in range(at + 27, body):
            end += np.int64(data[place])
        crc, wanted = np.uint32(0), np.uint32(0)
        for place in range(at, end):
            byte = np.uint32(data[place])
            if at + 22 <= place < at + 26:
                wanted |= byte << np.uint32(8 * (place - at - 22))
                byte = np.uint32(0)
            crc = np.uint32(crc << np.uint32(8)) ^ table[(crc >> np.uint32(24)) ^ byte]
        if crc != wanted:
            return at
        at = end
    return -1
