"""Minutes of mixed traffic: exact answers to the end, every slot free afterwards, and no memory that only grows."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.engines.card import TOOLS
from tests.engines.serving import Pod, page, post, until

pytestmark = pytest.mark.soak
SECONDS = 120
CLIENTS = 7
GROWTH_MB = 24
"""What a process may grow by in the second half, in which some hundred thousand tokens pass."""


def script(**fields: Any) -> str:
    """Return a prompt that tells the scripted engine what to say."""
    return f"<<{json.dumps(fields, ensure_ascii=False)}>>"


class Client(threading.Thread):
    """Asks for one thing after another; the first surprise ends it."""

    def __init__(self, one: Pod, seed: int, until_: float) -> None:
        super().__init__(daemon=True)
        self.url, self.random, self.until = one.url, random.Random(seed), until_
        self.asks: list[Callable[[openai.OpenAI], None]] = [self.whole, self.listen, self.leave, self.call, self.wrong]
        self.done: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Ask until time is up."""
        try:
            with openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
                while time.monotonic() < self.until:
                    ask = self.random.choice(self.asks)
                    try:
                        ask(client)
                        self.done[ask.__name__] += 1
                    except openai.RateLimitError:
                        self.done["full"] += 1
        except Exception as error:
            self.error = error

    def pieces(self) -> list[str]:
        """Return something to say."""
        return [chr(self.random.randint(0xAC00, 0xD7A3)) * 3 + " " for _ in range(self.random.randint(1, 200))]

    def whole(self, client: openai.OpenAI) -> None:
        """A whole answer."""
        say = self.pieces()
        answer = client.completions.create(model="smollm2", prompt=script(say=say))
        assert answer.choices[0].text == "".join(say)

    def listen(self, client: openai.OpenAI) -> None:
        """A stream."""
        say = self.pieces()
        events = client.completions.create(model="smollm2", prompt=script(say=say, delay=0.001), stream=True)
        assert "".join(event.choices[0].text for event in events) == "".join(say)

    def leave(self, client: openai.OpenAI) -> None:
        """A stream that is left, at its first token or while it waits."""
        prompt = script(say=["."] * 1000, delay=0.01)
        with client.completions.create(model="smollm2", prompt=prompt, stream=True) as events:
            next(iter(events))

    def call(self, client: openai.OpenAI) -> None:
        """A tool call in pieces."""
        head, arguments = '<tool_call>{"name": "f", "arguments": ', json.dumps({"a": self.pieces()[:20]})
        text = f"{head}{arguments}}}</tool_call>"
        cut = self.random.randint(0, len(text))
        messages: Any = [{"role": "user", "content": script(say=[text[:cut], text[cut:]])}]
        with client.chat.completions.stream(model="smollm2", messages=messages, tools=TOOLS) as stream:
            message = stream.get_final_completion().choices[0].message
        assert message.tool_calls
        assert message.tool_calls[0].function.arguments == arguments

    def wrong(self, _: openai.OpenAI) -> None:
        """A body that is refused."""
        body = self.random.choice([b"{", b"[]", {"model": "smollm2"}, {"model": "smollm2", "prompt": "x", "n": -1}])
        assert post(f"{self.url}/v1/completions", body).status == 400


def megabytes(pid: int) -> float:
    """Return a process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.timeout(SECONDS + 120)
def test_hours_in_minutes(scripted_pod: Pod) -> None:
    assert scripted_pod.triton
    assert scripted_pod.frontend
    pids = {
        "triton": scripted_pod.triton.popen.pid,
        "stub": scripted_pod.stub(),
        "frontend": scripted_pod.frontend.popen.pid,
    }
    clients = [Client(scripted_pod, seed, time.monotonic() + SECONDS) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    clients[0].join(SECONDS / 2)
    early = {name: megabytes(pid) for name, pid in pids.items()}
    for client in clients:
        client.join(SECONDS + 60)
    assert [client.error for client in clients] == [None] * CLIENTS
    late = {name: megabytes(pid) for name, pid in pids.items()}
    done = sum((client.done for client in clients), Counter())
    print(f"{dict(done)}; MB after half {early}, at the end {late}")
    assert set(done) >= {"whole", "listen", "leave", "call", "wrong"}
    idle = ("ax_requests_running{", "ax_requests_waiting{")
    until(
        lambda: (
            {line.rpartition(" ")[2] for line in page(scripted_pod.metrics_url).splitlines() if line.startswith(idle)}
            == {"0"}
        )
    )
    assert scripted_pod.stub() == pids["stub"]
    for name in pids:
        assert late[name] - early[name] < GROWTH_MB, (name, early, late)
