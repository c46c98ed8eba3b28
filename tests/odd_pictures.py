"""Pictures of kinds that people have and that one decoder or another takes amiss; and what is right for each."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin
from sklearn.datasets import load_sample_images

from tests.odd_jpegs import SAMPLINGS, sampled_jpeg

Pixels = npt.NDArray[np.uint8]
CHINA: Pixels = np.ascontiguousarray(load_sample_images().images[0][100:196, 200:320])


def encoded(
    pixels: npt.NDArray[Any] | Image.Image, format: str = "JPEG", mode: str | None = None, **options: Any
) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(stream, format, **options)
    return stream.getvalue()


def pillows(data: bytes) -> Pixels:
    """uint8 (H, W, 3): what Pillow makes of a picture without transparency."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def big_text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("workflow", "x" * (2 << 20), zip=True)
    text.add_text("prompt", "y" * (2 << 20), zip=True)
    return text


def with_ramp() -> npt.NDArray[np.uint16]:
    return (np.arange(96, dtype=np.uint16)[:, None] * 650 + np.zeros((1, 64), np.uint16)).astype(np.uint16)


JPEG = encoded(CHINA, quality=92)
RGBA = np.dstack([CHINA, np.full(CHINA.shape[:2], 255, np.uint8)])
RGBA[:48] = (10, 20, 30, 0)
KEYED = CHINA.copy()
KEYED[:48] = (1, 2, 3)
WHITE_ABOVE = CHINA.copy()
WHITE_ABOVE[:48] = 255
PALETTE = Image.fromarray(CHINA).quantize(20)
GREY = np.asarray(Image.fromarray(CHINA).convert("L"))
GREY_ALPHA = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(RGBA[..., 3])))
GREY_WHITE_ABOVE = np.repeat(GREY[:, :, None], 3, 2)
GREY_WHITE_ABOVE[:48] = 255

WHOLE: dict[str, tuple[bytes, Pixels]] = {
    "stray bytes": (JPEG[:-2] + b"\x7f" * 4 + b"\xff\xd9", pillows(JPEG)),
    "motion photo": (JPEG + np.random.default_rng(0).bytes(1 << 20) + b"\xff\xda" * 600, pillows(JPEG)),
    "odd JFIF": (JPEG[:2] + b"\xff\xe0\0\7JFIF\0" + JPEG[2:], pillows(JPEG)),
    "progressive": (encoded(CHINA, progressive=True), pillows(encoded(CHINA, progressive=True))),
    "restart markers": (encoded(CHINA, restart_marker_blocks=2), pillows(encoded(CHINA, restart_marker_blocks=2))),
    "CMYK": (encoded(CHINA, mode="CMYK"), pillows(encoded(CHINA, mode="CMYK"))),
    "RGB in a JPEG": (encoded(CHINA, keep_rgb=True), pillows(encoded(CHINA, keep_rgb=True))),
    **{
        f"sampling {name}": (sampled_jpeg(CHINA, factors), pillows(sampled_jpeg(CHINA, factors)))
        for name, factors in SAMPLINGS.items()
    },
    "large texts": (encoded(CHINA, "PNG", pnginfo=big_text()), CHINA),
    "large profile": (encoded(CHINA, "PNG", icc_profile=bytes(2 << 20)), CHINA),
    "transparent colour": (encoded(KEYED, "PNG", transparency=(1, 2, 3)), WHITE_ABOVE),
    "alpha": (encoded(RGBA, "PNG"), WHITE_ABOVE),
    "grey and alpha": (encoded(GREY_ALPHA, "PNG"), GREY_WHITE_ABOVE),
    "palette": (encoded(PALETTE, "PNG"), pillows(encoded(PALETTE, "PNG"))),
    "16-bit grey": (encoded(with_ramp(), "PNG"), np.repeat((with_ramp() >> 8).astype(np.uint8)[:, :, None], 3, 2)),
    "one bit": (encoded(CHINA, "PNG", mode="1"), pillows(encoded(CHINA, "PNG", mode="1"))),
}
"""Name to a file and its pixels."""


def without_last_scan(data: bytes) -> bytes:
    return data[: data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda"))] + b"\xff\xd9"


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


END = b"\xff\xd9"
CUT: dict[str, bytes] = {
    "cut": cut(JPEG),
    "without its end": JPEG[:-2],
    "closed": cut(JPEG) + END,
    "closed, restart markers": cut(encoded(CHINA, restart_marker_blocks=2)) + END,
    "closed, progressive": cut(encoded(CHINA, progressive=True)) + END,
    "without a scan": without_last_scan(encoded(CHINA, progressive=True)),
    "closed, 4x2": cut(sampled_jpeg(CHINA, SAMPLINGS["4x2"])) + END,
    "closed, CMYK": cut(encoded(CHINA, mode="CMYK")) + END,
    "closed, and a film": cut(JPEG) + END + b"film" * 999,
    "PNG": cut(encoded(CHINA, "PNG")),
    "PNG, closed": cut(encoded(CHINA, "PNG")) + encoded(CHINA, "PNG")[-12:],
}
"""Name to a file of which a part is missing."""
