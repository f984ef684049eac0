"""How `plan` prints a recipe: as a table, as JSON, as the AXEngine to pre-build, and many as a matrix."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from ax_engines.memory import MemoryBudget
from ax_engines.recipe import Recipe, Refusal

CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
API_VERSION = "serving.axmodel.io/v1alpha1"


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one GPU in one format; `marks` says when `auto` takes it."""

    model: str
    gpu: str
    quantization: str
    found: Recipe | Refusal
    marks: str = ""


def memory_parts(budget: MemoryBudget) -> dict[str, int]:
    """Return a budget's parts in MiB per GPU."""
    return {
        "total": budget.total,
        "weights": budget.weights,
        "activations": budget.activations,
        "runtime": budget.runtime,
        "kvCache": budget.kv_cache,
        "reserve": budget.reserve,
    }


def concurrency(recipe: Recipe) -> dict[int, int]:
    """Return context length -> requests of that length that fit one replica, up to its slots."""
    lengths = sorted({*(c for c in CONTEXTS if c < recipe.context_length), recipe.context_length})
    return {c: min(recipe.slots, int(recipe.memory.concurrency(c))) for c in lengths}


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as JSON: what was chosen, its identity, commands, arguments, memory and what was rejected."""
    return {
        "recipe": {
            "backend": recipe.backend,
            "quantization": recipe.quantization,
            "toolchain": recipe.toolchain,
            "pool": recipe.pool,
            "gpuProduct": recipe.gpu_product,
            "gpus": recipe.gpus,
            "tensor": recipe.tensor,
            "pipeline": recipe.pipeline,
            "buildGpus": recipe.build_gpus,
            "contextLength": recipe.context_length,
            "slots": recipe.slots,
            "capacityPerReplica": recipe.capacity_per_replica,
            "kvTokens": recipe.memory.kv_tokens,
            "kvBytesPerToken": recipe.memory.kv_bytes_per_token,
            "trustRemoteCode": recipe.trust_remote_code,
            "engine": recipe.artifact.name,
            "phases": [phase.name for phase in recipe.artifact.phases],
            "requests": {"cpu": recipe.cpu_request, "memory": recipe.memory_request},
            "notes": list(recipe.notes),
        },
        "digest": recipe.artifact.digest,
        "commands": [list(command) for command in recipe.commands],
        "llmArgs": dict(recipe.engine_args),
        "memory": memory_parts(recipe.memory),
        "concurrency": {str(length): count for length, count in concurrency(recipe).items()},
        "rejected": [asdict(r) for r in recipe.rejected],
    }


def recipe_json(recipe: Recipe) -> str:
    """Return `as_dict` as text."""
    return json.dumps(as_dict(recipe), indent=2, ensure_ascii=False) + "\n"


def refusal_json(refusal: Refusal) -> str:
    """Return why there is no recipe, as JSON."""
    return json.dumps(asdict(refusal), indent=2, ensure_ascii=False) + "\n"


def refusal_text(refusal: Refusal) -> str:
    """Return why there is no recipe, a line per option."""
    lines = [f"{refusal.reason}: {refusal.message}", *(f"  {r.option}: {r.reason}" for r in refusal.rejected)]
    return "\n".join(lines) + "\n"


def manifest(recipe: Recipe) -> str:
    """Return the AXEngine to apply, so that the artifact is there before a model asks for it."""
    body = {
        "apiVersion": API_VERSION,
        "kind": "AXEngine",
        "metadata": {"name": recipe.artifact.name},
        "spec": recipe.artifact.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=115)


def table(recipe: Recipe) -> str:
    """Return a recipe for people: choice, memory, concurrency, commands, arguments, what was rejected."""
    where = f"{recipe.gpus} x {recipe.gpu_product}" if recipe.gpus else "CPU"
    ranks = f" (tensor {recipe.tensor}, pipeline {recipe.pipeline})" if recipe.gpus > 1 else ""
    build = f"{recipe.build_gpus} GPUs" if recipe.build_gpus else "no GPU"
    parts = [
        f"engine      {recipe.artifact.name}",
        f"serves on   {where}{ranks}",
        f"backend     {recipe.backend}, quantization {recipe.quantization}, toolchain {recipe.toolchain}",
        f"limits      {recipe.context_length} tokens per request, {recipe.slots} requests at once",
        f"build       {' > '.join(p.name for p in recipe.artifact.phases)}, {build}",
        f"requests    cpu {recipe.cpu_request}, memory {recipe.memory_request}",
        "",
        f"memory per {'GPU' if recipe.gpus else 'replica'} (MiB, estimated)",
        *(f"  {name:<12}{value:>8}" for name, value in memory_parts(recipe.memory).items()),
        "",
        "requests at once, by tokens per request",
        *(f"  {length:>8}{count:>8}" for length, count in concurrency(recipe).items()),
    ]
    parts += _section("commands", (shlex.join(command) for command in recipe.commands))
    parts += _section("arguments of the engine", (f"{k}: {json.dumps(v)}" for k, v in recipe.engine_args.items()))
    parts += _section("notes", recipe.notes)
    parts += _section("not taken", (f"{r.option}: {r.reason}" for r in recipe.rejected))
    return "\n".join(parts) + "\n"


def _section(title: str, lines: Iterable[str]) -> list[str]:
    kept = [f"  {line}" for line in lines]
    return ["", title, *kept] if kept else []


def matrix_json(cells: Sequence[Cell]) -> str:
    """Return the matrix as a JSON list."""
    rows = []
    for cell in cells:
        row: dict[str, Any] = {"model": cell.model, "gpu": cell.gpu, "quantization": cell.quantization}
        if isinstance(cell.found, Refusal):
            row |= {"reason": cell.found.reason, "message": cell.found.message}
        else:
            row |= {"auto": cell.marks, **as_dict(cell.found)}
        rows.append(row)
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def matrix_table(cells: Sequence[Cell]) -> str:
    """Return the matrix as a Markdown table per model: a line per GPU and format, the result or the reason."""
    lines = []
    model = None
    for cell in cells:
        if cell.model != model:
            model = cell.model
            lines += ["", f"## {model}", "", "| GPU | format | recipe | auto |", "| --- | --- | --- | --- |"]
        lines.append(f"| {cell.gpu} | {cell.quantization} | {_outcome(cell.found)} | {cell.marks} |")
    return "\n".join(lines[1:]) + "\n"


def _outcome(found: Recipe | Refusal) -> str:
    if isinstance(found, Refusal):
        reasons = [r.reason for r in found.rejected]
        return f"no: {reasons[-1] if reasons else found.message}"
    if not found.gpus:
        return f"{found.backend}, {found.context_length} tokens, {found.slots} slots, {found.memory.total} MiB"
    per_gpu = found.memory.concurrency(found.context_length) / found.gpus
    split = f"{found.gpus} GPU" if found.gpus == 1 else f"{found.gpus} GPUs (tp {found.tensor}, pp {found.pipeline})"
    build = f", calibrated on {found.build_gpus}" if found.artifact.calibration else ""
    return (
        f"{found.backend}, {split}, {found.context_length} tokens, {found.slots} slots,"
        f" {per_gpu:.2f} full contexts per GPU, weights {found.memory.weights} MiB{build}"
    )
