"""A hybrid model on a real cluster: who answers when, what leaves, what it costs, and who may ask."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest

from local import Cluster, hosted, product
from tests.e2e.site import Json, Site

pytestmark = pytest.mark.e2e
SECRET_WORDS = "Our merger closes on the ninth."


@pytest.fixture(scope="module", autouse=True)
def api(cluster: Cluster) -> Iterator[None]:
    """Run the stand-in for a hosted API."""
    hosted.start(cluster, "hybrid", contextLength=512, dropFields=["logit_bias"])
    yield
    cluster.kubectl("delete", "axhostedapi", hosted.NAME)
    cluster.kubectl("delete", "namespace", hosted.NAMESPACE, "--wait=false")


def spec(replicas: int = 1, **routing: Any) -> Json:
    return {
        "model": "SmolLM2-135M-Instruct",
        "source": {"pvc": {"claimName": "models", "path": product.MODEL_FILE}},
        "scaling": {"mode": "fixed", "replicas": replicas},
        "engine": {"limits": {"maxBatchSize": 1}},
        "routing": {
            "dataResidency": "Any", "hosted": {"apiRef": hosted.NAME}, "whileUnavailable": "Hosted", **routing
        },
    }  # fmt: skip


def ask(site: Site, name: str = "smol", words: str = "hello", headers: Json | None = None, **fields: Any) -> Any:
    """Send one request; return the answer as httpx has it."""
    body = {"model": f"{site.namespace}/{name}", "messages": [{"role": "user", "content": words}], **fields}
    body.setdefault("max_tokens", 8)
    return httpx.post(f"{site.url}/v1/chat/completions", json=body, headers=headers, timeout=120)


def who(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.headers.get("x-ax-served-by", "-")


def received(site: Site) -> list[Json]:
    """Return what the hosted side received so far."""
    text = site.cluster.kubectl("-n", hosted.NAMESPACE, "get", "pod", hosted.NAME, "-o", "json")
    connection = HTTPConnection(json.loads(text)["status"]["podIP"], 8000, timeout=10)
    try:
        connection.request("GET", "/seen")
        found: list[Json] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def condition(site: Site, kind: str) -> tuple[str, str]:
    found = json.loads(site.cluster.kubectl("get", "axhostedapi", hosted.NAME, "-o", "json"))
    one = product.condition(found, kind)
    return one.get("status", "-"), one.get("reason", "-")


def test_hosted_answers_until_a_replica_is_ready_then_on_prem(site: Site) -> None:
    site.apply("smol", spec())
    product.until("hosted answers", lambda: who(ask(site)) == (200, "hosted"), patience=60)
    site.ready("smol")
    product.until("on-prem answers", lambda: who(ask(site)) == (200, "onprem"), patience=30)
    assert site.condition("smol", "Routed") == ("True", "Both")


def test_what_is_full_overflows_and_what_must_stay_waits(site: Site) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = Counter(pool.map(lambda _: who(ask(site, max_tokens=100, ignore_eos=True)), range(8)))
    assert set(answers) == {(200, "onprem"), (200, "hosted")}, answers
    assert who(ask(site, words=SECRET_WORDS, headers={"x-ax-data-residency": "any"})) == (200, "onprem")
    assert who(ask(site, words=SECRET_WORDS + " word" * 300)) == (200, "onprem"), "longer than hosted can hold"
    assert not any(SECRET_WORDS in json.dumps(each["body"]) for each in received(site))


def test_with_no_replica_what_must_stay_is_held_and_the_rest_is_hosted(site: Site) -> None:
    before = len(received(site))
    site.kubectl("scale", "axm/smol", "--replicas=0")
    product.until("none ready", lambda: product.ready_replicas(site.cluster, site.namespace, "smol") == 0)
    answer = ask(site, stream=False, headers={"cookie": "a=b", "x-forwarded-for": "10.1.2.3"}, logit_bias={"5": 1})
    assert who(answer) == (200, "hosted")
    last = received(site)[before:][-1]
    assert last["body"]["model"] == "ax4"
    assert "logit_bias" not in last["body"]
    assert not {"cookie", "x-forwarded-for", "x-ax-model"} & set(last["headers"])
    held: list[tuple[int, str]] = []
    stays = threading.Thread(
        target=lambda: held.append(who(ask(site, words=SECRET_WORDS, headers={"x-ax-data-residency": "OnPrem"})))
    )
    stays.start()
    site.kubectl("scale", "axm/smol", "--replicas=1")
    stays.join(timeout=120)
    assert held == [(200, "onprem")]
    assert not any(SECRET_WORDS in json.dumps(each["body"]) for each in received(site))


def test_a_pod_that_dies_ends_its_stream_and_the_next_request_is_answered(site: Site) -> None:
    site.ready("smol")
    body = {"model": f"{site.namespace}/smol", "messages": [{"role": "user", "content": "Tell a long story."}]}
    body |= {"stream": True, "max_tokens": 1500, "ignore_eos": True}
    got: list[bytes] = []

    def read() -> None:
        with httpx.stream("POST", f"{site.url}/v1/chat/completions", json=body, timeout=120) as stream:
            for piece in stream.iter_bytes():
                if not got:
                    (pod,) = (p["metadata"] for p in site.pods() if "deletionTimestamp" not in p["metadata"])
                    site.kubectl("delete", "pod", pod["name"], "--grace-period=0", "--force")
                got.append(piece)

    with pytest.raises(httpx.HTTPError):
        read()
    assert got
    assert b"[DONE]" not in b"".join(got)
    assert who(ask(site))[0] == 200
    site.ready("smol")


def test_status_and_books_tell_what_it_cost(site: Site) -> None:
    mine = f"{site.namespace}/smol"
    product.until("spending", lambda: mine in site.cluster.kubectl(*hosted.SPEND), patience=40)
    product.until("its status", lambda: condition(site, "Reachable") == ("True", "Answered"), patience=30)
    assert condition(site, "Open") == ("True", "Open")

    def spent() -> bool:
        found = json.loads(site.cluster.kubectl("get", "axhostedapi", hosted.NAME, "-o", "json"))
        return bool(found["status"].get("spentToday", 0) > 0)

    product.until("money in the status", spent, patience=40)


def test_a_wrong_key_is_said_and_on_prem_goes_on(site: Site) -> None:
    where = ("-n", product.NAMESPACE, "patch", "secret", hosted.NAME, "--type=merge", "-p")
    site.apply("smol", spec(policy="HostedFirst"))
    product.until("hosted first", lambda: who(ask(site)) == (200, "hosted"), patience=30)
    site.cluster.kubectl(*where, json.dumps({"stringData": {"api-key": "wrong"}}))
    product.until("rejected", lambda: who(ask(site))[0] == 401, patience=60)

    def said_so() -> bool:
        ask(site)  # the state is judged by the latest answers
        return condition(site, "Reachable") == ("False", "KeyRejected")

    product.until("said so", said_so, patience=30)
    assert who(ask(site, headers={"x-ax-data-residency": "OnPrem"})) == (200, "onprem")
