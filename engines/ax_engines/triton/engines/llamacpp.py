"""llama.cpp through xllamacpp: continuous batching over `slots` sequences, one thread of ours for each.

llama.cpp's server object always opens an HTTP listener. It is put on a Unix socket in a folder that only this user
can enter, behind a random key, and used for the one thing the object's methods lack: tokenizing. A cancelled
request stops at its next callback; progress reports make callbacks come during long prompts too.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from ax_engines.contract import ServingOptions
from ax_engines.triton.adaptor import EngineStats, OnAnswer
from ax_engines.triton.engines.choice import refuse_fields, refuse_size
from ax_engines.wire import Chunk, EngineError, Finish, GenerateRequest, Sampling, Usage

log = logging.getLogger(__name__)
CPU_BATCH, GPU_BATCH = 64, 512
"""Prompt tokens evaluated at once: a cancelled request ends after at most one batch, and a CPU gains nothing beyond
(1,500 tokens took as long with 64 as with 2,048)."""
QUIET = 1
"""llama.cpp's verbosity: errors only, so that no prompt reaches a log."""


class Handle:
    """A request that llama.cpp works on."""

    __slots__ = ("cancelled",)

    def __init__(self) -> None:
        self.cancelled = False


class LlamaCppEngine:
    """One llama.cpp server object for one GGUF artifact."""

    def start(self, options: ServingOptions, folder: Path) -> None:
        """Load the artifact's first GGUF file; raises FileNotFoundError, ValueError or RuntimeError."""
        import llguidance  # type: ignore[import-not-found]  # noqa: PLC0415  only this engine's image has both
        import xllamacpp  # noqa: PLC0415

        self._context = options.context_length
        self._socket_folder = tempfile.mkdtemp(prefix="llamacpp-", dir=os.environ.get("AX_RUN"))
        self._key = secrets.token_hex()
        params = xllamacpp.CommonParams()
        params.model.path = str(gguf_file(folder))
        params.n_ctx = options.context_length * options.slots
        params.n_parallel = options.slots
        params.ctx_shift = False
        params.n_batch = params.n_ubatch = max(GPU_BATCH if options.gpus else CPU_BATCH, options.slots)
        params.cache_ram_mib = 0
        params.verbosity = QUIET
        params.hostnames = [str(Path(self._socket_folder) / "llama.sock")]
        params.api_keys = [self._key]
        params.n_threads_http = 2
        params.cpuparams.n_threads = options.threads or len(os.sched_getaffinity(0))
        for name, value in options.engine_args.items():
            if not hasattr(params, name):
                raise ValueError(f"llama.cpp has no argument {name!r}; remove it from engineArgs.")
            setattr(params, name, value)
        self._server = xllamacpp.Server(params)
        self._to_grammar = xllamacpp.json_schema_to_grammar
        self._fault_of = llguidance.LLMatcher.validate_grammar
        self._pool = ThreadPoolExecutor(options.slots, thread_name_prefix="llamacpp")

    def submit(self, request: GenerateRequest, index: int, on_answer: OnAnswer) -> Handle:
        """Begin choice `index`; the admission never hands over more requests than there are threads."""
        handle = Handle()
        self._pool.submit(self._generate, request, index, handle, on_answer)
        return handle

    def cancel(self, handle: Handle) -> None:
        """Make the request's next callback stop it."""
        handle.cancelled = True

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens the model's own tokenizer makes of a rendered prompt."""
        return len(self.tokenize(prompt))

    def stats(self) -> EngineStats:
        """llama.cpp tells nothing that admission does not know."""
        return EngineStats()

    def stop(self) -> None:
        """Let running requests end, then free the model and the socket."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        del self._server
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Return the text's tokens; those of special tokens are recognized, and added only with `special`."""
        body = json.dumps({"content": text, "add_special": special, "parse_special": True})
        answer = self._post("/tokenize", body)
        tokens: list[int] = json.loads(answer)["tokens"]
        return tokens

    def _generate(self, request: GenerateRequest, index: int, handle: Handle, on_answer: OnAnswer) -> None:
        answers = Answers(index, handle, on_answer)
        try:
            given = request.token_ids
            tokens = self.tokenize(request.prompt or "", request.special) if given is None else list(given)
            room = self._context - len(tokens)
            refusal = unsupported(request) or refuse_size(len(tokens), request.sampling.max_tokens, self._context)
            if refusal:
                answers.end(refusal)
                return
            body = request_body(tokens, room, request.sampling, index)
            if request.guided:
                body["grammar"] = self._grammar(request.guided.get("json", {"type": "object"}))
            self._server.handle_completions(body, answers.take)
        except ValueError as error:
            answers.end(EngineError(400, f"The engine refused the request: {error}", "invalid_request"))
        except Exception:
            log.exception("Generation failed")
            answers.end(EngineError(500, "The engine failed.", "engine_error"))
        answers.end(None)

    def _grammar(self, schema: Any) -> str:
        """Return the grammar of a JSON schema; raises ValueError for one that llama.cpp would drop in silence."""
        grammar: str = self._to_grammar(json.dumps(schema))
        fault: str = self._fault_of(grammar)
        if fault:
            reason = fault.removeprefix("at 2(8): failed to compile JSON schema: ").splitlines()[0]
            raise ValueError(f"the JSON schema cannot be followed: {reason}")
        return grammar

    def _post(self, path: str, body: str) -> bytes:
        """Ask the server's socket, over a connection of its own: the server closes idle ones."""
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        with closing(UnixConnection(str(Path(self._socket_folder) / "llama.sock"))) as connection:
            connection.request("POST", path, body.encode(), headers)
            response = connection.getresponse()
            data: bytes = response.read()
        if response.status != 200:
            raise ValueError(f"tokenizing failed with status {response.status}")
        return data


