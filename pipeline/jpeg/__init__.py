"""A compiled baseline JPEG decoder that decodes no more than a region of the image.

ITU-T T.81 (JPEG) with the arithmetic of libjpeg-turbo: the accurate integer inverse DCT (jidctint.c), "fancy"
triangle upsampling of chroma (jdsample.c) and 16-bit fixed-point colour conversion (jdcolor.c), so that pixels equal
those of libjpeg-turbo bit for bit. It takes what cameras, ImageNet and most tools write: baseline Huffman, 8 bits,
one interleaved scan, grey or YCbCr with 4:4:4, 4:2:2 or 4:2:0 chroma. Everything else (progressive, CMYK, ...), and
damage where it is met, is declined with a status other than `DECODED`; libjpeg-turbo then decodes it or says what is
wrong. Damage is not met behind the rows that are read, nor in headers that change no pixel, over which other programs
may refuse a file.

Huffman codes can only be read one after the other, so rows above the region are read but not reconstructed, and
reading stops after the region's last row.
"""

from headrace.pipeline.jpeg.region import decode_region
from headrace.pipeline.jpeg.scratch import DAMAGED, DECODED, UNSUPPORTED, JpegScratch, jpeg_scratch, room_for
from headrace.pipeline.jpeg.whole import decode_whole, transcode

__all__ = [
    "DAMAGED",
    "DECODED",
    "UNSUPPORTED",
    "JpegScratch",
    "decode_region",
    "decode_whole",
    "jpeg_scratch",
    "room_for",
    "transcode",
]
