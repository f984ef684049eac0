"""Reads what the frontend needs beyond the weights: the chat template and the special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ax_engines.build import gguf_header
from ax_engines.build.errors import BuildError
from ax_engines.build.model_config import parse_json
from ax_engines.contract import CHAT_TEMPLATE, ChatFacts, ModelConfig
from ax_engines.models import context_length

MAX_TEMPLATE_BYTES = 2**20
MAX_TOKENIZER_BYTES = 16 * 2**20


def of_gguf(header: gguf_header.GgufHeader, config: ModelConfig) -> tuple[str | None, ChatFacts]:
    """Return the template and the facts that GGUF metadata hold."""
    words = header.metadata.get(gguf_header.VOCABULARY)

    def token(key: str) -> str:
        index = header.metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(words, list) and isinstance(index, int) and 0 <= index < len(words):
            return str(words[index])
        return ""

    template = _bounded(header.metadata.get("tokenizer.chat_template"))
    return template, _facts(template, token("bos_token_id"), token("eos_token_id"), config)


def of_folder(folder: Path, config: ModelConfig) -> tuple[str | None, ChatFacts]:
    """Return the template and the facts that a tokenizer's files hold.

    A template of its own file wins over the one inside tokenizer_config.json, as transformers reads them; of
    several named templates the one called `default` is taken.
    """
    tokenizer = _read(folder / "tokenizer_config.json")
    special = _read(folder / "special_tokens_map.json")
    template = None
    own = folder / CHAT_TEMPLATE
    if own.is_file():
        if own.stat().st_size > MAX_TEMPLATE_BYTES:
            raise BuildError(
                "TooLarge",
                f"{CHAT_TEMPLATE} has {own.stat().st_size} bytes; at most {MAX_TEMPLATE_BYTES} are read",
            )
        template = _bounded(own.read_text(encoding="utf-8", errors="replace"))
    for raw in (_read(folder / "chat_template.json"), tokenizer):
        template = template or _bounded(_default(raw.get("chat_template")))
    bos, eos = (_token(tokenizer.get(k)) or _token(special.get(k)) for k in ("bos_token", "eos_token"))
    return template, _facts(template, bos, eos, config)


def _facts(template: str | None, bos: str, eos: str, config: ModelConfig) -> ChatFacts:
    return ChatFacts(
        template=template is not None,
        bos_token=bos[:200],
        eos_token=eos[:200],
        context_length=context_length(config),
        vocab_size=config.vocab_size,
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    size = path.stat().st_size
    if size > MAX_TOKENIZER_BYTES:
        raise BuildError("TooLarge", f"{path.name} has {size} bytes; at most {MAX_TOKENIZER_BYTES} are read")
    return parse_json(path.read_bytes(), path.name)


def _default(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
    return named.get("default")


def _token(value: Any) -> str:
    """A token is a text, or an object with its `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _bounded(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    if len(value.encode()) > MAX_TEMPLATE_BYTES:
        raise BuildError(
            "TooLarge",
            f"the chat template has {len(value)} characters; at most {MAX_TEMPLATE_BYTES} bytes are read",
        )
    return value
