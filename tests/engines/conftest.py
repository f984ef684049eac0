"""What test files share: serving pods with a real Triton each, stores on loopback, a stand-in for TensorRT-LLM."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from ax_engines.build.places import Places
from tests.engines.card import CARD
from tests.engines.model_files import write_folder, write_safetensors
from tests.engines.remote_sources import stored_files
from tests.engines.remote_stores import HubHandler, Remote, S3Handler, serving
from tests.engines.serving import Pod, pod, write_engine

PACKAGES = Path(__file__).parents[1] / "standins" / "packages"


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


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A claim with a model whose shards are large enough to break in the middle, an empty store, an empty Secret."""
    made = Places.below(tmp_path)
    for folder in (made.source, made.store, made.secret):
        folder.mkdir()
    write_folder(made.source / "model")
    for number in (1, 2):
        shard = made.source / "model" / f"model-0000{number}-of-00002.safetensors"
        write_safetensors(shard, fill=number, rows=5000)
    return made


@pytest.fixture
def hub(places: Places) -> Iterator[Remote]:
    """The model in a hub's repository."""
    with serving(HubHandler, Remote(stored_files(places))) as remote:
        yield remote


@pytest.fixture
def s3(places: Places) -> Iterator[Remote]:
    """The model below a prefix of an object store."""
    stored = {f"ax/tiny/{name}": data for name, data in stored_files(places).items()}
    with serving(S3Handler, Remote(stored)) as remote:
        yield remote


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in packages are importable, and forgotten afterwards."""
    monkeypatch.syspath_prepend(str(PACKAGES))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tensorrt_llm", "torch")]:
        del sys.modules[name]
