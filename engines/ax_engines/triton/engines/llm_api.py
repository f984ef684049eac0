"""TensorRT-LLM's LLM API, the same for its two engines: asynchronous generation on an event loop of our own.

An answer can only be iterated on the loop on which it was asked for, so everything happens on one thread with one
loop, as in NVIDIA's own llmapi model. Ranks are the library's to start: its constructor spawns one MPI process per
GPU, and this process leads them. Stop strings are ours, because the library's are matched token by token and leak
in pieces. Read from TensorRT-LLM's sources and run against a stand-in, never on a GPU (see docs/recipes.md).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ax_engines.contract import MANIFEST, Manifest, ServingOptions
from ax_engines.triton.adaptor import EngineStats, OnAnswer
from ax_engines.triton.engines.choice import Choice, refuse_fields, refuse_size, token_logprob
from ax_engines.triton.engines.ending import end_process, one_line
from ax_engines.triton.engines.llm_terms import Gauges, is_request_error, ranks, read_stats, sampling_fields
from ax_engines.wire import EngineError, Finish, GenerateRequest, Sampling

log = logging.getLogger(__name__)
STATS_SECONDS = 0.5
SHUTDOWN_SECONDS = 30
FINISHES = {"stop": "stop", "length": "length", "cancelled": "cancelled"}


@dataclass(frozen=True)
class Flavour:
    """What differs between the library's engines.

    `load` imports and returns the LLM class; `arguments` are what the recipe leaves to the adaptor; `missing` names
    the fields of a request, with their values, that this engine would silently ignore.
    """

    name: str
    load: Callable[[], Any]
    arguments: Mapping[str, Any]
    missing: Callable[[Sampling, Mapping[str, Any]], Mapping[str, object]]


@dataclass(eq=False)
class Generation:
    """One choice that the library works on; everything but the request is the loop's."""

    request: GenerateRequest
    index: int
    choice: Choice
    task: asyncio.Task[None] | None = None
    result: Any = None