class Answers:
    """Turns llama.cpp's callbacks into chunks and makes sure of exactly one end."""

    def __init__(self, index: int, handle: Handle, on_answer: OnAnswer) -> None:
        self._index = index
        self._handle = handle
        self._on_answer = on_answer
        self._tokens = 0
        self._ended = False

    def take(self, piece: Any) -> bool:
        """Take one callback; True aborts the generation."""
        if "error" in piece:
            error = piece["error"]
            status = 400 if error.get("code") == 400 else 500
            self.end(EngineError(status, str(error.get("message", "the engine failed")), error.get("type")))
            return True
        if self._handle.cancelled:
            return True
        if not piece.get("choices"):
            return False
        choice = piece["choices"][0]
        usage, finish = piece.get("usage"), choice.get("finish_reason")
        logprobs = (choice.get("logprobs") or {}).get("content")
        if finish is None:
            if choice["text"] or logprobs:
                self._tokens += 1
                self._on_answer(Chunk(self._index, choice["text"], 1, None, None, logprobs))
            return False
        counts = Usage(
            usage["prompt_tokens"],
            usage["completion_tokens"],
            (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        )
        rest = max(0, counts.completion_tokens - self._tokens)
        self._finish(choice["text"], rest, finish, counts)
        return False

    def end(self, error: EngineError | None) -> None:
        """Give the last answer if llama.cpp gave none: an error, or that it was cancelled."""
        if self._ended:
            return
        if error:
            self._ended = True
            self._on_answer(error)
        elif self._handle.cancelled:
            self._finish("", 0, "cancelled", Usage(0, self._tokens, 0))
        else:
            self.end(EngineError(500, "The engine ended without a last token.", "engine_error"))

    def _finish(self, text: str, tokens: int, finish: Finish, usage: Usage) -> None:
        if not self._ended:
            self._ended = True
            self._on_answer(Chunk(self._index, text, tokens, finish, usage))


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def gguf_file(folder: Path) -> Path:
    """Return the artifact's GGUF file, the first of a split one; raises FileNotFoundError."""
    files = sorted(folder.rglob("*.gguf"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no .gguf file; build the engine again.")
    return files[0]


def unsupported(request: GenerateRequest) -> EngineError | None:
    """Return the 400 for what llama.cpp has no word for, else None."""
    sampling = request.sampling
    asked = {
        "min_tokens": sampling.min_tokens,
        "stop_token_ids": sampling.stop_token_ids,
        "include_stop_str_in_output": sampling.include_stop,
        "image_url": request.images,
    }
    return refuse_fields("llama.cpp", asked)


def request_body(tokens: list[int], room: int, sampling: Sampling, index: int) -> dict[str, Any]:
    """Return llama.cpp's completion request; what was not asked for follows the OpenAI API, not llama.cpp."""
    body: dict[str, Any] = {
        "prompt": tokens,
        "stream": True,
        "cache_prompt": True,
        "return_progress": True,
        "n_predict": sampling.max_tokens or room,
        "temperature": 1.0 if sampling.temperature is None else sampling.temperature,
        "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
        "top_k": max(0, sampling.top_k or 0),
        "min_p": sampling.min_p or 0.0,
        "ignore_eos": sampling.ignore_eos,
        "stop": list(sampling.stop),
    }
    if sampling.seed is not None:
        body["seed"] = (sampling.seed + index) % 2**32
    penalties = {
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repetition_penalty,
    }
    given = {name: value for name, value in penalties.items() if value is not None}
    if given:
        body |= given | {"repeat_last_n": -1}
    if sampling.logit_bias:
        body["logit_bias"] = [[int(token), bias] for token, bias in sampling.logit_bias.items()]
    if sampling.logprobs is not None:
        body["n_probs"] = max(1, sampling.logprobs)
    return body


ENGINE = LlamaCppEngine
