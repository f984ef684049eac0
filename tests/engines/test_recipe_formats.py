"""Which format a recipe takes and why, what calibration allows, and checkpoints that are quantized already."""

from __future__ import annotations

import pytest

from ax_engines.recipe import Wishes
from tests.engines.planner import A100, B200, ENTRIES, H100, L40S, TEXTS, made, plan, plan_config, reasons, refused

# --- format ---


def test_without_calibration_data_no_format_that_needs_it_is_taken() -> None:
    found = made(plan("A.X-4.0", Wishes()))
    assert found.quantization == "none"
    assert reasons(found)[f"fp8 on {H100} (tensorrt)"].startswith("needs calibration data")


def test_with_calibration_data_throughput_takes_the_most_concurrency_per_gpu() -> None:
    assert made(plan("A.X-4.0", Wishes(calibration=TEXTS))).quantization == "fp8"
    assert made(plan("A.X-4.0", Wishes(calibration=TEXTS), B200)).quantization == "nvfp4"
    assert made(plan("A.X-4.0", Wishes(calibration=TEXTS), A100)).quantization == "awq"


def test_quality_takes_the_highest_precision_that_fits() -> None:
    found = made(plan("A.X-4.0", Wishes(prefer="quality", calibration=TEXTS)))
    assert found.quantization == "none"
    assert reasons(found)[f"fp8 on {H100} (tensorrt)"] == "less precise than none, which fits too"
    # One H100 cannot hold 16-bit weights of 72 billion parameters, nor 8-bit ones with a whole context.
    alone = made(plan("A.X-4.0", Wishes(prefer="quality", calibration=TEXTS), H100, per_node=1))
    assert alone.quantization == "int8-wo"
    assert alone.context_length < 131_072


def test_each_option_that_was_not_taken_has_one_line() -> None:
    found = made(plan("A.X-4.0", Wishes(calibration=TEXTS), H100, L40S))
    options = [r.option for r in found.rejected]
    looked_at = {f"{q} on {g} (tensorrt)" for q in ENTRIES["A.X-4.0"].quantizations for g in (H100, L40S)}
    assert set(options) == looked_at - {f"fp8 on {H100} (tensorrt)"}
    assert len(set(options)) == len(options)
    assert all(r.reason and "\n" not in r.reason for r in found.rejected)


def test_a_format_that_the_gpu_lacks_names_both_and_the_choices() -> None:
    found = refused(plan("A.X-4.0", Wishes(quantization="nvfp4", calibration=TEXTS)))
    assert found.reason == "NoRecipeForGPU"
    assert "runs on SM 100 and newer; the GPU has SM 90, which runs none, int8-wo, fp8" in found.message


def test_a_format_that_needs_calibration_is_refused_without() -> None:
    found = refused(plan("A.X-4.0", Wishes(quantization="fp8")))
    assert found.reason == "InvalidSpec"
    assert "set engine.calibration to a data set on a claim, or use one of none, int8-wo" in found.message


def test_calibration_that_one_node_cannot_hold_is_no_option() -> None:
    wishes = Wishes(quantization="fp8", calibration=TEXTS, max_total_tokens=4096)
    found = refused(plan("A.X-3.1", wishes, L40S, per_node=1))
    assert "calibration loads 66129 MiB of unquantized weights, one node's GPUs have 46068 MiB" in found.message


def test_calibration_takes_the_gpus_that_unquantized_weights_need() -> None:
    found = made(plan("A.X-4.0", Wishes(quantization="fp8", calibration=TEXTS)))
    assert (found.gpus, found.build_gpus) == (2, 4)
    assert "calibration needs 4 GPUs of one node, serving 2" in found.notes


# --- checkpoints that are quantized already ---


@pytest.mark.parametrize(
    ("given", "backend", "quantization"),
    [
        ("FP8", "pytorch", "fp8"),
        ("W4A16_AWQ", "pytorch", "awq"),
        ("awq", "tensorrt", "awq"),
        ("gptq", "tensorrt", "awq"),
    ],
)
def test_a_quantized_checkpoint_is_served_as_it_is(given: str, backend: str, quantization: str) -> None:
    found = made(plan_config(Wishes(), quantization=given))
    assert (found.backend, found.quantization) == (backend, quantization)
    assert found.artifact.calibration is None
    assert "quantize" not in [phase.name for phase in found.artifact.phases]
    assert f"the checkpoint is quantized as {given} and served as it is" in found.notes
    assert not any("--qformat" in command for command in found.commands)


def test_a_quantized_checkpoint_is_not_quantized_again() -> None:
    found = refused(plan_config(Wishes(quantization="awq", calibration=TEXTS), quantization="FP8"))
    assert found.reason == "InvalidSpec"
    assert "quantized as FP8 already and served as it is; use auto" in found.message


def test_a_quantized_checkpoint_needs_a_gpu_for_its_format() -> None:
    found = refused(plan_config(Wishes(), quantization="NVFP4"))
    assert found.reason == "NoRecipeForGPU"
    assert "SM 100" in found.message


def test_a_checkpoint_that_nobody_serves_is_refused() -> None:
    found = refused(plan_config(Wishes(), quantization="bitsandbytes"))
    assert found.reason == "InvalidSpec"
    assert "bitsandbytes" in found.message
