"""Decodes the images of a request: data URLs to RGB pictures, within bounds of bytes and pixels.

The frontend has looked at the headers already; here they are checked again by what decodes, because Triton's clients
may come from elsewhere.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 40_000_000
MAX_REQUEST_PIXELS = 100_000_000
MAX_BYTES = 8 * 1024**2


def decode_all(urls: Sequence[str]) -> list[Any]:
    """Return a request's pictures; raises ValueError with what is wrong."""
    pictures, pixels = [], 0
    for url in urls:
        pictures.append(decode(url))
        pixels += pictures[-1].width * pictures[-1].height
        if pixels > MAX_REQUEST_PIXELS:
            raise ValueError(f"the images have more than {MAX_REQUEST_PIXELS} pixels together")
    return pictures


def decode(url: str) -> Any:
    """Return a data URL's picture, upright, without transparency; raises ValueError with what is wrong."""
    from PIL import Image, ImageOps  # noqa: PLC0415  only this engine's image has it

    head, _, text = url.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise ValueError("an image is no data URL of base64")
    if len(text) * 3 // 4 > MAX_BYTES + 2:
        raise ValueError(f"an image is larger than {MAX_BYTES} bytes")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"an image has {width}x{height} pixels, more than {MAX_PIXELS}")
            picture.load()
            upright = ImageOps.exif_transpose(picture).convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"an image cannot be decoded: {error}") from error
    on_white = Image.new("RGBA", upright.size, "white")
    on_white.alpha_composite(upright)
    return on_white.convert("RGB")
