"""An engine that says what a test wrote: a stand-in at the engine seam, with real threads and real time.

The script stands in the prompt as `<<{...}>>` (the last one counts), or in `engine_args.rules` as pairs of a text
that the prompt must contain and a script (the last match counts). A script is an object:

- `say`: pieces of text, one token each; `delay`: seconds before each piece; `finish`: why it ends
- `echo`: say the prompt; `logprobs`: add made-up log probabilities; `sampling`: say the sampling as JSON
- `error`: [status, message] after the pieces; `vanish`: end the whole process after the pieces

A prompt without a script is answered with "ok". Every word of a prompt is a token.
"""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ax_engines.contract import ServingOptions
from ax_engines.triton.adaptor import EngineStats, OnAnswer
from ax_engines.triton.stops import StopFilter
from ax_engines.wire import Chunk, EngineError, GenerateRequest, Usage

SCRIPT = re.compile(r"<<(\{.*?\})>>", re.DOTALL)


class Scripted:
    """One request under way."""

    def __init__(self, request: GenerateRequest, index: int, script: dict[str, Any], on_answer: OnAnswer) -> None:
        self.request, self.index, self.script, self.on_answer = request, index, script, on_answer
        self.cancelled = threading.Event()
        self.sent = 0

    def run(self) -> None:
        """Say the pieces, then end."""
        sampling, script = self.request.sampling, self.script
        stops = StopFilter(sampling.stop, include=sampling.include_stop)
        for piece in self.pieces():
            if self.cancelled.wait(script.get("delay", 0)):
                self.end("cancelled")
                return
            text, stopped = stops.push(piece)
            self.sent += 1
            if stopped or self.sent == sampling.max_tokens:
                self.end("stop" if stopped else "length", text if stopped else text + stops.flush())
                return
            self.on_answer(Chunk(self.index, text, 1, logprobs=self.logprobs(piece)))
        if script.get("vanish"):
            os._exit(9)
        if "error" in script:
            status, message = script["error"]
            self.on_answer(EngineError(status, message, "scripted"))
            return
        self.end(script.get("finish", "stop"), stops.flush())

    def pieces(self) -> list[str]:
        """Return what to say."""
        if self.script.get("echo"):
            return [self.request.prompt or json.dumps(self.request.token_ids)]
        if self.script.get("sampling"):
            request = self.request
            return [json.dumps(asdict(request.sampling) | {"guided": request.guided}, ensure_ascii=False)]
        say: list[str] = self.script.get("say", ["ok"])
        return say

    def logprobs(self, piece: str) -> list[dict[str, Any]] | None:
        """Return made-up log probabilities when they were asked for."""
        if self.request.sampling.logprobs is None:
            return None
        one = {"token": piece, "logprob": -0.5, "bytes": list(piece.encode())}
        return [one | {"top_logprobs": [one] * self.request.sampling.logprobs}]

    def end(self, finish: Any, text: str = "") -> None:
        """Give the last chunk."""
        tokens = len((self.request.prompt or "").split()) or len(self.request.token_ids or ())
        usage = Usage(tokens, self.sent, 1 if tokens > 1 else 0)
        self.on_answer(Chunk(self.index, text, 0, finish, usage))


class ScriptedEngine:
    """The adaptor."""

    def start(self, options: ServingOptions, folder: Path) -> None:
        """Keep the rules."""
        self._rules = options.engine_args.get("rules", [])
        if options.engine_args.get("fail"):
            raise RuntimeError(options.engine_args["fail"])

    def submit(self, request: GenerateRequest, index: int, on_answer: OnAnswer) -> Scripted:
        """Begin to say what the script wants."""
        scripted = Scripted(request, index, self.script(request.prompt or ""), on_answer)
        threading.Thread(target=scripted.run, daemon=True).start()
        return scripted

    def script(self, prompt: str) -> dict[str, Any]:
        """Return the script of a prompt."""
        if found := SCRIPT.findall(prompt):
            script: dict[str, Any] = json.loads(found[-1])
            return script
        return next((script for text, script in reversed(self._rules) if text in prompt), {})

    def cancel(self, handle: Scripted) -> None:
        """End at the next piece."""
        handle.cancelled.set()

    def count_tokens(self, prompt: str) -> int:
        """One token a word."""
        return len(prompt.split())

    def stats(self) -> EngineStats:
        """Return something to be seen."""
        return EngineStats(kv_used=0.25)

    def stop(self) -> None:
        """Nothing to let go of."""


ENGINE = ScriptedEngine
