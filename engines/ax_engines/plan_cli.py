"""`python -m ax_engines plan`: which artifact, GPUs and commands a model would get, without a cluster.

Plans from the catalogue (or from a resolved source given as a file), for nodes with so many GPUs of one kind. Exit
status 0 with a recipe, 2 with the reasons why there is none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from ax_engines import catalogue, plan_text
from ax_engines.contract import Backend, Calibration, HuggingFaceSource, Quantization, ResolvedSource, Source
from ax_engines.hardware import CPU_POOL, Gpu, Pool, Toolchain, gpu_of
from ax_engines.hardware_table import load_gpus
from ax_engines.memory import parameter_count
from ax_engines.models import CatalogueEntry
from ax_engines.recipe import KvDtype, Recipe, Refusal, Wishes, recipe

# What the plan assumes when no list is given; the chart's own list decides in a cluster.
DEFAULT_TOOLCHAINS = (
    Toolchain(
        name="26.07",
        image="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        backends=("tensorrt", "pytorch", "transformers"),
        tensorrt_llm="1.2.1",
        triton="2.71.0",
        gpu=True,
        model_optimizer="/opt/model-optimizer/examples/llm_ptq",
    ),
    Toolchain(name="cpu", image="ax-triton-cpu", backends=("llamacpp", "transformers")),
)
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
ASSUMED_CALIBRATION = Calibration(claim_name="calibration")


@dataclass(frozen=True)
class Setup:
    """What plans are made from: catalogue, GPUs, toolchains, GPUs per node."""

    entries: Mapping[str, CatalogueEntry]
    gpus: tuple[Gpu, ...]
    toolchains: tuple[Toolchain, ...] = DEFAULT_TOOLCHAINS
    per_node: int = 8
    resolved: ResolvedSource | None = field(default=None)

    def pool(self, product: str) -> Pool:
        """Return a pool of one node with GPUs of this product."""
        if product == CPU_POOL:
            return Pool(CPU_POOL, None, 0, 1, 0, 0, None, 0)
        known = gpu_of(product, self.gpus)
        memory, sm = (known.memory_mib, known.sm) if known else (0, None)
        return Pool(product.lower(), product, self.per_node, 1, self.per_node, self.per_node, sm, memory)

    def plan(self, name: str, products: tuple[str, ...], wishes: Wishes, revision: str = "main") -> Recipe | Refusal:
        """Return the recipe of a catalogue model for nodes of these products (and for the CPU pool)."""
        entry = self.entries.get(name)
        if entry is None:
            known = ", ".join(sorted(self.entries))
            return Refusal("UnknownModel", f"{name} is not in the catalogue; it has {known}")
        pools = tuple(self.pool(product) for product in dict.fromkeys((CPU_POOL, *products)))
        source = Source(hugging_face=HuggingFaceSource(repo=entry.hub_id, revision=revision))
        resolved = self.resolved or assumed(entry, revision)
        return recipe(source, resolved, entry, wishes, pools, self.toolchains, self.gpus)


def assumed(entry: CatalogueEntry, revision: str) -> ResolvedSource:
    """Return what the resolve step would find, as far as the catalogue knows; sizes follow from the shape."""
    config = entry.assumed_config()
    size = 2 * parameter_count(config)
    # Code of the repository has to be pinned; a plan without a cluster stands for any commit.
    commit = revision if revision != "main" else "0" * 40
    return ResolvedSource(revision=commit, format=entry.format, files=1, bytes=size, config=config)


def parser() -> argparse.ArgumentParser:
    """Return the command line of the subcommand."""
    out = argparse.ArgumentParser(prog="ax-engines plan", description="Plan how a model would be built and served.")
    out.add_argument("--model", help="name in the catalogue, for example A.X-4.0")
    out.add_argument("--gpu", action="append", help="GPU product as in nvidia.com/gpu.product, or cpu; repeatable")
    out.add_argument("--gpus", type=int, default=8, metavar="N", help="GPUs of one node (8)")
    out.add_argument("--backend", choices=("auto", *get_args(Backend)), default="auto")
    out.add_argument("--quantization", choices=("auto", *QUANTIZATIONS), default="auto")
    out.add_argument("--prefer", choices=("throughput", "quality"), default="throughput")
    out.add_argument("--calibration", metavar="CLAIM[:PATH]", help="data set for formats that need calibration")
    out.add_argument("--tensor", type=int, metavar="N", help="tensor ranks")
    out.add_argument("--pipeline", type=int, metavar="N", help="pipeline ranks")
    out.add_argument("--max-batch-size", type=int, metavar="N", help="requests that generate at once")
    out.add_argument("--max-input-tokens", type=int, metavar="N", help="longest prompt")
    out.add_argument("--max-total-tokens", type=int, metavar="N", help="longest prompt plus answer")
    out.add_argument("--kv-cache", choices=get_args(KvDtype), default="auto", help="type of the KV cache")
    out.add_argument("--revision", default="main", help="commit that the digest is for (default: a placeholder)")
    out.add_argument("--resolved", type=Path, metavar="FILE", help="a resolved source as JSON: plan from real facts")
    out.add_argument("--toolchain", help="name of a toolchain")
    out.add_argument("--toolchains", type=Path, metavar="FILE", help="YAML list of toolchains as in the chart's values")
    out.add_argument("--format", choices=("table", "json", "manifest"), default="table")
    out.add_argument("--all", action="store_true", help="every model, GPU and format, calibration data assumed")
    return out


def main(argv: list[str]) -> int:
    """Run the subcommand; 2 when nothing fits or the command line is wrong."""
    args = parser().parse_args(argv)
    try:
        setup = Setup(
            entries=catalogue.load(),
            gpus=load_gpus(),
            toolchains=_toolchains(args.toolchains),
            per_node=args.gpus,
            resolved=ResolvedSource.from_json(args.resolved.read_bytes()) if args.resolved else None,
        )
    except (OSError, ValidationError, yaml.YAMLError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if args.all:
        cells = matrix(setup, [args.model] if args.model else None, args.gpu)
        sys.stdout.write(plan_text.matrix_json(cells) if args.format == "json" else plan_text.matrix_table(cells))
        return 0
    if not args.model or not args.gpu:
        sys.stderr.write("give --model and --gpu, or --all; --help tells more\n")
        return 2
    found = setup.plan(args.model, tuple(args.gpu), _wishes(args), args.revision)
    if isinstance(found, Refusal):
        sys.stdout.write(plan_text.refusal_json(found) if args.format == "json" else "")
        sys.stderr.write(plan_text.refusal_text(found))
        return 2
    write = {"table": plan_text.table, "json": plan_text.recipe_json, "manifest": plan_text.manifest}[args.format]
    sys.stdout.write(write(found))
    return 0


def _wishes(args: argparse.Namespace) -> Wishes:
    claim, _, path = (args.calibration or "").partition(":")
    only_cpu = args.gpu == [CPU_POOL]
    return Wishes(
        backend=args.backend,
        quantization=args.quantization,
        prefer=args.prefer,
        calibration=Calibration(claim_name=claim, path=path or ".") if claim else None,
        toolchain=args.toolchain,
        tensor=args.tensor,
        pipeline=args.pipeline,
        max_batch_size=args.max_batch_size,
        max_input_tokens=args.max_input_tokens,
        max_total_tokens=args.max_total_tokens,
        kv_dtype=args.kv_cache,
        gpu=CPU_POOL if only_cpu else "auto",
    )


def _toolchains(file: Path | None) -> tuple[Toolchain, ...]:
    if file is None:
        return DEFAULT_TOOLCHAINS
    return TypeAdapter(tuple[Toolchain, ...]).validate_python(yaml.safe_load(file.read_text(encoding="utf-8")))


def matrix(setup: Setup, models: list[str] | None, products: list[str] | None) -> list[plan_text.Cell]:
    """Return one cell per model, GPU and format, and which of them `auto` takes with and without calibration."""
    cells = []
    for name in models or sorted(setup.entries):
        entry = setup.entries.get(name)
        if entry is not None and entry.format == "gguf":
            cells.append(plan_text.Cell(name, CPU_POOL, "none", setup.plan(name, (), Wishes()), "auto"))
            continue
        for product in products or [gpu.product for gpu in setup.gpus]:
            bare = _format_of(setup.plan(name, (product,), Wishes()))
            calibrated = _format_of(setup.plan(name, (product,), Wishes(calibration=ASSUMED_CALIBRATION)))
            for quantization in QUANTIZATIONS:
                wishes = Wishes(quantization=quantization, calibration=ASSUMED_CALIBRATION)
                found = setup.plan(name, (product,), wishes)
                marks = [m for m, f in (("auto", bare), ("auto, calibrated", calibrated)) if f == quantization]
                cells.append(plan_text.Cell(name, product, quantization, found, "; ".join(marks)))
    return cells


def _format_of(found: Recipe | Refusal) -> str | None:
    return found.quantization if isinstance(found, Recipe) else None
