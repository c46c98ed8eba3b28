"""How a conversion stores what it reads: images as files or pixels, videos as files or stacks of frames."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from headrace.pipeline.images.decode import decode_rgb, fast_jpeg, shrink, to_pixels
from headrace.pipeline.images.limits import MAX_PIXELS, check_pixels
from headrace.pipeline.images.reading import file_orientation, open_image, texts_fit
from headrace.pipeline.images.whole import Damaged, check_whole
from headrace.shards import JPG, Field
from headrace.shards.formats.images import image_header
from headrace.shards.formats.orientation import UPRIGHT, Orientation, turned
from headrace.shards.manifest import Format
from headrace.tools.errors import UserError
from headrace.tools.media.images import to_jpeg, to_png

Encode = Literal["keep", "jpeg", "raw", "smart", "proportion", "frames"]
IMAGE_FIELD_ENCODINGS = {"keep": "mixed", "jpeg": "jpg", "raw": "raw", "smart": "mixed", "proportion": "mixed"}

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """How images and videos are stored. What it decides for a sample depends on the sample and its key alone."""

    encode: Encode = "keep"
    """keep: JPEG and PNG files that any decoder reads as 8-bit grey or RGB stay as they are, byte for byte, each
    in its own encoding, and raw pixels stay raw; every other image (WebP, palette, alpha, 16 bits, CMYK, a JPEG that
    is damaged but not truncated, a PNG with texts beyond Pillow's limits, in a .beton also PNG) becomes RGB and is
    stored without loss, as PNG in a tar and raw in a .beton. jpeg: every image is encoded anew; an ordinary JPEG
    (baseline, 4:2:0 chroma) that keeps its size goes from coefficients to coefficients, which loses less than to go
    through pixels. raw: every image is decoded to RGB pixels. smart and proportion are ffcv's: pixels up to
    `smart_threshold` bytes and a JPEG above, or a JPEG with `compress_probability`. frames: videos become stacks of
    frames. Videos and sounds stay as they are under keep."""
    max_side: int | None = None
    """Longer images are shrunk to this many pixels, which encodes them anew also under keep; None turns it off."""
    short_side: int | None = None
    """Likewise for the shorter side; of frames the side of the square that is cut from the middle."""
    quality: int = 90
    """JPEG quality, 1 to 100, where a JPEG is made."""
    smart_threshold: int = 1 << 18
    """Bytes of pixels above which smart makes a JPEG."""
    compress_probability: float = 0.5
    """Share of the images of which proportion makes JPEGs, 0 to 1."""
    frames: int = 16
    """Frames of a stack."""
    frame_stride: int = 4
    """A stack takes every n-th frame."""
    strict: bool = False
    """Decode every video that is kept to its end, instead of looking at its beginning and end only."""
    quick: bool = False
    """Look at the end of a large JPEG's scan, and at the checksums of a large PNG's chunks, instead of reading all of
    an image that is kept."""
    max_pixels: int = MAX_PIXELS
    """Images with more are left out, but for JPEGs that are shrunk anyway and are within it at a half, a quarter or an
    eighth."""
    orientation: Orientation | None = None
    """apply: pictures and videos are shown as their files say: what is kept as it is is turned by whoever shows it,
    what is stored as pixels or encoded anew is turned before. ignore: as they are stored. None is what the source
    says, see `Field.oriented`."""
    format: Format = "webdataset"
    """Format of the set, which decides how keep stores what it cannot keep."""

    def __post_init__(self) -> None:
        known = (*IMAGE_FIELD_ENCODINGS, "frames")
        if self.encode not in known:
            raise UserError(f"encode must be one of {', '.join(known)}, got {self.encode!r}")
        for name in ("max_side", "short_side"):
            side = getattr(self, name)
            if side is not None and side < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1 pixel, got {side}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality must lie between 1 and 100, got {self.quality}")
        if not 0 <= self.compress_probability <= 1:
            raise UserError(f"compress probability must lie between 0 and 1, got {self.compress_probability}")
        for name in ("smart_threshold", "frames", "frame_stride", "max_pixels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1, got {getattr(self, name)}")
        if self.orientation not in (None, "apply", "ignore"):
            raise UserError(f"orientation must be apply or ignore, got {self.orientation!r}")
        if self.encode == "frames" and self.short_side is None:
            raise UserError("frames need a short side, the side of the stored squares in pixels")

    def load(self, fields: Mapping[str, Field]) -> None:
        """Load the compiler, and what it made or makes of the kernels that read a JPEG's codes, where a source's fields
        may hold JPEGs: before processes are forked that would each do it again, and so that a machine that cannot does
        not look like a bad picture."""
        if any(field.kind == "image" and field.encoding not in ("raw", "png") for field in fields.values()):
            check_whole(to_jpeg(np.zeros((16, 16, 3), np.uint8), self.quality))

    def fields(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """A source's fields as they are stored; UserError where there is nothing that `encode` applies to."""
        kinds = {field.kind for field in fields.values()}
        wanted = "video" if self.encode == "frames" else "image"
        if self.encode != "keep" and wanted not in kinds:
            raise UserError(f"--encode {self.encode} is for {wanted}s, and the source has none; use keep")
        return {name: self._field(field) for name, field in fields.items()}

    def _field(self, field: Field) -> Field:
        if field.kind == "image":
            encoding: Any = IMAGE_FIELD_ENCODINGS.get(self.encode, "mixed")
            return replace(field, encoding=encoding, oriented=self.turns(field))
        if field.kind == "video" and self.encode == "frames":
            side = self.short_side or 0
            return Field(kind="array", dtype="|u1", shape=(self.frames, side, side, 3))
        if field.kind == "video":
            return replace(field, as_stored=not self.turns(field))
        return field

    def stored(self, field: Field, key: str, value: Any) -> Any:
        """The value of a source's field as it is stored; ValueError with the reason where it does not decode."""
        if field.kind == "image":
            return self._image(key, value, self.turns(field))
        if field.kind == "video" and self.encode == "frames":
            return self._frames(value, self.turns(field))
        if field.kind == "video" and self.strict:
            from headrace.tools.media.videos import probe_video  # needs an extra

            probe_video(value, whole=True)
        return value

    def turns(self, field: Field) -> bool:
        """Whether the pictures or videos of a source's field are shown as their files say."""
        if self.orientation is not None:
            return self.orientation == "apply"
        return field.oriented if field.kind == "image" else not field.as_stored

    def _image(self, key: str, value: bytes | Pixels, turns: bool) -> bytes | Pixels:
        if isinstance(value, np.ndarray):
            height, width = value.shape[:2]
            check_pixels(width, height, self.max_pixels)
            limit = self._limit(width, height)
            makes_jpeg = self._makes_jpeg(key, width, height)
            if limit is None and not makes_jpeg:
                return value
            pixels = value if limit is None else to_pixels(shrink(Image.fromarray(value), limit))
        elif self.encode in ("keep", "frames"):
            return self._kept(value, turns)
        else:
            orientation = file_orientation(value) if turns else UPRIGHT
            plain = self._plain_jpeg(key, value, orientation)
            if isinstance(plain, bytes):
                return plain
            pixels = to_pixels(self._decoded(value, orientation)) if plain is None else plain
            makes_jpeg = self._makes_jpeg(key, pixels.shape[1], pixels.shape[0])
        return to_jpeg(pixels, self.quality) if makes_jpeg else pixels

    def _makes_jpeg(self, key: str, width: int, height: int) -> bool:
        if self.encode == "smart":
            return 3 * width * height > self.smart_threshold
        if self.encode == "proportion":
            drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") / (1 << 64)
            return drawn < self.compress_probability
        return self.encode == "jpeg"

    def _limit(self, width: int, height: int) -> int | None:
        """What the longer side must not exceed; None where the image is small enough."""
        long, short = max(width, height), min(width, height)
        limit = long if self.max_side is None else min(long, self.max_side)
        if self.short_side is not None and short > self.short_side:
            limit = min(limit, max(1, round(self.short_side * long / short)))
        return limit if limit < long else None

    def _plain_jpeg(self, key: str, data: bytes, orientation: int) -> bytes | Pixels | None:
        """What becomes of an ordinary JPEG that needs no shrinking; None for others.

        A JPEG of the wanted quality, where one is to be made and can be made of the coefficients; else the pixels that
        Pillow would find, in less time.
        """
        from headrace.pipeline.jpeg import decode_whole, transcode  # takes seconds, and pixels need none of it

        try:
            header = image_header(data)
            if header.encoding != JPG or not header.plain or self._limit(header.width, header.height) is not None:
                return None
            check_pixels(header.width, header.height, self.max_pixels)
            if orientation == UPRIGHT and self._makes_jpeg(key, header.width, header.height):
                jpeg = transcode(data, header.height, header.width, self.quality)
                if jpeg is not None:
                    return jpeg
            pixels = decode_whole(data, header.height, header.width)
            pixels = fast_jpeg(data, max_pixels=self.max_pixels) if pixels is None else pixels
            return np.ascontiguousarray(turned(pixels, orientation))
        except ValueError:
            return None  # Pillow has the last word

    def _decoded(self, data: bytes, orientation: int) -> Image.Image:
        limit = None
        if self.max_side is not None or self.short_side is not None:
            limit = self._limit(*open_image(data).size)
        return decode_rgb(data, limit, max_pixels=self.max_pixels, orientation=orientation, mend=True)

    def _kept(self, data: bytes, turns: bool) -> bytes | Pixels:
        """The file itself if readers can use it, else its pixels without loss."""
        try:
            header = image_header(data)
        except ValueError:
            header = None  # another format, or damaged, which decoding will find
        orientation = UPRIGHT
        if turns:
            orientation = file_orientation(data) if header is None else header.orientation
        if header is not None and header.plain:
            if self._limit(header.width, header.height) is not None:
                if header.encoding == JPG:
                    return to_jpeg(to_pixels(self._decoded(data, orientation)), self.quality)
            elif header.encoding == JPG or (self.format == "webdataset" and texts_fit(data)):
                with contextlib.suppress(Damaged):
                    check_whole(data, header, thorough=not self.quick, max_pixels=self.max_pixels)
                    return data
        image = self._decoded(data, orientation)
        return to_png(image) if self.format == "webdataset" else to_pixels(image)

    def _frames(self, data: bytes, turns: bool) -> Pixels:
        """uint8 (frames, S, S, 3), the square from the middle."""
        from headrace.tools.media.videos import decode_clip  # needs an extra

        side = self.short_side or 0
        clip = decode_clip(data, self.frames, self.frame_stride, side, "apply" if turns else "ignore")
        top, left = (clip.shape[1] - side) // 2, (clip.shape[2] - side) // 2
        return np.ascontiguousarray(clip[:, top : top + side, left : left + side])
