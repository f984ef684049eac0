"""The hot contract between frontend, Triton model and scrapers: requests, chunks, errors, metric names.

Pure, and made for every token, hence slotted dataclasses and plain JSON instead of pydantic. A message travels to
the model as one BYTES tensor, REQUEST; a response is one BYTES tensor, CHUNK. There are two ways to be answered:

- plainly: the responses to a GenerateRequest are lists of its chunks (`encode_chunks`), and an error is the text of a
  TritonError with the HTTP status inside. Any client of Triton can do that.
- over a channel: the frontend sends OpenChannel once and names the channel in each GenerateRequest; the responses to
  OpenChannel then carry what has come up for all of them together (`encode_batch`), which costs a fraction per token,
  and Cancel ends a request early. The first batch is empty and says that the channel is open; further empty ones,
  HEARTBEAT_SECONDS apart, that the engine lives. When the model ends the responses, the channel is opened again by
  its name, and nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

HEARTBEAT_SECONDS = 1.0

# Triton's model name, tensors and our metric families (seen at the metrics endpoint, without a prefix).
TRITON_MODEL = "engine"
TENSOR_REQUEST = "REQUEST"
TENSOR_CHUNK = "CHUNK"
METRIC_RUNNING = "ax_requests_running"
METRIC_WAITING = "ax_requests_waiting"
METRIC_SLOTS = "ax_request_slots"
METRIC_PROMPT_TOKENS = "ax_prompt_tokens_total"
METRIC_GENERATED_TOKENS = "ax_generated_tokens_total"
METRIC_TTFT_SUM = "ax_time_to_first_token_seconds_sum"
METRIC_TTFT_COUNT = "ax_time_to_first_token_seconds_count"
METRIC_QUEUE_SUM = "ax_queue_seconds_sum"
METRIC_QUEUE_COUNT = "ax_queue_seconds_count"
METRIC_KV_USED = "ax_kv_cache_used_ratio"

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling of one request, in the OpenAI API's words; None leaves the engine's default.

    `max_tokens` 0 means what the context leaves after the prompt.
    """

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: int | None = None
    ignore_eos: bool = False
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One generation: a rendered prompt (or token ids), its sampling, and when nobody waits for it any more.

    `deadline` is a Unix time in seconds; `guided` is `{"json": schema}` or `{"json_object": true}`; `images` are
    data URLs; `special` asks for the tokens with which the tokenizer begins a text (a chat template prints its own);
    `channel` and `key` say where the answers go and what they are called there.
    """

    id: str
    sampling: Sampling
    prompt: str | None = None
    token_ids: tuple[int, ...] | None = None
    images: tuple[str, ...] = ()
    guided: dict[str, Any] | None = None
    deadline: float | None = None
    n: int = 1
    special: bool = False
    channel: str | None = None
    key: int = 0

    def encode(self) -> bytes:
        """Return the request as the bytes of the REQUEST tensor."""
        raw = {name: getattr(self, name) for name in self.__slots__}
        raw["sampling"] = {name: getattr(self.sampling, name) for name in self.sampling.__slots__}
        return json.dumps(raw, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def of(cls, raw: dict[str, Any]) -> GenerateRequest:
        """Read what `encode` wrote; raises KeyError or TypeError when it is not a request."""
        sampling = raw.pop("sampling")
        sampling["stop"] = tuple(sampling.get("stop") or ())
        sampling["stop_token_ids"] = tuple(sampling.get("stop_token_ids") or ())
        ids = raw.pop("token_ids", None)
        images = tuple(raw.pop("images", None) or ())
        return cls(sampling=Sampling(**sampling), token_ids=None if ids is None else tuple(ids), images=images, **raw)


@dataclass(frozen=True, slots=True)
class OpenChannel:
    """Asks for a channel; it lives until the client leaves."""

    channel: str

    def encode(self) -> bytes:
        """Return the message as the bytes of the REQUEST tensor."""
        return json.dumps({"open": self.channel}).encode()


@dataclass(frozen=True, slots=True)
class Cancel:
    """Says that nobody waits for a request any more."""

    id: str

    def encode(self) -> bytes:
        """Return the message as the bytes of the REQUEST tensor."""
        return json.dumps({"cancel": self.id}).encode()


@dataclass(frozen=True, slots=True)
class CountTokens:
    """Asks how many tokens a rendered prompt is; the answer is one chunk with a usage, over the channel."""

    id: str
    text: str
    channel: str | None = None
    key: int = 0

    def encode(self) -> bytes:
        """Return the message as the bytes of the REQUEST tensor."""
        return json.dumps({"count": [self.id, self.text, self.channel, self.key]}, ensure_ascii=False).encode()


Message = GenerateRequest | OpenChannel | Cancel | CountTokens


def decode_message(data: bytes) -> Message:
    """Read the REQUEST tensor; raises ValueError, KeyError or TypeError when it is no message of ours."""
    raw = json.loads(data)
    if "count" in raw:
        return CountTokens(*raw["count"])
    if "open" in raw:
        return OpenChannel(raw["open"])
    if "cancel" in raw:
        return Cancel(raw["cancel"])
    return GenerateRequest.of(raw)


@dataclass(slots=True)
class Usage:
    """Tokens of one request, counted by the engine, and the seconds that it waited for a slot, from admission."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_seconds: float = 0


