"""Every command and argument of every recipe is one that the tools take, as their sources say."""

from __future__ import annotations

import string
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ax_engines import catalogue
from ax_engines.contract import Calibration
from ax_engines.hardware import Toolchain
from ax_engines.hardware_table import load_gpus
from ax_engines.models import context_length
from ax_engines.plan_cli import DEFAULT_TOOLCHAINS, QUANTIZATIONS, Setup
from ax_engines.recipe import Recipe, Wishes
from tests.engines.trtllm_flags import BadCommandError, check_command, check_llm_args, load

GPU_MODELS = ("A.X-3.1", "A.X-3.1-Light", "A.X-4.0", "A.X-4.0-Light", "A.X-4.0-VL-Light")
DATA_SET = Calibration(claim_name="texts", path="korean/news")
# What transformers' from_pretrained takes (huggingface/transformers, Apache-2.0, docs of 4.57 and 5).
AUTO_MODEL_ARGS = {"dtype": str, "device_map": str, "attn_implementation": str}
QUANT_ALGOS = {
    "none": None,
    "fp8": "FP8",
    "awq": "W4A16_AWQ",
    "w4a8-awq": "W4A8_AWQ",
    "int8-wo": "W8A16",
    "int8-sq": "W8A8_SQ_PER_CHANNEL",
    "nvfp4": "NVFP4",
}


@cache
def setup(per_node: int = 8) -> Setup:
    return Setup(catalogue.load(), load_gpus(), DEFAULT_TOOLCHAINS, per_node)


@cache
def recipes() -> tuple[Recipe, ...]:
    """Every model on every GPU, with every backend, format, KV cache type and preference, where there is a recipe."""
    return tuple(_recipes())


def _recipes() -> Iterator[Recipe]:
    for model in GPU_MODELS:
        for gpu in load_gpus():
            for backend in ("tensorrt", "pytorch", "transformers"):
                for quantization in QUANTIZATIONS:
                    for kv in ("auto", "fp8", "int8"):
                        wishes = Wishes(backend=backend, quantization=quantization, kv_dtype=kv, calibration=DATA_SET)
                        found = setup().plan(model, (gpu.product,), wishes)
                        if isinstance(found, Recipe):
                            yield found
            for prefer in ("throughput", "quality"):
                for calibration in (None, DATA_SET):
                    found = setup().plan(model, (gpu.product,), Wishes(prefer=prefer, calibration=calibration))
                    if isinstance(found, Recipe):
                        yield found


def check(recipe: Recipe, commands: tuple[tuple[str, ...], ...]) -> None:
    """Check commands against the tools' facts, and what they say against the recipe."""
    entry = next(e for e in setup().entries.values() if recipe.artifact.name.startswith(slug_of(e.name)))
    context = context_length(entry.assumed_config())
    sm = next(gpu.sm for gpu in load_gpus() if gpu.product == recipe.gpu_product)
    for command in commands:
        found = check_command(command, sm, context)
        ranks = {"tp_size": recipe.tensor, "pp_size": recipe.pipeline, "max_batch_size": recipe.slots}
        for name, value in {**ranks, "max_seq_len": recipe.context_length}.items():
            if getattr(found, name, value) != value:
                raise BadCommandError(f"{name} is {getattr(found, name)}, the recipe says {value}")


def slug_of(name: str) -> str:
    return name.lower().replace(".", "-") + "-"


def test_there_is_a_recipe_for_every_model_backend_and_format() -> None:
    seen = {(r.backend, r.quantization) for r in recipes()}
    assert {q for b, q in seen if b == "tensorrt"} == set(QUANTIZATIONS)
    assert {q for b, q in seen if b == "pytorch"} == {"none", "fp8", "awq", "w4a8-awq", "nvfp4"}
    assert {q for b, q in seen if b == "transformers"} == {"none"}
    assert len(recipes()) > 1000


def test_every_command_of_every_recipe_is_taken_by_its_tool() -> None:
    for recipe in recipes():
        check(recipe, recipe.commands)


def test_every_argument_of_every_recipe_is_taken_by_its_constructor() -> None:
    for recipe in recipes():
        if recipe.backend == "transformers":
            assert {k: type(v) for k, v in recipe.engine_args.items()} == AUTO_MODEL_ARGS
            continue
        check_llm_args(recipe.backend, recipe.engine_args)
        assert recipe.engine_args["tensor_parallel_size"] * recipe.engine_args["pipeline_parallel_size"] == recipe.gpus
        if recipe.artifact.target:  # an engine takes limits up to its own
            assert recipe.engine_args["max_batch_size"] <= recipe.artifact.target.limits.max_batch_size


def test_every_format_is_made_by_the_tool_that_knows_it() -> None:
    algos = load("engine_config")["quantAlgos"]
    for recipe in recipes():
        assert QUANT_ALGOS[recipe.quantization] in (None, *algos)
        for command in recipe.commands:
            tool = next((t for t in ("quantize", "hf_ptq") if f"{t}.py" in " ".join(command)), None)
            if tool:
                made = load(tool)["quantAlgo"][command[command.index("--qformat") + 1]]
                # Weight-only INT8 and the model's own type come through quantize.py only with a quantized KV cache.
                assert made == QUANT_ALGOS[recipe.quantization]
        calibrating = [c for c in recipe.commands if "--qformat" in c]
        assert bool(calibrating) == (recipe.artifact.calibration is not None)