class LlmApiEngine:
    """One LLM object for one artifact."""

    def __init__(self, flavour: Flavour, on_death: Callable[[], None] = end_process) -> None:
        """`on_death` is called when the library's engine has ended by itself, which nothing here can mend."""
        self._flavour = flavour
        self._on_death = on_death
        self._generations: set[Generation] = set()
        self._gauges = Gauges()
        self._stopping = False

    def start(self, options: ServingOptions, folder: Path) -> None:
        """Load the artifact on all its ranks; raises RuntimeError with one sentence that says why not."""
        self._context = options.context_length
        self._arguments = dict(options.engine_args)
        self._vocabulary = Manifest.from_json((folder / MANIFEST).read_bytes()).config.vocab_size
        try:
            self._llm = self._flavour.load()(**self._constructor(options, folder))
        except Exception as error:
            log.exception("TensorRT-LLM did not start")
            raise RuntimeError(
                f"TensorRT-LLM could not load the engine {options.engine} ({self._flavour.name}, "
                f"{ranks(self._arguments)} ranks): {one_line(error)}"
            ) from error
        self._tokenizer = self._llm.tokenizer
        self._tokenizing = ThreadPoolExecutor(2, thread_name_prefix="tokenize")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="llm-api", daemon=True)
        self._thread.start()

    def submit(self, request: GenerateRequest, index: int, on_answer: OnAnswer) -> Generation:
        """Begin choice `index` on the loop."""
        generation = Generation(request, index, Choice(index, request.sampling, on_answer))
        self._loop.call_soon_threadsafe(self._begin, generation)
        return generation

    def cancel(self, handle: Generation) -> None:
        """Abort the request; its slot is free as soon as the loop has asked the library for it."""
        self._loop.call_soon_threadsafe(self._abort, handle)

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens the model's own tokenizer makes of a rendered prompt."""
        return len(self._tokenize(prompt))

    def stats(self) -> EngineStats:
        """Return the last iteration's numbers; an idle engine uses no cache and holds nobody back."""
        if not self._generations:
            return EngineStats(None if self._gauges.kv_used is None else 0.0)
        return EngineStats(self._gauges.kv_used, self._gauges.waiting)

    def stop(self) -> None:
        """Abort what runs, then let the library end its ranks."""
        self._stopping = True
        asyncio.run_coroutine_threadsafe(self._abort_all(), self._loop).result(SHUTDOWN_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SHUTDOWN_SECONDS)
        self._tokenizing.shutdown()
        self._llm.shutdown()

    def _constructor(self, options: ServingOptions, folder: Path) -> dict[str, Any]:
        return {
            **self._flavour.arguments,
            **self._arguments,
            "model": str(folder),
            "tokenizer": str(folder),
            "trust_remote_code": options.trust_remote_code,
        }

    # --- on the loop ---

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._busy = asyncio.Event()
        watching = self._loop.create_task(self._watch())
        self._loop.run_forever()
        watching.cancel()
        self._loop.run_until_complete(asyncio.gather(watching, return_exceptions=True))
        self._loop.close()

    def _begin(self, generation: Generation) -> None:
        self._generations.add(generation)
        self._busy.set()
        generation.task = self._loop.create_task(self._generate(generation))

    def _abort(self, generation: Generation) -> None:
        if generation.task:
            generation.task.cancel()

    async def _abort_all(self) -> None:
        tasks = [generation.task for generation in self._generations if generation.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _generate(self, generation: Generation) -> None:
        choice = generation.choice
        try:
            if refusal := await self._ask(generation):
                choice.fail(refusal)
                return
            await self._relay(generation)
        except asyncio.CancelledError:
            choice.end("cancelled")
            if generation.result is not None:
                generation.result.abort()
        except ValueError as error:
            choice.fail(EngineError(400, f"The engine refused the request: {one_line(error)}", "invalid_request"))
        except Exception as error:
            choice.fail(self._failure(error))
        finally:
            self._generations.discard(generation)
            if not self._generations:
                self._busy.clear()

    async def _ask(self, generation: Generation) -> EngineError | None:
        """Hand the request to the library; return a refusal instead if it cannot be served."""
        request, sampling = generation.request, generation.request.sampling
        asked = {"image_url": request.images, **self._flavour.missing(sampling, self._arguments)}
        if refusal := refuse_fields(f"The {self._flavour.name} backend of TensorRT-LLM", asked):
            return refusal
        tokens = list(request.token_ids or ())
        if request.token_ids is None:
            tokens = await self._loop.run_in_executor(
                self._tokenizing, self._tokenize, request.prompt or "", request.special
            )
        if refusal := refuse_size(len(tokens), sampling.max_tokens, self._context):
            return refusal
        generation.choice.prompt_tokens = len(tokens)
        given = sampling_fields(request, generation.index, self._context - len(tokens))
        try:
            generation.result = self._llm.generate_async(tokens, self._sampling(given, request), streaming=True)
        except RuntimeError as error:
            if is_request_error(error) or self._stopping:
                raise
            log.critical("TensorRT-LLM has ended by itself, this process ends too: %s", one_line(error))
            self._on_death()
            return EngineError(503, "The engine has ended and is being started again; retry.", "engine_lost", 5)
        return None

    async def _relay(self, generation: Generation) -> None:
        """Pass on what the library generates, until the end or a stop string."""
        choice, seen = generation.choice, 0
        async for result in generation.result:
            output = result.outputs[0]
            choice.cached_tokens = getattr(result, "cached_tokens", 0) or 0
            logprobs = None
            if generation.request.sampling.logprobs is not None:
                logprobs = self._logprobs(output, seen, generation.request.sampling.logprobs)
                seen = len(output.logprobs)
            if choice.add_until(output.text, len(output.token_ids), logprobs):
                if output.finish_reason is None:
                    generation.result.abort()
                return
            if output.finish_reason is not None:
                self._end(choice, output)
                return
        choice.fail(EngineError(500, "The engine ended without a last token.", "engine_error"))

    def _end(self, choice: Choice, output: Any) -> None:
        finish = FINISHES.get(output.finish_reason)
        if finish is None:
            choice.fail(EngineError(504, f"The engine gave up: {output.finish_reason}.", "engine_timeout"))
            return
        choice.end(cast(Finish, finish), choice.withheld(output.text))

    def _failure(self, error: Exception) -> EngineError:
        if is_request_error(error):
            return EngineError(400, f"The engine refused the request: {one_line(error)}", "invalid_request")
        log.error("Generation failed", exc_info=error)
        return EngineError(500, "The engine failed.", "engine_error")

    async def _watch(self) -> None:
        """Keep the gauges: statistics come only while the engine works."""
        while True:
            await self._busy.wait()
            try:
                async for row in self._llm.get_stats_async(timeout=STATS_SECONDS):
                    self._gauges = read_stats(row, self._arguments.get("pipeline_parallel_size", 1))
            except Exception:
                log.exception("Statistics could not be read; the engine's gauges are gone until it starts again")
                self._gauges = Gauges()
                return
            await asyncio.sleep(STATS_SECONDS)

    # --- the library's objects ---

    def _tokenize(self, text: str, special: bool = False) -> list[int]:
        """Return the text's tokens; those of special tokens are recognized, and added only with `special`."""
        return list(self._tokenizer.encode(text, add_special_tokens=special))

    def _sampling(self, given: dict[str, Any], request: GenerateRequest) -> Any:
        """Return the library's object for a request's sampling."""
        from tensorrt_llm.sampling_params import GuidedDecodingParams, SamplingParams  # noqa: PLC0415  at use

        if request.guided is not None:
            schema = request.guided.get("json")
            form = {"json_object": True} if schema is None else {"json": schema}
            given["guided_decoding"] = GuidedDecodingParams(**form)
        if request.sampling.logit_bias:
            given["embedding_bias"] = self._bias(request.sampling.logit_bias)
        return SamplingParams(**given)

    def _bias(self, bias: Mapping[str, float]) -> Any:
        import torch  # noqa: PLC0415  at use

        row = torch.zeros(self._vocabulary, dtype=torch.float32)
        for token, value in bias.items():
            row[int(token)] = value
        return row

    def _logprobs(self, output: Any, seen: int, top: int) -> list[dict[str, Any]]:
        """Return the log probabilities of the tokens after the first `seen`, with `top` alternatives each."""
        rows = []
        for token, ranked in zip(output.token_ids[seen:], output.logprobs[seen:], strict=False):
            known = [(one, entry.logprob) for one, entry in ranked.items()]
            known.sort(key=lambda pair: -pair[1])
            own = ranked[token].logprob if token in ranked else known[0][1]
            alternatives = [token_logprob(self._tokenizer.decode([one]), value) for one, value in known[:top]]
            rows.append(token_logprob(self._tokenizer.decode([token]), own) | {"top_logprobs": alternatives})
        return rows
