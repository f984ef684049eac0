"""A message's content as templates expect it: text, or parts with places for images. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ax_engines.openai.errors import ApiError
from ax_engines.openai.images import MAX_IMAGES, MAX_REQUEST_PIXELS, check_image
from ax_engines.openai.model import ServedModel
from ax_engines.openai.template import ChatTemplate

Content = str | list[dict[str, Any]]
OTHER_SENSES = ("image_url", "input_audio", "video_url", "file")
PROBE = "ax-probe"


@dataclass(slots=True)
class Images:
    """The images of a request, in order."""

    urls: list[str] = field(default_factory=list)
    pixels: int = 0

    def add(self, address: object, where: str) -> None:
        """Take one more; raises ApiError 400 naming the field."""
        url, pixels = check_image(address, f"{where}.image_url.url")
        self.urls.append(url)
        self.pixels += pixels
        if len(self.urls) > MAX_IMAGES:
            raise invalid(where, f"a request may have {MAX_IMAGES} images")
        if self.pixels > MAX_REQUEST_PIXELS:
            limit = MAX_REQUEST_PIXELS // 1_000_000
            raise invalid(where, f"the images of a request may have {limit} million pixels; send smaller or fewer ones")


def read_content(content: Content | None, at: int, model: ServedModel, images: Images) -> Content:
    """Return the content of message `at` for the template and add its images to `images`.

    Text is one string, unless the template wants parts; with images it is parts in the order in which they were sent,
    so that the template knows where the images stand. Raises ApiError 400 for what the model cannot read.
    """
    parts: list[dict[str, Any]] = []
    if not isinstance(content, list):
        if not model.wants_parts:
            return content or ""
        return [{"type": "text", "text": content or ""}]
    for n, part in enumerate(content):
        where = f"messages[{at}].content[{n}]"
        kind = part.get("type")
        if kind == "image_url" and model.sees:
            images.add(image_address(part), where)
            parts.append({"type": "image"})
            continue
        if kind in OTHER_SENSES:
            senses = "text and images" if model.sees else "text"
            raise invalid(where, f"this model reads {senses} only, not '{kind}'")
        if kind not in ("text", "refusal") or not isinstance(part.get(kind), str):
            raise invalid(where, "expected a part of type 'text' with a string 'text'")
        parts.append({"type": "text", "text": part[kind]})
    if model.wants_parts or any(part["type"] == "image" for part in parts):
        return parts
    return "\n".join(part["text"] for part in parts)


def image_address(part: dict[str, Any]) -> object:
    """Return where the image of a part is: OpenAI has an object there, other servers take its address alone."""
    given = part.get("image_url")
    return given.get("url") if isinstance(given, dict) else given


def text_of(content: Content) -> str:
    """Return a content's last text."""
    if isinstance(content, str):
        return content
    return next((part["text"] for part in reversed(content) if part["type"] == "text"), "")


def wants_parts(template: ChatTemplate | None) -> bool:
    """Say whether a template prints text only when it comes as a part."""
    if template is None:
        return False

    def prints(content: Content) -> bool:
        try:
            return PROBE in template.render([{"role": "user", "content": content}], None)
        except ApiError:
            return False

    return not prints(PROBE) and prints([{"type": "text", "text": PROBE}])


def invalid(param: str, reason: str) -> ApiError:
    """Return the 400 for a field."""
    return ApiError(400, f"Invalid value for '{param}': {reason}.", param=param, code="invalid_value")
