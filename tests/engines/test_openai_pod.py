"""A pod's life: it loads, drains, loses its engine, and comes back."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.engines.serving import Pod, pod, post, status, until, write_engine

BODY = {"model": "smollm2", "prompt": "x"}


def script(**fields: Any) -> str:
    """Return a prompt that tells the scripted engine what to say."""
    return f"<<{json.dumps(fields)}>>"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Pod]:
    """A pod that a test may break."""
    with pod(tmp_path, {"AX_DRAIN_GRACE": "1", "AX_ENGINE_ADAPTOR": "scripted_engine"}) as one:
        write_engine(one.store, weights=False)
        yield one


class Listener(threading.Thread):
    """Listens to a long stream."""

    def __init__(self, one: Pod, prompt: str) -> None:
        super().__init__(daemon=True)
        self.one, self.prompt = one, prompt
        self.text = ""
        self.error: Exception | None = None
        self.begun = threading.Event()
        self.start()
        assert self.begun.wait(30)

    def run(self) -> None:
        """Listen to the end."""
        try:
            with openai.OpenAI(base_url=f"{self.one.url}/v1", api_key="none", max_retries=0) as client:
                for event in client.completions.create(model="smollm2", prompt=self.prompt, stream=True):
                    self.text += event.choices[0].text
                    self.begun.set()
        except openai.OpenAIError as error:
            self.error = error


def test_while_the_model_loads_requests_get_503(own: Pod) -> None:
    frontend = own.start_frontend()
    own.wait_until(f"{own.url}/health/live", frontend)
    assert status(f"{own.url}/health/ready") == 503
    reply = post(f"{own.url}/v1/completions", BODY)
    assert (reply.status, reply.json()["error"]["code"]) == (503, "not_ready")
    assert int(reply.headers["Retry-After"]) >= 1
    assert status(f"{own.url}/v1/models") == 200
    own.start_triton()
    own.wait_until(f"{own.url}/health/ready", frontend)
    assert post(f"{own.url}/v1/completions", BODY).status == 200


def test_a_pod_told_to_stop_finishes_its_streams_and_takes_new_ones_for_a_moment(own: Pod) -> None:
    own.start()
    assert own.frontend
    listener = Listener(own, script(say=[f"{number} " for number in range(60)], delay=0.05))
    own.frontend.popen.send_signal(signal.SIGTERM)
    until(lambda: status(f"{own.url}/health/ready") == 503)
    assert post(f"{own.url}/v1/completions", BODY).status == 200
    until(lambda: status(f"{own.url}/health/live") == 0)
    assert own.frontend.popen.poll() is None
    listener.join(30)
    assert listener.error is None
    assert listener.text == "".join(f"{number} " for number in range(60))
    assert own.frontend.popen.wait(30) == 0
    assert own.triton
    assert own.triton.stop() == 0


def test_an_engine_that_vanishes_ends_its_streams_and_triton(own: Pod) -> None:
    own.start()
    assert own.frontend
    assert own.triton
    listener = Listener(own, script(say=["."] * 1000, delay=0.05))
    os.kill(own.stub(), signal.SIGKILL)
    listener.join(60)
    assert isinstance(listener.error, openai.APIError)
    assert status(f"{own.url}/health/ready") == 503
    own.triton.popen.wait(60)  # Kubernetes then starts the container again
    own.start_triton()
    own.wait_until(f"{own.url}/health/ready", own.frontend)
    assert post(f"{own.url}/v1/completions", BODY).status == 200


def test_triton_may_start_again_beside_the_frontend(own: Pod) -> None:
    own.start()
    assert own.triton
    assert own.frontend
    listener = Listener(own, script(say=["."] * 1000, delay=0.05))
    own.kill_triton()
    listener.join(60)
    assert isinstance(listener.error, openai.APIError)
    until(lambda: status(f"{own.url}/health/ready") == 503)
    assert post(f"{own.url}/v1/completions", BODY).status == 503
    own.triton.popen.wait()
    own.start_triton()
    own.wait_until(f"{own.url}/health/ready", own.frontend)
    assert post(f"{own.url}/v1/completions", BODY).json()["choices"][0]["text"] == "ok"


def test_an_engine_that_cannot_load_stops_triton(tmp_path: Path) -> None:
    arguments = {"fail": "the weights are broken; build the engine again"}
    with pod(tmp_path, {"AX_ENGINE_ADAPTOR": "scripted_engine"}, engine_args=arguments) as one:
        write_engine(one.store, weights=False)
        triton = one.start_triton()
        assert triton.popen.wait(60) != 0
        last_words = triton.text().encode()[-2048:].decode(errors="replace")  # what Kubernetes keeps of a log
        assert "the weights are broken; build the engine again" in last_words
        stub = one.run / "backends" / "python" / "triton_python_backend_stub"
        assert stub.is_file()
        assert not stub.is_symlink()  # Triton changes its mode


def test_the_specs_template_replaces_the_artifacts(tmp_path: Path) -> None:
    environment = {"AX_DRAIN_GRACE": "0", "AX_ENGINE_ADAPTOR": "scripted_engine"}
    template = "{{ messages[-1].content }} by the spec"
    with pod(tmp_path, environment, chat_template=template) as one:
        write_engine(one.store, weights=False, template="the artifact's")
        one.start()
        messages = [{"role": "user", "content": script(echo=True)}]
        reply = post(f"{one.url}/v1/chat/completions", {"model": "smollm2", "messages": messages})
        assert reply.json()["choices"][0]["message"]["content"] == f"{script(echo=True)} by the spec"


def test_an_unknown_tool_parser_is_refused_at_the_start(tmp_path: Path) -> None:
    with pod(tmp_path, tool_parser="pythonic") as one:
        write_engine(one.store, weights=False)
        frontend = one.start_frontend()
        assert frontend.popen.wait(30) == 1
        assert "toolParser 'pythonic' is unknown; use one of hermes" in frontend.text()


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda one: (one.store / one.options.engine / "manifest.json").unlink(), "manifest.json"),
        (
            lambda one: (one.store / one.options.engine / "chat_template.jinja").write_text("{% if %}"),
            "Expected an expression",
        ),
    ],
)
def test_a_frontend_that_cannot_serve_says_why(own: Pod, break_it: Callable[[Pod], Any], said: str) -> None:
    break_it(own)
    frontend = own.start_frontend()
    assert frontend.popen.wait(30) == 1
    assert frontend.text().startswith("Cannot serve: ")
    assert said in frontend.text()
