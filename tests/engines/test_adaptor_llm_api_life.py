"""How engines of the tensorrt and pytorch adaptors start, count what waits and end, on a stand-in for TensorRT-LLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from ax_engines.contract import Backend
from ax_engines.triton.adaptor import BACKENDS, load_engine
from ax_engines.triton.engines.llm_api import LlmApiEngine
from ax_engines.triton.engines.llm_terms import read_stats
from ax_engines.triton.engines.pytorch import PYTORCH
from tests.engines.stand_in_llm import artifact, ask, serving
from tests.engines.trtllm_flags import BadCommandError, load


def test_an_engine_that_has_ended_by_itself_ends_the_process(tmp_path: Path, packages: None) -> None:
    deaths: list[str] = []
    one = LlmApiEngine(PYTORCH, on_death=lambda: deaths.append("ended"))
    one.start(serving("pytorch"), artifact(tmp_path / "engine", "pytorch"))
    error = ask(one, "die:").last()
    assert (error.status, error.code, deaths) == (503, "engine_lost", ["ended"])
    one.stop()


def test_requests_that_the_library_holds_back_count_as_waiting() -> None:
    row = {
        "numActiveRequests": 12,
        "numQueuedRequests": 3,
        "kvCacheStats": {"maxNumBlocks": 200, "usedNumBlocks": 150},
        "inflightBatchingStats": {"numScheduledRequests": 8},
    }
    facts = load("llm_api")["statistics"]
    assert set(row) <= set(facts["row"])
    assert set(row["kvCacheStats"]) <= set(facts["kvCacheStats"])  # type: ignore[call-overload]
    assert set(row["inflightBatchingStats"]) <= set(facts["inflightBatchingStats"])  # type: ignore[call-overload]
    assert (read_stats(row, 1).waiting, read_stats(row, 1).kv_used) == (7, 0.75)
    assert read_stats(row, 2).waiting == 3
    assert read_stats({"numQueuedRequests": 0, "kvCacheStats": None}, 1).kv_used is None


def test_stopping_ends_what_runs(tmp_path: Path, packages: None) -> None:
    one = LlmApiEngine(PYTORCH)
    one.start(serving("pytorch"), artifact(tmp_path / "engine", "pytorch"))
    answers = ask(one, "forever:\nsay:abc")
    answers.wait_for(lambda: len(answers.all) > 1)
    one.stop()
    assert answers.last().finish == "cancelled"
    assert one._llm.ended


@pytest.mark.parametrize("backend", ["tensorrt", "pytorch"])
def test_an_argument_that_the_class_does_not_have_stops_the_start(
    backend: Backend, tmp_path: Path, packages: None
) -> None:
    folder = artifact(tmp_path / "engine", backend)
    with pytest.raises(RuntimeError, match=r"could not load the engine llama-0123456789 .*: \w+ has no argument warp"):
        load_engine(BACKENDS[backend]).start(serving(backend, warp=9), folder)
    other = {"tensorrt": {"cuda_graph_config": None}, "pytorch": {"fast_build": True}}[backend]
    with pytest.raises(RuntimeError, match=f"{backend} has no argument"):
        load_engine(BACKENDS[backend]).start(serving(backend, **other), folder)


def test_an_engine_folder_is_loaded_by_its_own_class_only(tmp_path: Path, packages: None) -> None:
    folder = artifact(tmp_path / "checkpoint", "pytorch")
    with pytest.raises(RuntimeError, match="is not an engine directory"):
        load_engine(BACKENDS["tensorrt"]).start(serving("tensorrt"), folder)
    folder = artifact(tmp_path / "engine", "tensorrt")
    with pytest.raises(RuntimeError, match=r"\(tensorrt, 4 ranks\): tensor_parallel_size 4 does not match"):
        load_engine(BACKENDS["tensorrt"]).start(serving("tensorrt", tensor_parallel_size=4), folder)


def test_the_stand_in_refuses_what_the_facts_do_not_have(packages: None) -> None:
    from tensorrt_llm import LLM, SamplingParams

    with pytest.raises(BadCommandError, match=r"is not proved for 1\.2\.1"):
        LLM(model="x", tokenizer="x", max_stats_len=3)
    with pytest.raises(TypeError, match="no field max_new_tokens"):
        SamplingParams(max_new_tokens=3)
    with pytest.raises(TypeError, match="is a int"):
        SamplingParams(max_tokens=1.5)
