"""The frontend's own series; Triton's are shown on the same page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
HANGUL = re.compile("[가-힣]")
SYLLABLE_BYTES = 3
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)


class Metrics:
    """All series of the frontend, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "ax_frontend_requests_total", "Requests by endpoint and status.", ["endpoint", "status"], registry=r
        )
        self.open = Gauge("ax_frontend_requests_open", "Requests under way.", registry=r)
        self.ttft = Histogram(
            "ax_frontend_time_to_first_token_seconds",
            "Seconds from the request's arrival to its first token.",
            registry=r,
            buckets=SECONDS,
        )
        self.itl = Histogram(
            "ax_frontend_inter_token_seconds",
            "Mean seconds between the tokens of a request.",
            registry=r,
            buckets=TOKEN_SECONDS,
        )
        self.prompt_tokens = Counter("ax_frontend_prompt_tokens_total", "Prompt tokens served.", registry=r)
        self.completion_tokens = Counter("ax_frontend_completion_tokens_total", "Tokens answered.", registry=r)
        self.cached_tokens = Counter("ax_frontend_cached_tokens_total", "Prompt tokens found cached.", registry=r)
        self.draining = Gauge("ax_frontend_draining", "1 while the frontend takes its leave.", registry=r)
        self.hangul_characters = Counter(
            "ax_frontend_hangul_characters_total", "Hangul syllables in answers that are mostly Hangul.", registry=r
        )
        self.hangul_tokens = Counter(
            "ax_frontend_hangul_tokens_total", "Tokens of answers that are mostly Hangul.", registry=r
        )
        self.hangul_bytes = Counter(
            "ax_frontend_hangul_bytes_total",
            "UTF-8 bytes of answers that are mostly Hangul: the tokens of a tokenizer that knows no Korean.",
            registry=r,
        )

    def count(self, usage: dict[str, Any], texts: Iterable[str]) -> None:
        """Count the tokens of an answer, and how well they carry Hangul where most of it is Hangul."""
        self.prompt_tokens.inc(usage["prompt_tokens"])
        self.completion_tokens.inc(usage["completion_tokens"])
        self.cached_tokens.inc(usage["prompt_tokens_details"]["cached_tokens"])
        text = "".join(texts)
        syllables, size = len(HANGUL.findall(text)), len(text.encode())
        if syllables * SYLLABLE_BYTES * 2 > size:
            self.hangul_characters.inc(syllables)
            self.hangul_tokens.inc(usage["completion_tokens"])
            self.hangul_bytes.inc(size)
