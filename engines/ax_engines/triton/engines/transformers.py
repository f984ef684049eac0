"""Models of Hugging Face's transformers, also those that see images: for what TensorRT-LLM does not support.

One thread runs the model: it lets one prompt in between two steps of the batch, so that those who wait for tokens
wait for at most one prompt. Tokenizing and image processing happen before, on a thread of their own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ax_engines.contract import MANIFEST, Manifest, ServingOptions
from ax_engines.triton.adaptor import EngineStats, OnAnswer
from ax_engines.triton.engines.checkpoint import load_checkpoint, tensors_of
from ax_engines.triton.engines.choice import Choice, refuse_fields, refuse_size, token_logprob
from ax_engines.triton.engines.ending import end_process, one_line
from ax_engines.triton.engines.pictures import decode_all
from ax_engines.triton.engines.text import Text
from ax_engines.wire import EngineError, GenerateRequest

log = logging.getLogger(__name__)
STOP_SECONDS = 30
NO_MEMORY = EngineError(503, "The GPU's memory is full; retry, or send a shorter request.", "out_of_memory", 5)
FAILED = EngineError(500, "The engine failed.", "engine_error")
STOPPING = EngineError(503, "The model is being stopped; retry.", "stopping", 1)


@dataclass(eq=False)
class Generation:
    """One choice on its way: asked, prepared, then a row of the batch."""

    request: GenerateRequest
    choice: Choice
    index: int
    cancelled: bool = False
    prompt: list[int] = field(default_factory=list)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    picker: Any = None
    text: Text | None = None
    made: int = 0
    room: int = 0


class TransformersEngine:
    """One model and one batch."""

    def __init__(self, on_death: Callable[[], None] = end_process) -> None:
        """`on_death` is called when the GPU can no longer be used by this process."""
        self._on_death = on_death
        self._changed = threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._stopped = False

    def start(self, options: ServingOptions, folder: Path) -> None:
        """Load the model; raises RuntimeError with one sentence that says why not."""
        import torch  # noqa: PLC0415  only this engine's image has it

        from ax_engines.triton.engines.batch import Batch  # noqa: PLC0415  needs torch

        manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
        self._sees = manifest.config.vision is not None
        self._context, self._slots = options.context_length, options.slots
        torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
        try:
            loaded = load_checkpoint(options, folder, self._sees)
        except Exception as error:
            log.exception("Transformers did not start")
            raise RuntimeError(f"transformers could not load the model {options.engine}: {one_line(error)}") from error
        self._model, self._ends = loaded.model, loaded.ends
        self._reader, self._tokenizer, self._processor = loaded.reader, loaded.tokenizer, loaded.processor
        self._batch: Batch[Generation] = Batch(self._model)
        self._preparing = ThreadPoolExecutor(2, thread_name_prefix="prepare")
        self._tokenizing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="transformers", daemon=True)
        self._thread.start()

    def submit(self, request: GenerateRequest, index: int, on_answer: OnAnswer) -> Generation:
        """Begin choice `index`."""
        generation = Generation(request, Choice(index, request.sampling, on_answer), index)
        self._preparing.submit(self._prepare, generation)
        return generation

    def cancel(self, handle: Generation) -> None:
        """Let the request end before the next step."""
        with self._changed:
            handle.cancelled = True
            self._changed.notify()

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens the model's own tokenizer makes of a rendered prompt."""
        return len(self._tokenize(prompt))

    def stats(self) -> EngineStats:
        """Return the share of the room for tokens that is in use; there is no cache of a fixed size."""
        rows = list(self._batch.rows)
        with self._changed:
            waiting = len(self._waiting)
        return EngineStats(min(1.0, sum(row.length for row in rows) / (self._context * self._slots)), waiting)

    def stop(self) -> None:
        """End what runs."""
        self._preparing.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(STOP_SECONDS)

    # --- before the model ---

    def _prepare(self, generation: Generation) -> None:
        """Make tensors of a request and let it wait for its turn; end it if that cannot be done."""
        try:
            refusal = self._read(generation)
        except ValueError as error:
            refusal = EngineError(400, f"The engine refused the request: {one_line(error)}.", "invalid_request")
        except Exception:
            log.exception("Request could not be prepared")
            refusal = FAILED
        if refusal:
            generation.choice.fail(refusal)
            return
        with self._changed:
            self._waiting.append(generation)
            self._changed.notify()

    def _read(self, generation: Generation) -> EngineError | None:
        from ax_engines.triton.engines.form import form_of  # noqa: PLC0415  needs torch
        from ax_engines.triton.engines.sampler import Picker  # noqa: PLC0415  needs torch

        request, device = generation.request, self._model.device
        sampling = request.sampling
        if refusal := refuse_fields("This model", {"image_url": request.images and not self._sees}):
            return refusal
        if request.images:
            inputs = self._look(request)
        else:
            given = request.token_ids
            tokens = self._tokenize(request.prompt or "", request.special) if given is None else list(given)
            if refusal := refuse_size(len(tokens), sampling.max_tokens, self._context):
                return refusal
            inputs = tensors_of(tokens)
        generation.inputs = {name: value.to(device) for name, value in inputs.items()}
        generation.prompt = inputs["input_ids"][0].tolist()
        generation.room = sampling.max_tokens or self._context - len(generation.prompt)
        generation.choice.prompt_tokens = len(generation.prompt)
        form = form_of(request.guided, self._reader, self._model) if request.guided is not None else None
        ends = self._ends | frozenset(sampling.stop_token_ids)
        generation.picker = Picker(sampling, generation.index, generation.prompt, ends, form)
        generation.text = Text(self._reader)
        return refuse_size(len(generation.prompt), sampling.max_tokens, self._context)

    def _look(self, request: GenerateRequest) -> Mapping[str, Any]:
        """Return the tensors of a prompt with images, resized and counted as the model's processor does."""
        pictures = decode_all(request.images)
        with self._tokenizing:
            try:
                inputs: Mapping[str, Any] = self._processor(
                    text=[request.prompt], images=pictures, return_tensors="pt", add_special_tokens=request.special
                )
            except (ValueError, IndexError, TypeError, KeyError) as error:
                raise ValueError(f"the images do not fit the prompt ({one_line(error)})") from error
        return inputs

    def _tokenize(self, text: str, special: bool = False) -> list[int]:
        """Return the text's tokens; those of special tokens are recognized, and added only with `special`."""
        with self._tokenizing:
            return list(self._tokenizer.encode(text, add_special_tokens=special))

    # --- the model's thread ---

    def _run(self) -> None:
        import torch  # noqa: PLC0415  at use

        try:
            with torch.inference_mode():
                while self._next():
                    pass
        except Exception:
            log.exception("The model's thread has ended, this process ends too")
            self._on_death()
        for row in self._batch.rows:
            row.owner.choice.fail(STOPPING)
        for generation in self._waiting:
            generation.choice.fail(STOPPING)

    def _next(self) -> bool:
        """Let one prompt in and take one step, waiting for something to do; False at the end."""
        with self._changed:
            while not (self._waiting or self._batch.rows or self._stopped):
                self._changed.wait()
            if self._stopped:
                return False
            entrant = self._waiting.popleft() if self._waiting else None
        self._drop([row for row in self._batch.rows if row.owner.cancelled])
        if entrant:
            self._admit(entrant)
        if self._batch.rows:
            self._step()
        return True

    def _admit(self, generation: Generation) -> None:
        """Run a prompt and say its first token."""
        if generation.cancelled:
            generation.choice.end("cancelled")
            return
        try:
            row, cache, logits = self._batch.prefill(generation, generation.inputs)
        except Exception as error:
            generation.choice.fail(self._failure(error))
            return
        generation.inputs = {}
        row.token = self._pick(generation, logits)
        if not generation.choice.ended:
            self._batch.join(row, cache)

    def _step(self) -> None:
        """Say every row's next token."""
        rows = list(self._batch.rows)
        try:
            logits = self._batch.step()
            likely = logits.argmax(dim=-1).tolist()
        except Exception as error:
            failure = self._failure(error)
            # Without memory the newest goes, so that the others can go on; any other failure is everybody's.
            for row in rows[-1:] if failure is NO_MEMORY else rows:
                row.owner.choice.fail(failure)
        else:
            for at, row in enumerate(rows):
                if row.owner.picker.plain:
                    row.owner.picker.note(likely[at])
                    row.token = self._say(row.owner, likely[at])
                else:
                    row.token = self._pick(row.owner, logits[at])
        self._drop([row for row in rows if row.owner.choice.ended])

    def _drop(self, rows: list[Any]) -> None:
        for row in rows:
            row.owner.choice.end("cancelled")  # unless it has ended
        self._batch.leave(rows)

    def _pick(self, generation: Generation, logits: Any) -> int:
        """Say the token that a choice's sampling picks; what goes wrong here is this choice's alone."""
        try:
            picked = generation.picker.pick(logits)
        except Exception as error:
            generation.choice.fail(self._failure(error))
            return 0
        if picked.logprob is None:
            return self._say(generation, picked.token)
        told = [token_logprob(self._spell(token), value) for token, value in picked.top]
        own = token_logprob(self._spell(picked.token), picked.logprob) | {"top_logprobs": told}
        return self._say(generation, picked.token, [own])

    def _spell(self, token: int) -> str:
        return str(self._reader.decode([token]))

    def _say(self, generation: Generation, token: int, logprobs: list[dict[str, Any]] | None = None) -> int:
        """Send a token's text, or end the choice; returns the token."""
        choice, sampling, text = generation.choice, generation.request.sampling, generation.text
        assert text is not None  # noqa: S101  set when it was prepared
        generation.made += 1
        ends = token in sampling.stop_token_ids or (token in self._ends and not sampling.ignore_eos)
        if ends and generation.made > sampling.min_tokens:
            choice.add("", 1, None)
            choice.end("stop", text.rest())
        elif not choice.add(text.push(token), 1, logprobs) and generation.made >= generation.room:
            choice.end("length", text.rest())
        return token

    def _failure(self, error: Exception) -> EngineError:
        """Return what the client is told; a GPU that refuses everything from now on ends the process."""
        import torch  # noqa: PLC0415  at use

        if isinstance(error, ValueError):
            return EngineError(400, f"The engine refused the request: {one_line(error)}.", "invalid_request")
        if isinstance(error, torch.OutOfMemoryError):
            log.warning("GPU memory was full: rows=%d", len(self._batch.rows))
            torch.cuda.empty_cache()
            return NO_MEMORY
        log.error("Model failed", exc_info=error)
        if "CUDA error" in str(error):
            self._on_death()
        return FAILED


ENGINE = TransformersEngine
