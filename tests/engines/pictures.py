"""Small pictures as data URLs."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image


def encoded(
    width: int, height: int, kind: str = "PNG", colour: Any = (200, 30, 40), mode: str = "RGB", **how: Any
) -> bytes:
    """Return a picture of one colour in a file format."""
    out = io.BytesIO()
    Image.new(mode, (width, height), colour).save(out, kind, **how)
    return out.getvalue()


def data_url(data: bytes, kind: str = "PNG") -> str:
    """Return a file's bytes as a data URL."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"


def picture(width: int = 32, height: int = 32, kind: str = "PNG", **how: Any) -> str:
    """Return a picture's data URL."""
    return data_url(encoded(width, height, kind, **how), kind)


def image_part(url: str) -> dict[str, Any]:
    """Return the part of a message that shows a picture."""
    return {"type": "image_url", "image_url": {"url": url}}
