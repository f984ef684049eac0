"""Triton itself with the real model: what it listens on, what it answers to its own clients, what it shows."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

from ax_engines.wire import GenerateRequest, Sampling
from tests.engines.serving import Pod, page, status

METRICS_SECONDS = 0.5
PROMPT = "<|im_start|>user\nWhat is the capital of Korea?<|im_end|>\n<|im_start|>assistant\n"


def post(pod: Pod, text: str) -> str:
    """Return what Triton's own generate_stream answers, whatever the status."""
    url = f"{pod.triton_url}/v2/models/engine/generate_stream"
    request = urllib.request.Request(url, json.dumps({"REQUEST": text}).encode())
    try:
        with closing(urllib.request.urlopen(request, timeout=60)) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        with closing(error):
            return error.read().decode()


def generate(pod: Pod, request: GenerateRequest) -> list[dict[str, str]]:
    """Return the events of Triton's own generate_stream."""
    lines = post(pod, request.encode().decode()).splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


def series(pod: Pod) -> dict[str, float]:
    """Return our series of the metrics page by name."""
    found = re.findall(r"^(ax_\w+)\{[^}]*\} (\S+)$", page(pod.metrics_url), re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_a_plain_client_of_triton_is_answered(model_pod: Pod) -> None:
    events = generate(model_pod, GenerateRequest("plain", Sampling(20, temperature=0), prompt=PROMPT))
    rows = [row for event in events for row in json.loads(event["CHUNK"])]
    assert "".join(row[1] for row in rows) == "The capital of Korea is Seoul."
    assert rows[-1][3] == "stop"
    prompt_tokens, completion_tokens, _, queue_seconds = rows[-1][4]
    assert (prompt_tokens, completion_tokens) == (16, 8)
    assert queue_seconds >= 0
    assert sum(row[2] for row in rows) == 8


def test_a_prompt_that_does_not_fit_is_refused_with_its_size(model_pod: Pod) -> None:
    [event] = generate(model_pod, GenerateRequest("long", Sampling(8), prompt="word " * 2000))
    error = json.loads(event["error"])
    assert error["status"] == 400
    assert "1024 tokens; the prompt has 2001" in error["message"]


def test_a_message_that_is_no_request_is_refused(model_pod: Pod) -> None:
    assert '\\"status\\": 400' in post(model_pod, '{"id": "x"}')


def test_everything_listens_on_loopback_and_llama_cpp_on_no_port(model_pod: Pod) -> None:
    listening = subprocess.run(["ss", "-Htlnp"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert model_pod.triton
    triton = [line for line in listening if f"pid={model_pod.triton.popen.pid}," in line]
    addresses = [line.split()[3] for line in triton]
    assert sorted(int(address.rpartition(":")[2]) for address in addresses) == sorted(model_pod.triton_ports)
    assert all("127.0.0.1" in address for address in addresses), addresses
    assert not [line for line in listening if f"pid={model_pod.stub()}," in line]


def test_llama_cpp_answers_on_its_socket_only_with_the_key(model_pod: Pod) -> None:
    [path] = Path(model_pod.run).glob("llamacpp-*/llama.sock")
    assert path.parent.stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_models_cannot_be_loaded_or_unloaded(model_pod: Pod) -> None:
    url = f"{model_pod.triton_url}/v2/repository/models/engine/unload"
    answer = subprocess.run(["curl", "-s", "-X", "POST", url], check=True, capture_output=True, text=True).stdout
    assert "not allowed" in answer
    assert status(f"{model_pod.triton_url}/v2/models/engine/ready") == 200


def settled(pod: Pod) -> dict[str, float]:
    """Return our series once they have not changed for longer than the model takes to write them."""
    end, known = time.monotonic() + 30, series(pod)
    while time.monotonic() < end:
        time.sleep(3 * METRICS_SECONDS)
        known, before = series(pod), known
        if known == before:
            return known
    raise TimeoutError(f"the series keep changing: {known}")


def test_the_gauges_tell_what_has_been_served(model_pod: Pod) -> None:
    before = settled(model_pod)
    generate(model_pod, GenerateRequest("counted", Sampling(5, temperature=0), prompt=PROMPT))
    after = settled(model_pod)
    grown = {name: after[name] - before[name] for name in after}
    assert grown["ax_generated_tokens_total"] == 5
    assert grown["ax_prompt_tokens_total"] == 16
    assert grown["ax_time_to_first_token_seconds_count"] == grown["ax_queue_seconds_count"] == 1
    assert grown["ax_time_to_first_token_seconds_sum"] > grown["ax_queue_seconds_sum"] > 0
    assert after["ax_request_slots"] == 4
    assert after["ax_requests_running"] == after["ax_requests_waiting"] == 0
    assert "ax_kv_cache_used_ratio" not in after