def test_phases_and_gpus_of_a_build_follow_the_commands() -> None:
    for recipe in recipes():
        names = [phase.name for phase in recipe.artifact.phases]
        assert names[0] == "fetch"
        assert names[-1] == "publish"
        assert ("compile" in names) == (recipe.backend == "tensorrt")
        assert ("quantize" in names) == (recipe.artifact.calibration is not None)
        assert recipe.build_gpus >= (recipe.gpus if "compile" in names else 0)
        assert (recipe.artifact.gpu_product is None) == (recipe.build_gpus == 0)
        for command in recipe.commands:
            if command[0] == "trtllm-build":
                assert command[command.index("--workers") + 1] == str(recipe.gpus)


def some(backend: str, quantization: str) -> Recipe:
    return next(r for r in recipes() if (r.backend, r.quantization) == (backend, quantization))


BREAKAGES = {
    "a flag that never was": lambda c: (*c, "--tensor_parallel", "2"),
    "a flag of an older version": lambda c: (*c, "--use_custom_all_reduce", "enable"),
    "a flag without its value": lambda c: (*c, "--max_beam_width") if c[0] == "trtllm-build" else (*c, "--dtype"),
    "a flag twice": lambda c: (*c, *c[-2:]),
    "an abbreviation": lambda c: tuple(a.replace("_size", "_siz").replace("_dir", "_di") for a in c),
    "a word too many": lambda c: (*c, "now"),
    "another program": lambda c: ("trtllm_build", *c[1:]),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
@pytest.mark.parametrize("quantization", ["none", "fp8", "int8-wo"])
def test_a_broken_command_fails_the_contract(quantization: str, breakage: str) -> None:
    recipe = some("tensorrt", quantization)
    for command in recipe.commands:
        check(recipe, (command,))
        with pytest.raises(BadCommandError):
            check(recipe, (BREAKAGES[breakage](command),))


@pytest.mark.parametrize(
    ("tool", "flag", "value"),
    [
        ("trtllm-build", "--gemm_plugin", "enable"),
        ("trtllm-build", "--kv_cache_type", "pages"),
        ("trtllm-build", "--context_fmha", "true"),
        ("trtllm-build", "--max_batch_size", "many"),
        ("trtllm-build", "--max_batch_size", "3"),
        ("trtllm-build", "--max_seq_len", "1000000"),
        ("trtllm-build", "--max_input_len", "999999"),
        ("convert_checkpoint.py", "--dtype", "bf16"),
        ("convert_checkpoint.py", "--tp_size", "3"),
        ("quantize.py", "--qformat", "awq"),
        ("quantize.py", "--kv_cache_dtype", "nvfp4"),
        ("hf_ptq.py", "--qformat", "int8_wo"),
        ("hf_ptq.py", "--kv_cache_qformat", "int8"),
    ],
)
def test_a_wrong_value_fails_the_contract(tool: str, flag: str, value: str) -> None:
    recipe, command = next((r, c) for r in recipes() for c in r.commands if tool in " ".join(c[:2]) and flag in c)
    place = command.index(flag) + 1
    check(recipe, (command,))
    with pytest.raises(BadCommandError):
        check(recipe, ((*command[:place], value, *command[place + 1 :]),))


@settings(deadline=None)
@given(st.data())
def test_any_misspelt_flag_fails_the_contract(data: st.DataObject) -> None:
    recipe = data.draw(st.sampled_from([r for r in recipes() if r.commands]))
    command = data.draw(st.sampled_from(recipe.commands))
    place = data.draw(st.sampled_from([i for i, word in enumerate(command) if word.startswith("--")]))
    spot = data.draw(st.integers(2, len(command[place]) - 1))
    letter = data.draw(st.sampled_from(string.ascii_uppercase))
    wrong = command[place][:spot] + letter + command[place][spot + 1 :]
    with pytest.raises(BadCommandError):
        check(recipe, ((*command[:place], wrong, *command[place + 1 :]),))


@pytest.mark.parametrize(
    ("backend", "change"),
    [
        ("pytorch", {"quant_config": {}}),
        ("pytorch", {"build_config": {}}),
        ("pytorch", {"max_batch": 8}),
        ("pytorch", {"otlp_traces_endpoint": "http://localhost"}),
        ("pytorch", {"decoding_config": {}}),
        ("pytorch", {"guided_decoding_backend": "outlines"}),
        ("pytorch", {"max_seq_len": "4096"}),
        ("pytorch", {"kv_cache_config": {"free_memory_fraction": 0.9}}),
        ("pytorch", {"cuda_graph_config": {"enabled": True}}),
        ("tensorrt", {"cuda_graph_config": {}}),
        ("tensorrt", {"enable_iter_perf_stats": True}),
        ("tensorrt", {"kv_cache_config": {"dtype": "fp8"}}),
        ("tensorrt", {"guided_decoding_backend": "llguidance"}),
    ],
)
def test_a_wrong_argument_fails_the_contract(backend: str, change: dict[str, object]) -> None:
    recipe = some(backend, "fp8")
    check_llm_args(backend, recipe.engine_args)
    with pytest.raises(BadCommandError):
        check_llm_args(backend, {**recipe.engine_args, **change})


def test_what_guides_still_name_but_the_build_lost_is_never_used() -> None:
    gone = set(load("trtllm_build")["gone"])
    for recipe in recipes():
        for command in recipe.commands:
            if command[0] == "trtllm-build":
                assert not gone & set(command)


def test_a_toolchain_without_model_optimizer_offers_no_formats_to_pytorch() -> None:
    plain = Toolchain("plain", "image", ("pytorch",), "1.3.0", gpu=True)
    bare = Setup(catalogue.load(), load_gpus(), (plain,))
    found = bare.plan("A.X-4.0", ("NVIDIA-H100-80GB-HBM3",), Wishes(calibration=DATA_SET))
    assert isinstance(found, Recipe)
    assert (found.backend, found.quantization, found.commands) == ("pytorch", "none", ())
    assert any("has no Model-Optimizer" in r.reason for r in found.rejected)
