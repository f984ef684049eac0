"""TensorRT-LLM's words for what the wire asks, and ours for what it tells. Pure but for the seeds that it draws."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ax_engines.wire import GenerateRequest


@dataclass
class Gauges:
    """The last iteration's numbers: KV blocks in use, and requests that the library itself holds back."""

    kv_used: float | None = None
    waiting: int = 0


def sampling_fields(request: GenerateRequest, index: int, room: int) -> dict[str, Any]:
    """Return a request's sampling in the library's words; what was not asked for follows the OpenAI API.

    The library decodes greedily when nothing is given, repeats itself when no seed is given, and stops after 32
    tokens when no limit is given; `top_k` 1 is what both of its engines take for greedy decoding.
    """
    sampling = request.sampling
    greedy = sampling.temperature == 0 or sampling.top_p == 0 or sampling.top_k == 1
    given: dict[str, Any] = {
        "max_tokens": sampling.max_tokens or room,
        "add_special_tokens": False,
        "ignore_eos": sampling.ignore_eos,
    }
    if greedy:
        given["top_k"] = 1
    else:
        seed = secrets.randbits(63) if sampling.seed is None else (sampling.seed + index) % 2**63
        given |= {
            "temperature": 1.0 if sampling.temperature is None else sampling.temperature,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "top_k": max(0, sampling.top_k or 0),
            "seed": seed,
        }
    if sampling.logprobs is not None:
        given["logprobs"] = max(1, sampling.logprobs)
    if sampling.stop_token_ids:
        given["stop_token_ids"] = list(sampling.stop_token_ids)
    optional = {
        "min_p": sampling.min_p,
        "min_tokens": sampling.min_tokens,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
    }
    return given | {name: value for name, value in optional.items() if value}


def read_stats(row: Mapping[str, Any], pipeline: int) -> Gauges:
    """Read one iteration's statistics.

    A request waits inside the library while it is queued or, without pipeline stages that take turns, while it is
    active and not scheduled.
    """
    gauges = Gauges(waiting=int(row.get("numQueuedRequests") or 0))
    cache = row.get("kvCacheStats") or {}
    if cache.get("maxNumBlocks"):
        gauges.kv_used = cache["usedNumBlocks"] / cache["maxNumBlocks"]
    batch = row.get("inflightBatchingStats") or {}
    if pipeline == 1 and "numScheduledRequests" in batch:
        gauges.waiting += max(0, row["numActiveRequests"] - batch["numScheduledRequests"])
    return gauges


def ranks(arguments: Mapping[str, Any]) -> int:
    """Return how many GPUs an LLM with these arguments takes."""
    return int(arguments.get("tensor_parallel_size", 1)) * int(arguments.get("pipeline_parallel_size", 1))


def is_request_error(error: BaseException) -> bool:
    """Say whether the library refused one request, by its class's name, which has moved between modules."""
    return any(kind.__name__ == "RequestError" for kind in type(error).__mro__)
