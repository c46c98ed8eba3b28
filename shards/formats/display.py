"""How a video says that its frames are to be shown, as a number from 1 to 8 (`headrace.shards.formats.orientation`).

The containers that can say it are ISO's (mp4, mov, 3gp), with a matrix for each track and one for the whole film
(ISO 14496-12, 6.2.2, 8.2.2 and 8.3.2), and Matroska (mkv, webm), with a projection that is rolled or mirrored
(RFC 9559, 5.1.4.1.28.41). FFmpeg turns frames by the same numbers. A turn by another angle than quarters, which FFmpeg
would draw into a larger frame, becomes the nearest quarter. What only the coded picture itself says (in H.264 and HEVC)
does not count. Damaged boxes are 1: what is wrong with a file is for its decoder to say.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

from headrace.shards.formats.containers import EBML, ISO, SEGMENT
from headrace.shards.formats.orientation import UPRIGHT

Turn = tuple[float, float, float, float]
"""(a, b, c, d): a pixel x to the right and y down is shown at a x + c y to the right and b x + d y down."""
IDENTITY: Turn = (1.0, 0.0, 0.0, 1.0)
BOXES = 1 << 12
"""Boxes or elements of a level that are looked at; files have a dozen."""
NUMBERS = {
    (False, False, False): 1,
    (False, True, False): 2,
    (False, True, True): 3,
    (False, False, True): 4,
    (True, False, False): 5,
    (True, True, False): 6,
    (True, True, True): 7,
    (True, False, True): 8,
}
"""By (rows and columns exchanged, mirrored left to right, mirrored top to bottom)."""


def video_orientation(encoding: str, data: bytes, number: int, identity: int) -> int:
    """The orientation of a video stream, 1 to 8.

    Args:
        encoding: Type of the file, as `headrace.shards.formats.media` tells it.
        data: The file.
        number: Which of its video streams, from 0.
        identity: What the container calls it, FFmpeg's id of the stream.
    """
    try:
        if encoding in ISO:
            return orientation_of_turn(turn_of_track(data, identity))
        if encoding in EBML:
            return orientation_of_turn(turn_of_projection(data, number))
    except (struct.error, IndexError):
        pass  # cut off
    return UPRIGHT


def orientation_of_turn(turn: Turn) -> int:
    """The nearest of the eight; 1 for a matrix that is none."""
    a, b, c, d = turn
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return NUMBERS[False, a < 0, d < 0]
    return NUMBERS[True, c < 0, b < 0]


def turn_of_track(data: bytes, identity: int) -> Turn:
    """What the boxes tkhd of a track and mvhd of the film say, one after the other."""
    film, track = IDENTITY, IDENTITY
    for _, begin, end in named(boxes(data, 0, len(data)), b"moov"):
        for name, start, stop in boxes(data, begin, end):
            if name == b"mvhd":
                film = matrix(data, start + (48 if data[start] == 1 else 36))
            elif name == b"trak":
                for _, at, _ in named(boxes(data, start, stop), b"tkhd"):
                    long = data[at] == 1  # times of 8 bytes
                    (found,) = struct.unpack_from(">I", data, at + (20 if long else 12))
                    if found == identity:
                        track = matrix(data, at + (52 if long else 40))
    (a, b, c, d), (e, f, g, h) = track, film
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h


def matrix(data: bytes, at: int) -> Turn:
    """The four numbers of a matrix of nine that turn; they have 16 bits behind the point."""
    a, b, _, c, d = struct.unpack_from(">5i", data, at)
    return (a / 65536, b / 65536, c / 65536, d / 65536) if a or b or c or d else IDENTITY


Place = tuple[bytes, int, int]
"""Name of a box or element, first byte of its content, and the byte behind it."""


def named(places: Iterator[Place], name: bytes) -> Iterator[Place]:
    """Those of one name."""
    return (place for place in places if place[0] == name)


def boxes(data: bytes, at: int, end: int) -> Iterator[Place]:
    """The boxes of a level (ISO 14496-12, 4.2)."""
    for _ in range(BOXES):
        if at + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        stop = end if size == 0 else at + size
        if not start <= stop <= end:
            return
        yield name, start, stop
        at = stop


TRACKS, TRACK, TRACK_TYPE, PICTURE = b"\x16\x54\xae\x6b", b"\xae", b"\x83", b"\xe0"
PROJECTION, YAW, PITCH, ROLL = b"\x76\x70", b"\x76\x73", b"\x76\x74", b"\x76\x75"
"""Identifiers of elements (RFC 9559, 5.1.4)."""


def turn_of_projection(data: bytes, number: int) -> Turn:
    """What the projection of a video track says: so many degrees of roll, anticlockwise where positive, and mirrored by
    a yaw of 180."""
    for _, begin, end in named(elements(data, 0, len(data)), SEGMENT):
        for _, start, stop in named(elements(data, begin, end), TRACKS):
            tracks = [list(elements(data, *track[1:])) for track in named(elements(data, start, stop), TRACK)]
            videos = [track for track in tracks if any(n == TRACK_TYPE and data[a:z] == b"\x01" for n, a, z in track)]
            angles = {
                name: real(data[a:z])
                for _, *picture in named(iter(videos[number]), PICTURE)
                for _, *projection in named(elements(data, *picture), PROJECTION)
                for name, a, z in elements(data, *projection)
            }
            yaw, roll = angles.get(YAW, 0.0), math.radians(angles.get(ROLL, 0.0))
            if yaw not in (0.0, 180.0, -180.0) or angles.get(PITCH):
                return IDENTITY  # a sphere, looked at from its middle
            roll = -roll if yaw else roll
            cosine, sine = math.cos(roll), math.sin(roll)
            side = -1.0 if yaw else 1.0
            return side * cosine, -sine, side * sine, cosine
    return IDENTITY


def real(content: bytes) -> float:
    """A number of 0, 4 or 8 bytes; 0 for others."""
    if len(content) in (4, 8):
        (number,) = struct.unpack(">f" if len(content) == 4 else ">d", content)
        return float(number) if math.isfinite(number) else 0.0
    return 0.0


def elements(data: bytes, at: int, end: int) -> Iterator[Place]:
    """The elements of a level (RFC 8794, 4); one of unknown size, as of a film written into a pipe, goes on to the
    end."""
    for _ in range(BOXES):
        if at >= end or not data[at]:
            return
        place = at + 9 - data[at].bit_length()  # behind the identifier
        if place >= end or not data[place]:
            return
        width = 9 - data[place].bit_length()
        size = int.from_bytes(data[place : place + width], "big") - (1 << 7 * width)
        start = place + width
        stop = end if size == (1 << 7 * width) - 1 else start + size
        if not start <= stop <= end:
            return
        yield data[at:place], start, stop
        at = stop
