"""From the bytes of a file to the pixels of a region."""

from __future__ import annotations

from headrace.pipeline.compiled import kernel
from headrace.pipeline.jpeg.markers import only_scan, read_header
from headrace.pipeline.jpeg.scan import decode_scan
from headrace.pipeline.jpeg.scratch import DECODED


@kernel
def decode_region(data, top, left, height, width, scratch, image):
    """Decode the region of `height` x `width` pixels at (`top`, `left`) into its place in `image`.

    Args:
        data: uint8 (bytes of the file,).
        scratch: `jpeg_scratch` for at least this image.
        image: uint8 (H, W, 3) of the whole image's size; pixels outside of the region are unspecified.

    Returns: DECODED; UNSUPPORTED or DAMAGED if libjpeg-turbo must look at the file.
    """
    status, begin, count, restart_interval = read_header(data, image.shape[0], image.shape[1], scratch)
    if status != DECODED:
        return status
    status, segments = only_scan(data, begin, restart_interval, scratch)
    if status != DECODED:
        return status
    return decode_scan(top, left, height, width, count, restart_interval, segments, scratch, image)
