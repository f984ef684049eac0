"""Images in messages: data URLs, checked by their headers before anything decodes them. Pure.

No address is fetched: it would let a client reach what the pod can reach. What an image costs in tokens depends on
the model's own resizing, so that is left to the engine.
"""

from __future__ import annotations

import binascii
import re
import struct

from ax_engines.openai.errors import ApiError

MAX_IMAGES = 16
MAX_IMAGE_BYTES = 8 * 1024**2
MAX_PIXELS = 40_000_000
MAX_REQUEST_PIXELS = 100_000_000
"""Of all images of a request together: decoded, they are in memory at once."""
MAX_SIDE = 16_384
DATA_URL = re.compile(r"data:image/(png|jpeg|webp);base64,", re.IGNORECASE)
JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers whose segment tells the size."""
JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG's markers without a segment."""


def check_image(url: object, where: str) -> tuple[str, int]:
    """Return an image's data URL and its pixels; raises ApiError 400 naming the field and what to change."""
    if not isinstance(url, str):
        raise refused(where, "expected a data URL")
    head = DATA_URL.match(url)
    if head is None:
        shown = re.sub(r"[;,].*", "", url[:40], flags=re.DOTALL)
        raise refused(
            where,
            f"expected 'data:image/png;base64,…', or jpeg or webp instead of png, not '{shown}…': "
            "this server fetches no addresses",
        )
    if (len(url) - head.end()) * 3 // 4 > MAX_IMAGE_BYTES + 2:
        raise refused(where, f"an image may have {MAX_IMAGE_BYTES // 1024**2} MiB; send a smaller one")
    try:
        data = binascii.a2b_base64(url[head.end() :].encode(), strict_mode=True)
    except (ValueError, UnicodeEncodeError) as error:
        raise refused(where, "the data is not base64") from error
    size = image_size(data)
    if size is None:
        raise refused(where, "the data is no PNG, JPEG or WebP image")
    width, height = size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        limit = f"{MAX_SIDE} pixels a side and {MAX_PIXELS // 1_000_000} million pixels"
        raise refused(where, f"the image has {width}x{height} pixels; the limit is {limit}")
    return url, width * height


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height from the header of a PNG, JPEG or WebP image, None if it is none."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
            width, height = struct.unpack(">II", data[16:24])
            return width, height
        if data.startswith(b"\xff\xd8"):
            return jpeg_size(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return webp_size(data)
    except (struct.error, IndexError):
        return None
    return None


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the size in the first frame header of a JPEG; raises struct.error or IndexError when it is cut."""
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a byte that only fills
            at += 1
            continue
        if marker in JPEG_BARE:
            at += 2
            continue
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        if marker in JPEG_SIZES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + max(2, length)
    return None


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return the size in the first chunk of a WebP: lossy, lossless or extended; raises struct.error when cut."""
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return (width, height) if len(data) >= 30 else None
    return None


def refused(where: str, reason: str) -> ApiError:
    """Return the 400 for an image."""
    return ApiError(400, f"Invalid value for '{where}': {reason}.", param=where, code="invalid_image")
