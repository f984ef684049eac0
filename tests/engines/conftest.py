"""Serving pods that many tests share: a real Triton each, one with the real model, one with a scripted engine."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.engines.card import CARD
from tests.engines.serving import Pod, pod, write_engine


@pytest.fixture(scope="session")
def model_pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """The small chat model on llama.cpp, 4 slots of 1024 tokens, a queue of 16."""
    with pod(tmp_path_factory.mktemp("model"), {"AX_DRAIN_GRACE": "0"}, threads=1) as one:
        write_engine(one.store)
        one.start()
        yield one


@pytest.fixture(scope="session")
def scripted_pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """The scripted engine: 4 slots, a queue of 4, and a template that prints messages, tools and calls as JSON."""
    environment = {"AX_DRAIN_GRACE": "0", "AX_ENGINE_ADAPTOR": "scripted_engine"}
    arguments = {"rules": CARD}
    with pod(tmp_path_factory.mktemp("scripted"), environment, queue=4, engine_args=arguments) as one:
        write_engine(one.store, weights=False)
        one.start()
        yield one


@pytest.fixture
def client(model_pod: Pod) -> Iterator[openai.OpenAI]:
    """The official client on the real model."""
    with openai.OpenAI(base_url=f"{model_pod.url}/v1", api_key="none", max_retries=0, timeout=60) as one:
        yield one


@pytest.fixture
def scripted(scripted_pod: Pod) -> Iterator[openai.OpenAI]:
    """The official client on the scripted engine."""
    with openai.OpenAI(base_url=f"{scripted_pod.url}/v1", api_key="none", max_retries=0, timeout=60) as one:
        yield one
