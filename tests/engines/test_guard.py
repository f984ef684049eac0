"""A manifest is compared with what would serve it, before it is served."""

from __future__ import annotations

import pytest

from ax_engines.catalogue import load
from ax_engines.contract import ArtifactSpec, Limits, Manifest, PvcSource, Source, Target
from ax_engines.guard import Expected, Mismatch, check_manifest, check_spec
from ax_engines.triton.machine import parse_capabilities

LIMITS = Limits(max_batch_size=8, max_input_tokens=1024, max_total_tokens=2048)
MANIFEST = Manifest(
    engine="ax-0123456789",
    artifact="tensorrt",
    quantization="fp8",
    revision="abc",
    architecture="Qwen2ForCausalLM",
    target=Target(sm=90, tensorrt_llm="1.2.1", tensor=4, pipeline=1, limits=LIMITS),
    files=(),
    config=load()["A.X-4.0"].assumed_config(),
)


def test_the_same_facts_are_no_mismatch() -> None:
    expected = Expected("ax-0123456789", "tensorrt", "fp8", "abc", "Qwen2ForCausalLM", 90, "1.2.1", 4, 1)
    assert check_manifest(MANIFEST, expected) == []
    assert check_manifest(MANIFEST, Expected()) == []


def test_each_difference_is_told_with_both_values() -> None:
    found = check_manifest(MANIFEST, Expected(sm=100, tensorrt_llm="1.3.0", tensor=2, quantization="awq"))
    assert found == [
        Mismatch("quantization", "fp8", "awq"),
        Mismatch("sm", 90, 100),
        Mismatch("tensorrt_llm", "1.2.1", "1.3.0"),
        Mismatch("tensor", 4, 2),
    ]
    assert str(found[1]) == "sm is 90 in the artifact but 100 is needed"


def test_weights_that_were_not_compiled_run_on_any_gpu() -> None:
    plain = MANIFEST.model_copy(update={"artifact": "safetensors", "target": None})
    assert check_manifest(plain, Expected(sm=100, tensorrt_llm="1.3.0")) == []


def test_a_manifest_of_another_contract_is_not_served() -> None:
    old = MANIFEST.model_copy(update={"contract": 0})
    assert check_manifest(old, Expected()) == [Mismatch("contract version", 0, 1)]


def test_an_artifact_of_another_name_is_not_served() -> None:
    found = check_manifest(MANIFEST, Expected(engine="ax-9999999999"))
    assert found == [Mismatch("engine", "ax-0123456789", "ax-9999999999")]


def test_a_spec_is_compared_before_anything_is_built() -> None:
    spec = ArtifactSpec(
        slug="ax",
        source=Source(pvc=PvcSource(claim_name="models")),
        revision="abc",
        artifact="tensorrt",
        architecture="Qwen2ForCausalLM",
        bytes=1,
        target=MANIFEST.target,
        toolchain="26.07",
    )
    assert check_spec(spec, Expected(sm=89, engine="other")) == [Mismatch("sm", 90, 89)]
    assert check_spec(spec, Expected.of(spec.name, spec)) == []


@pytest.mark.parametrize(
    ("said", "sms"),
    [("9.0\n9.0\n", (90, 90)), ("12.0\n", (120,)), ("8.9", (89,)), ("", None), ("[N/A]\n", None), ("9.0\n[N/A]", None)],
)
def test_the_driver_tells_the_compute_capabilities(said: str, sms: tuple[int, ...] | None) -> None:
    assert parse_capabilities(said) == sms
