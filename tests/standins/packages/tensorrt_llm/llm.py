"""Stand-in: the LLM class, its results and its statistics."""

import asyncio
import itertools
import json
import threading
from dataclasses import dataclass, field

from tensorrt_llm.sampling_params import FACTS, SamplingParams
from tests.engines.trtllm_flags import check_llm_args

STEP_SECONDS = 0.002
BLOCKS = 100
PROMPT_BYTES = 4
"""Bytes of a prompt's token."""


class RequestError(RuntimeError):
    """One request was refused."""


class Tokenizer:
    """Every piece that was ever met is a token of its own."""

    def __init__(self):
        self.pieces = []

    def encode(self, text, add_special_tokens=True):
        """Return tokens; special tokens would be added unless told otherwise."""
        data = text.encode()
        pieces = [data[at : at + PROMPT_BYTES] for at in range(0, len(data), PROMPT_BYTES)]
        self.pieces += pieces
        first = len(self.pieces) - len(pieces)
        return ([0] if add_special_tokens else []) + list(range(first, len(self.pieces)))

    def token(self, piece):
        """Return the number of a generated piece."""
        self.pieces.append(piece)
        return len(self.pieces) - 1

    def decode(self, tokens, **_):
        """Return the text, with replacement characters for broken ones."""
        return b"".join(self.pieces[token] for token in tokens).decode(errors="replace")


@dataclass
class Logprob:
    """As the library's."""

    logprob: float
    rank: int | None = None


@dataclass
class CompletionOutput:
    """As the library's, updated in place."""

    index: int
    text: str = ""
    token_ids: list = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list = field(default_factory=list)
    prompt_logprobs: list = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: object = None
    generation_logits: object = None
    disaggregated_params: object = None
    request_perf_metrics: object = None


class Script:
    """What a prompt asks the stand-in to do, as lines of `word:rest`.

    say: the text to say; forever: say it again and again; fail: raise this RequestError at once; break: raise this
    RuntimeError in the middle; die: end the whole engine before the first token; finish: the finish reason.
    """

    def __init__(self, prompt):
        lines = dict(line.partition(":")[::2] for line in prompt.splitlines() if ":" in line)
        self.say = lines.get("say", "ok")
        self.forever = "forever" in lines
        self.fail, self.broken, self.die = lines.get("fail"), lines.get("break"), "die" in lines
        self.finish = lines.get("finish", "stop")

    def pieces(self):
        """Return what is said, in pieces of two bytes."""
        data = self.say.encode()
        once = [data[at : at + 2] for at in range(0, len(data), 2)]
        return itertools.cycle(once) if self.forever else once


class RequestOutput:
    """One request under way: an asynchronous iterator of itself."""

    def __init__(self, llm, request_id, tokens, sampling):
        self.request_id, self.prompt, self.prompt_token_ids = request_id, None, tokens
        self.outputs, self.context_logits, self.finished = [CompletionOutput(0)], None, False
        self.cached_tokens = 1
        self.sampling = sampling
        self._llm = llm
        self._script = Script(llm.tokenizer.decode(tokens))
        self._pieces = iter(self._script.pieces())
        self._aborted = False

    def abort(self):
        """Drop the request."""
        self._aborted = True
        self._llm.drop(self)

    def aborted(self):
        """Whether it was dropped."""
        return self._aborted

    def __aiter__(self):
        """Be iterated."""
        return self

    async def __anext__(self):
        """Take a step."""
        if self.finished:
            raise StopAsyncIteration
        await asyncio.sleep(STEP_SECONDS)
        if self._script.fail:
            self._llm.drop(self)
            raise RequestError(self._script.fail)
        if self._script.broken:
            self._llm.drop(self)
            raise RuntimeError(self._script.broken)
        output = self.outputs[0]
        piece = next(self._pieces, None)
        if piece is not None:
            self._take(output, piece)
        if self._aborted:
            self._end("cancelled")
        elif piece is None:
            self._end(self._script.finish)
        elif len(output.token_ids) >= self.sampling.max_tokens:
            self._end("length")
        return self

    def _take(self, output, piece):
        token = self._llm.tokenizer.token(piece)
        output.token_ids.append(token)
        output.text = self._llm.tokenizer.decode(output.token_ids)
        if self.sampling.logprobs:
            others = {token - rank: Logprob(-1.0 - rank, rank + 1) for rank in range(1, self.sampling.logprobs)}
            output.logprobs.append({token: Logprob(-0.5, 1), **others})

    def _end(self, reason):
        assert reason in FACTS["finishReasons"]
        self.outputs[0].finish_reason = reason
        self.finished = True
        self._llm.drop(self)


class BaseLLM:
    """Takes the arguments of one backend and generates what prompts ask for."""

    backend = ""

    def __init__(self, **arguments):
        """Check every argument as the real class would, and load."""
        folders = {name: arguments.pop(name) for name in ("model", "tokenizer")}
        assert all(isinstance(folder, str) for folder in folders.values()), folders
        check_llm_args(self.backend, arguments)
        self.arguments = arguments
        self.tokenizer = Tokenizer()
        self.active, self.aborted, self.asked = [], [], []
        self.ended = False
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self.load(folders["model"])

    def load(self, folder):
        """Load a folder."""

    def generate_async(self, inputs, sampling_params=None, **keywords):
        """Begin a request; needs a running loop, as the answer is iterated on it."""
        asyncio.get_running_loop()
        unknown = set(keywords) - set(FACTS["generateAsync"])
        assert not unknown, f"generate_async has no {unknown}"
        assert keywords.get("streaming") is True
        assert isinstance(sampling_params, SamplingParams)
        assert isinstance(inputs, list)
        if self.ended:
            raise RuntimeError("LLM is shutting down")
        result = RequestOutput(self, next(self._ids), inputs, sampling_params)
        if result._script.die:
            self.ended = True
            raise RuntimeError("LLM is shutting down")
        with self._lock:
            self.asked.append(sampling_params)
            self.active.append(result)
        return result

    def drop(self, result):
        """Forget a request."""
        with self._lock:
            if result in self.active:
                self.active.remove(result)
                if result.aborted():
                    self.aborted.append(result.request_id)

    async def get_stats_async(self, timeout=2):  # noqa: ASYNC109  the library's own word
        """Yield one row, if the arguments ask for statistics and something is active."""
        await asyncio.sleep(min(timeout, STEP_SECONDS))
        enabled = self.arguments.get(FACTS["statistics"]["enabledBy"][self.backend])
        if enabled and self.active:
            active, scheduled = len(self.active), min(len(self.active), self.arguments.get("max_batch_size", 1))
            row = {
                "iter": 1,
                "numActiveRequests": active,
                "numQueuedRequests": 0,
                "kvCacheStats": {
                    "maxNumBlocks": BLOCKS,
                    "usedNumBlocks": 10 * active,
                    "freeNumBlocks": BLOCKS - 10 * active,
                },
                "inflightBatchingStats": {"numScheduledRequests": scheduled, "numGenRequests": scheduled},
            }
            assert set(row) <= set(FACTS["statistics"]["row"])
            yield json.loads(json.dumps(row))

    def shutdown(self):
        """End."""
        self.ended = True


class LLM(BaseLLM):
    """Takes TorchLlmArgs and a Hugging Face folder."""

    backend = "pytorch"