@dataclass(slots=True)
class Chunk:
    """A piece of one choice's answer: whole characters only; `finish` and `usage` come with the last one."""

    index: int
    text: str
    tokens: int = 1
    finish: Finish | None = None
    usage: Usage | None = None
    logprobs: list[dict[str, Any]] | None = field(default=None)


def encode_chunks(chunks: Iterable[Chunk]) -> bytes:
    """Return chunks as the bytes of one CHUNK response; several may share one."""
    return json.dumps([_chunk_json(c) for c in chunks], ensure_ascii=False, separators=(",", ":")).encode()


def _chunk_json(chunk: Chunk) -> list[Any]:
    usage = chunk.usage
    row: list[Any] = [chunk.index, chunk.text, chunk.tokens]
    if chunk.finish or usage or chunk.logprobs:
        counts = usage and [
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            round(usage.queue_seconds, 6),
        ]
        row += [chunk.finish, counts, chunk.logprobs]
    return row


def decode_chunks(data: bytes) -> list[Chunk]:
    """Read what `encode_chunks` wrote."""
    return _read_chunks(json.loads(data))


def _read_chunks(rows: list[list[Any]]) -> list[Chunk]:
    chunks = []
    for index, text, tokens, *rest in rows:
        finish, counts, logprobs = rest or (None, None, None)
        chunks.append(Chunk(index, text, tokens, finish, Usage(*counts) if counts else None, logprobs))
    return chunks


@dataclass(frozen=True, slots=True)
class EngineError:
    """An error on its way from the engine to the client: the HTTP status travels inside Triton's message."""

    status: int
    message: str
    code: str | None = None
    retry_after: int | None = None

    def encode(self) -> str:
        """Return the text for a TritonError."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def decode(cls, text: str) -> EngineError:
        """Read an error that came through Triton; whatever is not ours becomes a 500 with its text."""
        start = text.find("{")
        try:
            return cls(**json.loads(text[start:])) if start >= 0 else cls(500, text)
        except (ValueError, TypeError):
            return cls(500, text)


@dataclass(slots=True)
class Parcel:
    """What has come up for one request since the last batch; an error, or the last choice's finish, ends it."""

    key: int
    chunks: list[Chunk]
    error: EngineError | None = None
    last: bool = False


def encode_batch(parcels: Iterable[Parcel]) -> bytes:
    """Return what has come up for several requests as the bytes of one CHUNK response."""
    rows = [
        [p.key, [_chunk_json(c) for c in p.chunks], p.last, asdict(p.error)]
        if p.error
        else [p.key, [_chunk_json(c) for c in p.chunks], p.last]
        for p in parcels
    ]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()


def decode_batch(data: bytes) -> list[Parcel]:
    """Read what `encode_batch` wrote."""
    return [
        Parcel(key, _read_chunks(rows), EngineError(**rest[0]) if rest else None, last)
        for key, rows, last, *rest in json.loads(data)
    ]
