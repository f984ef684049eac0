"""Images in messages: what a model that sees is given, what is refused before anything decodes it."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_engines.contract import Backend, Manifest, ServingOptions
from ax_engines.openai import images
from ax_engines.openai.chat import chat_request
from ax_engines.openai.content import wants_parts
from ax_engines.openai.errors import ApiError
from ax_engines.openai.images import image_size
from ax_engines.openai.model import ServedModel
from ax_engines.openai.schema import ChatBody
from ax_engines.openai.template import ChatTemplate
from ax_engines.wire import GenerateRequest
from tests.engines.pictures import data_url, encoded, image_part, picture
from tests.engines.serving import SMOLLM2

SIGHTED = """\
{%- for message in messages %}<{{ message.role }}>
{%- if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}{% if part.type == 'image' %}[image]{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}
{%- endfor %}"""
PARTS_ONLY = """\
{%- for message in messages %}<{{ message.role }}>
{%- for part in message.content | selectattr('type', 'equalto', 'image') %}[image]{% endfor %}
{%- for part in message.content | selectattr('type', 'equalto', 'text') %}{{ part.text }}{% endfor %}
{%- endfor %}"""
STRINGS_ONLY = "{% for message in messages %}<{{ message.role }}>{{ message.content + '' }}{% endfor %}"


def model(template: str = SIGHTED, backend: Backend = "transformers", vision: Any = None) -> ServedModel:
    """Return a model that sees, unless told otherwise."""
    config = SMOLLM2.model_copy(update={"vision": {"depth": 2} if vision is None else vision or None})
    manifest = Manifest(
        engine="vl-0123456789",
        artifact="safetensors",
        quantization="none",
        revision="test",
        architecture="Qwen2VLForConditionalGeneration",
        files=(),
        config=config,
    )
    options = ServingOptions(
        model="demo/vl", engine="vl-0123456789", backend=backend, slots=1, queue=1, context_length=1000
    )
    compiled = ChatTemplate(template)
    return ServedModel(options, manifest, compiled, wants_parts(compiled))


def ask(content: Any, served: ServedModel | None = None) -> GenerateRequest:
    """Return what the engine is asked."""
    body = ChatBody.model_validate({"model": "demo/vl", "messages": [{"role": "user", "content": content}]})
    return chat_request(body, served or model(), "id", 0.0)[0]


def refused(content: Any, served: ServedModel | None = None) -> tuple[str | None, str]:
    """Return the field and the message of a refusal."""
    with pytest.raises(ApiError) as error:
        ask(content, served)
    assert error.value.status == 400
    return error.value.param, error.value.message


def test_images_keep_their_places_and_reach_the_engine_in_order() -> None:
    first, second = picture(8, 8), picture(9, 9, "JPEG")
    content = [
        {"type": "text", "text": "이것과 "},
        image_part(first),
        {"type": "text", "text": " 저것 "},
        {"type": "image_url", "image_url": second},
    ]
    request = ask(content)
    assert request.prompt == "<user>이것과 [image] 저것 [image]"
    assert request.images == (first, second)


def test_text_alone_is_a_string_where_the_template_prints_strings() -> None:
    assert ask("hello").prompt == "<user>hello"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert ask(parts).prompt == "<user>a\nb"
    assert ask(parts, model(STRINGS_ONLY)).prompt == "<user>a\nb"


def test_a_template_that_prints_parts_only_gets_parts() -> None:
    served = model(PARTS_ONLY)
    assert served.wants_parts
    assert ask("hello", served).prompt == "<user>hello"
    assert ask([{"type": "text", "text": "a"}, image_part(picture())], served).prompt == "<user>[image]a"
    assert not model(SIGHTED).wants_parts
    assert not model(STRINGS_ONLY).wants_parts


def test_text_models_refuse_images() -> None:
    for served in (model(vision=False), model(backend="pytorch")):
        param, message = refused([image_part(picture())], served)
        assert param == "messages[0].content[0]"
        assert "this model reads text only, not 'image_url'" in message
    assert "reads text and images only, not 'input_audio'" in refused([{"type": "input_audio"}])[1]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://example.com/cat.png", "this server fetches no addresses"),
        ("http://169.254.169.254/latest/meta-data", "this server fetches no addresses"),
        ("file:///etc/passwd", "this server fetches no addresses"),
        ("data:image/svg+xml;base64,AAAA", "not 'data:image/svg+xml…'"),
        ("data:image/png,AAAA", "expected 'data:image/png;base64,…'"),
        ("data:text/html;base64,AAAA", "not 'data:text/html…'"),
        ("", "expected 'data:image/png;base64,…'"),
        (None, "expected a data URL"),
        ({"a": 1}, "expected a data URL"),
        ("data:image/png;base64,????", "not base64"),
        ("data:image/png;base64,AAA", "not base64"),
        ("data:image/png;base64,안녕", "not base64"),
        ("data:image/png;base64,", "no PNG, JPEG or WebP"),
        (data_url(b"GIF89a" + bytes(20)), "no PNG, JPEG or WebP"),
        (data_url(encoded(8, 8)[:20]), "no PNG, JPEG or WebP"),
    ],
)
def test_what_is_no_image_is_refused_with_the_field(url: object, reason: str) -> None:
    param, message = refused([{"type": "image_url", "image_url": {"url": url}}])
    assert param == "messages[0].content[0].image_url.url"
    assert reason in message


def png_of(width: int, height: int) -> bytes:
    """Return a small file that claims to be a picture of this size: a decompression bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(20_000, 20), (10_000, 10_000), (0, 5), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    _, message = refused([image_part(data_url(png_of(*size)))])
    assert f"the image has {size[0]}x{size[1]} pixels; the limit is 16384 pixels a side and 40 million" in message


def test_too_many_bytes_and_too_many_images_are_refused() -> None:
    large = base64.b64encode(bytes(images.MAX_IMAGE_BYTES + 3)).decode()
    assert "an image may have 8 MiB" in refused([image_part(f"data:image/png;base64,{large}")])[1]
    param, message = refused([image_part(picture())] * (images.MAX_IMAGES + 1))
    assert (param, "16 images" in message) == ("messages[0].content[16]", True)
    wide = image_part(data_url(png_of(10_000, 4_000)))
    param, message = refused([wide] * 3)
    assert (param, "100 million pixels" in message) == ("messages[0].content[2]", True)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"comment": b"x" * 300}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"mode": "RGBA", "colour": (1, 2, 3, 4)}),
        ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
    ],
)
def test_sizes_are_read_from_real_files(kind: str, how: dict[str, Any]) -> None:
    data = encoded(123, 457, kind, **how)
    assert image_size(data) == (123, 457)
    assert ask([image_part(data_url(data, kind))]).images


REAL = [encoded(12, 34, kind) for kind in ("PNG", "JPEG", "WEBP")]


@given(st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF0000WEBPVP8 ", b"RIFF0000WEBPVP8X"]), st.binary())
def test_any_bytes_have_a_size_or_none(start: bytes, rest: bytes) -> None:
    size = image_size(start + rest)
    assert size is None or min(size) >= 0


@given(st.sampled_from(REAL), st.data())
def test_a_cut_image_has_its_size_or_none(whole: bytes, data: st.DataObject) -> None:
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    assert image_size(cut) in (None, (12, 34))
