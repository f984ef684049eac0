"""An engine of another machine is refused before Triton starts, with both values in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from ax_engines.contract import Limits, Manifest, ServingOptions, Target
from ax_engines.triton.__main__ import CannotServeError, engine_folder
from tests.engines.serving import SMOLLM2

ENGINE = "llama-0123456789"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with an engine for two GPUs of SM 90, on a machine with what the tests put into its bin and site."""
    for name in ("bin", "site", "store"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    limits = Limits(max_batch_size=8, max_input_tokens=999, max_total_tokens=1000)
    manifest = Manifest(
        engine=ENGINE,
        artifact="tensorrt",
        quantization="fp8",
        revision="abc",
        architecture="LlamaForCausalLM",
        target=Target(sm=90, tensorrt_llm="1.2.1", tensor=2, pipeline=1, limits=limits),
        files=(),
        config=SMOLLM2,
    )
    folder = tmp_path / "store" / ENGINE
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest.to_json())
    return tmp_path / "store"


def machine(store: Path, capabilities: str, version: str = "1.2.1") -> None:
    """Give the machine a driver that names these GPUs, and this TensorRT-LLM."""
    driver = store.parent / "bin" / "nvidia-smi"
    lines = "\\n".join(capabilities.split())
    driver.write_text(f'#!/bin/sh\n[ "$1" = --query-gpu=compute_cap ] && printf "{lines}\\n"\n')
    driver.chmod(0o755)
    about = store.parent / "site" / f"tensorrt_llm-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n")


def serving(tensor: int = 2) -> ServingOptions:
    """Return the options of the pod."""
    return ServingOptions(
        model="demo/llama",
        engine=ENGINE,
        backend="tensorrt",
        slots=8,
        queue=8,
        context_length=1000,
        gpus=tensor,
        engine_args={"tensor_parallel_size": tensor, "pipeline_parallel_size": 1},
    )


def test_the_machine_that_the_engine_was_built_for_serves_it(store: Path) -> None:
    machine(store, "9.0 9.0")
    assert engine_folder(store, serving()) == store / ENGINE


def test_without_a_driver_only_the_rest_is_compared(store: Path) -> None:
    assert engine_folder(store, serving()) == store / ENGINE


@pytest.mark.parametrize(
    ("capabilities", "version", "tensor", "sentence"),
    [
        ("10.0 10.0", "1.2.1", 2, "sm is 90 in the artifact but 100 is needed"),
        ("9.0 8.9", "1.2.1", 2, "sm is 90 in the artifact but 89 is needed"),
        ("9.0 9.0", "1.3.0", 2, "tensorrt_llm is 1.2.1 in the artifact but 1.3.0 is needed"),
        ("9.0 9.0 9.0 9.0", "1.2.1", 4, "tensor is 2 in the artifact but 4 is needed"),
        ("9.0", "1.2.1", 2, "the engine runs on 2 GPUs but this container sees 1"),
    ],
)
def test_another_machine_is_told_with_both_values(
    store: Path, capabilities: str, version: str, tensor: int, sentence: str
) -> None:
    machine(store, capabilities, version)
    with pytest.raises(CannotServeError, match=sentence):
        engine_folder(store, serving(tensor))
