"""Engine folders, options and requests for the tensorrt and pytorch adaptors on a stand-in for TensorRT-LLM."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ax_engines.contract import Backend, ChatFacts, Limits, Manifest, ServingOptions, Target
from ax_engines.triton.adaptor import Answer
from ax_engines.triton.engines.llm_api import LlmApiEngine
from ax_engines.wire import Chunk, EngineError, GenerateRequest, Sampling
from tests.engines.serving import SMOLLM2

SECONDS = 20
GREEDY = Sampling(0, temperature=0)
ARGUMENTS: dict[Backend, dict[str, Any]] = {
    "tensorrt": {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "max_batch_size": 8,
        "max_num_tokens": 8192,
        "enable_chunked_prefill": True,
        "guided_decoding_backend": "xgrammar",
        "kv_cache_config": {"enable_block_reuse": True, "free_gpu_memory_fraction": 0.9},
    },
    "pytorch": {
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "max_batch_size": 8,
        "max_num_tokens": 8192,
        "enable_chunked_prefill": True,
        "guided_decoding_backend": "xgrammar",
        "dtype": "bfloat16",
        "max_input_len": 999,
        "max_seq_len": 1000,
        "kv_cache_config": {"enable_block_reuse": True, "free_gpu_memory_fraction": 0.9, "dtype": "auto"},
        "cuda_graph_config": {"max_batch_size": 8, "enable_padding": True},
        "enable_iter_perf_stats": True,
    },
}


class Answers:
    """What an engine answered to one choice."""

    def __init__(self) -> None:
        self.all: list[Answer] = []
        self._changed = threading.Condition()

    def __call__(self, answer: Answer) -> None:
        with self._changed:
            self.all.append(answer)
            self._changed.notify_all()

    def wait_for(self, true: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(true, SECONDS), self.all

    def ended(self) -> bool:
        return bool(self.all) and (isinstance(self.all[-1], EngineError) or self.all[-1].finish is not None)

    def last(self) -> Any:
        self.wait_for(self.ended)
        return self.all[-1]

    @property
    def text(self) -> str:
        return "".join(answer.text for answer in self.all if isinstance(answer, Chunk))


def artifact(folder: Path, backend: Backend) -> Path:
    """Write what the build publishes, as far as the adaptors and the stand-in look at it."""
    target = None
    config: dict[str, Any] = {"architectures": ["LlamaForCausalLM"]}
    if backend == "tensorrt":
        limits = Limits(max_batch_size=8, max_input_tokens=999, max_total_tokens=1000)
        target = Target(sm=90, tensorrt_llm="1.2.1", tensor=2, pipeline=1, limits=limits)
        config = {
            "version": "1.2.1",
            "build_config": {},
            "pretrained_config": {"mapping": {"tp_size": 2, "pp_size": 1}},
        }
    manifest = Manifest(
        engine="llama-0123456789",
        artifact="tensorrt" if target else "safetensors",
        quantization="none",
        revision="test",
        architecture="LlamaForCausalLM",
        target=target,
        files=(),
        chat=ChatFacts(vocab_size=16),
        config=SMOLLM2.model_copy(update={"vocab_size": 16}),
    )
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest.to_json())
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def serving(backend: Backend, **arguments: Any) -> ServingOptions:
    """Return the options of a pod with these arguments beside the recipe's."""
    engine_args = {**ARGUMENTS[backend], **arguments}
    return ServingOptions(
        model="demo/llama",
        engine="llama-0123456789",
        backend=backend,
        slots=8,
        queue=8,
        context_length=1000,
        engine_args=engine_args,
    )


def ask(engine: LlmApiEngine, prompt: str, sampling: Sampling = GREEDY, index: int = 0, **more: Any) -> Answers:
    """Begin a request and return its answers to come."""
    answers = Answers()
    engine.submit(GenerateRequest("one", sampling, prompt=prompt, **more), index, answers)
    return answers
