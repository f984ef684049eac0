"""The whole way of a request: the real Envoy, the real frontend, the real Triton with a scripted engine, a hosted API.

The other modules try each fault with replicas that can do anything; this one shows that ours does as they do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest

from tests.engines.serving import Pod, page, pod, write_engine
from tests.gateway.hybrid import Hybrid
from tests.gateway.replica import Replica
from tests.gateway.rig import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
SLOTS = QUEUE = 2
NAMES = [f"t/stack-{number}" for number in range(20)]
"""Each test has a model of its own, so that nothing is left of the one before; the pod knows all names."""
USED: list[str] = []


def script(**fields: Any) -> dict[str, Any]:
    """Return the part of a body that tells the engine what to say."""
    return {"messages": [{"role": "user", "content": f"<<{json.dumps(fields)}>>"}]}


LONG = script(say=["."] * 10_000, delay=0.05)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    environment = {"AX_DRAIN_GRACE": "0", "AX_ENGINE_ADAPTOR": "scripted_engine"}
    with pod(tmp_path_factory.mktemp("stack"), environment, slots=SLOTS, queue=QUEUE, served_names=tuple(NAMES)) as one:
        write_engine(one.store, weights=False)
        one.start()
        yield one


class Stack:
    """A model of the rig whose only replica is a serving pod."""

    def __init__(self, hybrid: Hybrid, serving: Pod) -> None:
        self.hybrid, self.rig, self.serving, self.hosted = hybrid, hybrid.rig, serving, hybrid.hosted
        hybrid.key = NAMES[len(USED)]
        USED.append(hybrid.key)
        hybrid.name = hybrid.key.removeprefix("t/")
        self.replica = Replica()
        self.replica.port = serving.frontend_ports[0]

    async def serve(self, hybrid: bool = True) -> None:
        if hybrid:
            await self.hybrid.serve(self.replica, slots=SLOTS)
        else:
            await self.rig.serve(self.hybrid.name, self.replica, slots=SLOTS)

    def gauge(self, name: str) -> float:
        """Return a gauge of the pod's metrics page."""
        lines = page(self.serving.metrics_url).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

    @asynccontextmanager
    async def busy(self, streams: int) -> AsyncIterator[None]:
        """Keep this many streams open at the pod."""
        async with AsyncExitStack() as stack:
            waiting = []
            for number in range(streams):
                posted = self.rig.post(self.hybrid.key, headers={"x-ax-data-residency": "any"}, stream=True, **LONG)
                waiting.append(asyncio.create_task(stack.enter_async_context(posted)))
                try:
                    await until(lambda wanted=number + 1: self.requests() == wanted, "the pod has the stream")
                except AssertionError:
                    answers = [each.result().status for each in waiting if each.done()]
                    raise AssertionError(f"stream {number}: the pod has {self.requests()}, answers {answers}") from None
            yield
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: self.requests() == 0, "who left holds no slot and no place in the queue")

    def requests(self) -> float:
        return self.gauge("ax_requests_running") + self.gauge("ax_requests_waiting")


@pytest.fixture
def stack(hybrid: Hybrid, serving: Pod) -> Stack:
    return Stack(hybrid, serving)


async def test_with_room_on_prem_answers_and_full_it_overflows(stack: Stack) -> None:
    await stack.serve()
    assert await stack.hybrid.by() == (200, "onprem")
    async with stack.busy(SLOTS):
        assert await stack.hybrid.by() == (200, "hosted")
        assert [seen.body["model"] for seen in stack.hosted.seen] == ["ax4"]
    assert await stack.hybrid.by() == (200, "onprem")


async def test_what_must_stay_waits_in_the_engines_queue_and_then_gets_429(stack: Stack) -> None:
    await stack.serve()
    async with stack.busy(SLOTS):
        stays = asyncio.create_task(stack.hybrid.by({"x-ax-data-residency": "OnPrem"}))
        await until(lambda: stack.gauge("ax_requests_waiting") == 1, "it waits in the queue")
    assert await stays == (200, "onprem")
    async with (
        stack.busy(SLOTS + QUEUE),
        stack.rig.post(stack.hybrid.key, headers={"x-ax-data-residency": "OnPrem"}) as response,
    ):
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
        assert (await response.json())["error"]["code"] == "queue_full"
    assert not stack.hosted.seen


async def test_without_a_hosted_api_a_full_queue_is_a_429(stack: Stack) -> None:
    await stack.serve(hybrid=False)
    async with stack.busy(SLOTS + QUEUE), stack.rig.post(stack.hybrid.key) as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1


async def test_an_engine_that_fails_inside_a_stream_says_so_and_nothing_is_repeated(stack: Stack) -> None:
    await stack.serve()
    failing = script(say=["one ", "two "], error=[500, "out of memory"])
    async with stack.rig.post(stack.hybrid.key, stream=True, **failing) as response:
        assert (response.status, response.headers["x-ax-served-by"]) == (200, "onprem")
        events = [line[6:] for line in (await response.text()).split("\n\n") if line]
    assert "one" in events[0] + events[1]
    assert "out of memory" in json.loads([e for e in events if e != "[DONE]"][-1])["error"]["message"]
    assert "[DONE]" not in events
    assert not stack.hosted.seen


async def test_an_engine_that_fails_before_the_first_byte_is_replaced_by_hosted(stack: Stack) -> None:
    await stack.serve()
    assert await stack.hybrid.by(**script(say=[], error=[500, "broken"])) == (200, "hosted")
    assert (await stack.hybrid.by({"x-ax-data-residency": "any"}, **script(say=[], error=[500, "broken"])))[0] == 500
    assert len(stack.hosted.seen) == 1


async def test_a_client_that_leaves_frees_the_engine(stack: Stack) -> None:
    await stack.serve()
    async with stack.busy(1):
        assert stack.gauge("ax_requests_running") == 1


async def test_a_pod_whose_engine_dies_breaks_its_stream_and_hosted_goes_on(stack: Stack) -> None:
    """The last one: the pod does not come back without a kubelet."""
    await stack.serve()
    text = b""
    with suppress(aiohttp.ClientPayloadError):  # a stream that is cut off is as good as one with an error event
        async with stack.rig.post(
            stack.hybrid.key, stream=True, **script(say=["one "] * 3, delay=0.05, vanish=True)
        ) as response:
            assert response.headers["x-ax-served-by"] == "onprem"
            async for piece in response.content.iter_any():
                text += piece
    assert b"one" in text
    assert b"[DONE]" not in text

    async def hosted_answers() -> bool:
        return await stack.hybrid.by() == (200, "hosted")

    await until(hosted_answers, "hosted answers instead")
