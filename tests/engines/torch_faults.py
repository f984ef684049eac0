"""Lets a tiny model fail in the middle of its layers and prints what its clients were told, as JSON.

Run with the packages of locks/torch.txt: `python torch_faults.py MODELS FAULT`, FAULT is `memory` or `device`.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from ax_engines.contract import Manifest, ModelConfig, ServingOptions
from ax_engines.triton.adaptor import Answer
from ax_engines.triton.engines.transformers import TransformersEngine
from ax_engines.wire import EngineError, GenerateRequest, Sampling

FAULTS = {
    "memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "device": RuntimeError("CUDA error: an illegal memory access was encountered"),
}
REQUESTS, STEP = 3, 4


class Client:
    """What one client was told."""

    def __init__(self) -> None:
        self.text, self.error, self.ended = "", "", threading.Event()

    def __call__(self, answer: Answer) -> None:
        if isinstance(answer, EngineError):
            self.error = f"{answer.status} {answer.code}"
            self.ended.set()
            return
        self.text += answer.text
        if answer.finish:
            self.ended.set()


class Fault:
    """Fails once, in the last layer, when `REQUESTS` rows take their step number `STEP`."""

    def __init__(self, error: Exception) -> None:
        self.error, self.steps = error, 0

    def __call__(self, _: Any, inputs: tuple[Any, ...]) -> None:
        rows, tokens, _size = inputs[0].shape
        if (rows, tokens) == (REQUESTS, 1):
            self.steps += 1
            if self.steps == STEP:
                raise self.error


def main(models: Path, fault: str) -> None:
    """Run and print."""
    folder = models / "llama"
    cases = json.loads((models / "reference.json").read_text())["llama"][:REQUESTS]
    config = ModelConfig(
        architecture="LlamaForCausalLM", num_hidden_layers=3, hidden_size=64, intermediate_size=96,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=1, max_position_embeddings=512,
    )  # fmt: skip
    manifest = Manifest(
        engine="tiny", artifact="safetensors", quantization="none", revision="test", files=(), config=config,
        architecture="LlamaForCausalLM",
    )  # fmt: skip
    artifact = Path(sys.argv[3])
    for file in folder.iterdir():
        (artifact / file.name).symlink_to(file)
    (artifact / "manifest.json").write_text(manifest.to_json())
    deaths: list[str] = []
    engine = TransformersEngine(on_death=lambda: deaths.append(fault))
    options = ServingOptions(
        model="a/b", engine="tiny", backend="transformers", slots=4, queue=1, context_length=512, threads=1
    )
    engine.start(options, artifact)
    engine._model.model.layers[-1].register_forward_pre_hook(Fault(FAULTS[fault]))
    clients = [Client() for _ in cases]
    for at, (case, client) in enumerate(zip(cases, clients, strict=True)):
        prompt = f"<|im_start|>user\n{case['content']}<|im_end|>\n<|im_start|>assistant\n"
        engine.submit(GenerateRequest(str(at), Sampling(24, temperature=0), prompt=prompt), 0, client)
    told = [client.ended.wait(60) and [client.text == case["text"], client.error]
            for case, client in zip(cases, clients, strict=True)]  # fmt: skip
    engine.stop()
    print(json.dumps({"told": told, "deaths": deaths}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
