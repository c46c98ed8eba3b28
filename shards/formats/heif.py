"""Pictures in a container of ISO 23008-12, told by their first bytes: AVIF, and HEIC as telephones write it."""

from __future__ import annotations

HEIC = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
AVIF = frozenset((b"avif", b"avis"))
MOST_BRANDS = 64
"""That are looked at."""


def heif_brand(head: bytes) -> str:
    """avif or heic for a file that begins like this; empty for every other."""
    if head[4:8] != b"ftyp" or head[8:12] not in HEIC | AVIF:
        return ""
    size = min(int.from_bytes(head[:4], "big"), 16 + 4 * MOST_BRANDS)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
    return "avif" if brands & AVIF else "heic"
