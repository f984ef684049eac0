"""Pure parts of the hosted side: addresses that are refused, keys, counters, the ledger."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ax_gateway.accounts import Accounts, Meter, Spent
from ax_gateway.hosted import HostedAPI, Network, Refused, allowed_addresses, hosted_api
from ax_gateway.keys import BadKey, Client, KeyPolicy, client_of, key_secret, name_of
from ax_gateway.ledger import (
    MOST_ROWS,
    Ledger,
    day_of,
    rows_from_json,
    rows_to_json,
    spend_table,
)
from ax_gateway.ledger import (
    name_of as ledger_name,
)
from ax_gateway.settings import Settings

SPEC: dict[str, Any] = {"baseUrl": "https://api.example/v1", "model": "ax4"}
API = HostedAPI("api", "h", 443, True, "", "m", input_price=1e6, output_price=2e6)
NOON = 1_795_402_800.0
"""2026-11-23 12:00 in Seoul."""


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.1.1", "127.0.0.1", "0.0.0.0", "::1", "::", "fe80::1", "fd00:ec2::254", "224.0.0.1",
     "100.100.100.200", "::ffff:169.254.169.254", "::ffff:127.0.0.1", "2002:a9fe:a9fe::1", "255.255.255.255"],
)  # fmt: skip
def test_local_and_metadata_addresses_are_refused(address: str) -> None:
    with pytest.raises(Refused, match=address.split("%", maxsplit=1)[0]):
        allowed_addresses(["8.8.8.8", address])


def test_other_addresses_and_exceptions_are_allowed() -> None:
    assert allowed_addresses(["10.1.2.3", "8.8.8.8", "8.8.8.8", "2001:db8:1::1"]) == (
        "10.1.2.3",
        "2001:db8:1::1",
        "8.8.8.8",
    )
    excepted: tuple[Network, ...] = Settings(hosted_networks="127.0.0.0/8, ::1/128").excepted_networks
    assert allowed_addresses(["127.0.0.1", "::1"], excepted) == ("127.0.0.1", "::1")


def test_base_urls() -> None:
    found = hosted_api({"metadata": {"name": "a"}, "spec": SPEC | {"baseUrl": "https://h.example:8443/x/v1/"}})
    assert (found.host, found.port, found.tls, found.path) == ("h.example", 8443, True, "/x/v1")
    inside = {"metadata": {"name": "a"}, "spec": SPEC | {"baseUrl": "http://api.ns.svc/v1"}}
    assert hosted_api(inside, plain_http=True).port == 80
    for url, plain in (("http://api.ns.svc/v1", False), ("http://api.example/v1", True)):
        with pytest.raises(Refused, match="https"):
            hosted_api({"metadata": {"name": "a"}, "spec": SPEC | {"baseUrl": url}}, plain)
    with pytest.raises(ValidationError):
        hosted_api({"metadata": {"name": "a"}, "spec": SPEC | {"baseUrl": "https://user@h/v1"}})


def _secret(**data: str) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"metadata": {"name": "team"}, "data": encoded}


def test_client_is_read_from_its_secret() -> None:
    policy = KeyPolicy(models=("a",), requests_per_minute=5, data_residency="OnPrem")
    made = key_secret("team", "ax", "k" * 40, policy)
    found = client_of(_secret(**made["stringData"]))
    assert found == Client(name="team", keys=("k" * 40,), policy=policy)
    assert found.tag == "rl:team"
    assert name_of(found.tag) == "team"
    assert Client(name="x", keys=()).tag == "--:x"


@pytest.mark.parametrize(
    "data", [{}, {"other": "x"}, {"key": "short"}, {"key": "k" * 31}, {"key": "k" * 40, "policy": "{"}]
)
def test_bad_keys_say_why_and_not_what(data: dict[str, str]) -> None:
    with pytest.raises(BadKey) as refusal:
        client_of(_secret(**data))
    assert "kkk" not in str(refusal.value)


def test_secret_that_is_not_base64_is_refused() -> None:
    with pytest.raises(BadKey, match="base64"):
        client_of({"metadata": {"name": "x"}, "data": {"key": "***"}})


LINE = 'envoy_ax_{name}{{model="t/m",by="{by}",api="{api}",client="c",code="200",way="{way}",attempts="1"}} {value}'


def _text(name: str, value: int, by: str = "hosted", api: str = "api", way: str = "over_t/m") -> str:
    return LINE.format(name=name, value=value, by=by, api=api, way=way)


def test_meter_tells_what_grew_and_survives_a_restart_of_envoy() -> None:
    meter = Meter()
    assert [d.amount for d in meter.read(_text("requests", 5))] == [5]
    assert meter.read(_text("requests", 5)) == []
    assert [d.amount for d in meter.read(_text("requests", 7))] == [2]
    assert [d.amount for d in meter.read(_text("requests", 3))] == [3], "it began at zero again"
    assert [d.amount for d in Meter(meter.seen).read(_text("requests", 4))] == [1]


def test_envoy_s_own_metrics_and_histograms_are_passed_over() -> None:
    text = "\n".join(
        ["# TYPE envoy_ax_requests counter", "envoy_server_live 1", 'envoy_ax_time_to_first_byte_sum{model="m"} 3', "x"]
    )
    assert Meter().read(text) == []


def test_tokens_become_money_and_ways() -> None:
    accounts, meter = Accounts(), Meter()
    text = "\n".join([_text("requests", 2), _text("prompt_tokens", 10), _text("completion_tokens", 20)])
    bought = accounts.take(meter.read(text), {}, {"api": API}, now=0.0)
    assert bought == {("api", "t/m", "c"): Spent(2, 10, 20, 50.0)}
    assert accounts.overflowed() == {"t/m": 2}
    assert accounts.used("c", 59.0) == 30
    assert accounts.used("c", 61.0) == 0


def test_service_time_moves_only_by_steps_that_matter() -> None:
    accounts, meter = Accounts(), Meter()

    def read(count: int, milliseconds: int) -> dict[str, float]:
        text = "\n".join([_text("served", count, "onprem", ""), _text("served_ms", milliseconds, "onprem", "")])
        accounts.take(meter.read(text), {}, {}, 0.0)
        return dict(accounts.service_seconds)

    assert read(10, 20_000) == {"t/m": 2.0}
    assert read(20, 42_000) == {"t/m": 2.0}
    assert read(60, 402_000)["t/m"] == pytest.approx(9.0)


def test_day_turns_at_midnight_in_seoul() -> None:
    assert day_of(NOON) == "2026-11-23"
    assert day_of(NOON + 12 * 3600 - 1) == "2026-11-23"
    assert day_of(NOON + 12 * 3600) == "2026-11-24"
    ledger = Ledger("a")
    ledger.turn(NOON)
    ledger.add({("api", "m", "c"): Spent(krw=5.0)})
    ledger.turn(NOON + 3600)
    assert ledger.spent_on("api") == 5.0
    ledger.turn(NOON + 13 * 3600)
    assert ledger.spent_on("api") == 0.0


def _observed(ledger: Ledger, **data: str) -> None:
    ledger.observe({"metadata": {"name": ledger_name(ledger.day)}, "data": data})


def test_ledger_adds_up_gateways_and_resumes_its_own_rows() -> None:
    ledger = Ledger("a")
    ledger.turn(NOON)
    other = rows_to_json({("api", "m", "c"): Spent(1, 1, 1, 7.0)})
    _observed(ledger, a=rows_to_json({("api", "m", "c"): Spent(1, 1, 1, 3.0)}), b=other)
    assert (ledger.spent_on("api"), ledger.spent_by("c"), ledger.spent_on("other")) == (10.0, 10.0, 0)
    ledger.add({("api", "m", "c"): Spent(krw=2.0)})
    _observed(ledger, a=rows_to_json({("api", "m", "c"): Spent(1, 1, 1, 3.0)}), b=other)
    assert ledger.spent_on("api") == 12.0, "what is known already is not written back by an old entry"
    assert set(ledger.manifest("ns")["data"]) == {"a"}


@pytest.mark.parametrize(
    "text", ["", "x", "{}x", "[1]", '[["a"]]', '[["a","b","c","d",1,1,1]]', "[[1,2,3,4,5,6,null]]"]
)
def test_broken_ledger_is_an_error(text: str) -> None:
    ledger = Ledger("a")
    ledger.turn(NOON)
    with pytest.raises(ValueError):  # noqa: PT011  any of them
        _observed(ledger, b=text)


keys = st.tuples(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
spents = st.builds(Spent, *(st.integers(0, 10**9) for _ in range(3)), st.integers(0, 10**9).map(float))


@given(st.dictionaries(keys, spents, max_size=20))
def test_rows_survive_the_ledger(rows: dict[tuple[str, str, str], Spent]) -> None:
    assert rows_from_json(rows_to_json(rows)) == rows


def test_rows_of_a_ledger_are_bounded() -> None:
    rows = {("api", f"m{n}", "c"): Spent(1, 1, 1, float(n)) for n in range(MOST_ROWS + 100)}
    text = rows_to_json(rows)
    assert len(json.loads(text)) == MOST_ROWS + 1
    assert sum(spent.krw for spent in rows_from_json(text).values()) == sum(spent.krw for spent in rows.values())


def test_spend_table_is_sorted_and_summed() -> None:
    entries = {n: rows_to_json({("api", "m", n): Spent(1, 10, 20, krw)}) for n, krw in (("a", 5.0), ("b", 1234.5))}
    lines = spend_table(entries, "2026-11-23").splitlines()
    assert lines[0].split() == ["API", "MODEL", "CLIENT", "REQUESTS", "PROMPT", "COMPLETION", "KRW"]
    assert [line.split()[-1] for line in lines[1:]] == ["1,234.50", "5.00", "1,239.50"]


def test_settings_name_the_variable_that_is_wrong() -> None:
    assert Settings.from_env({"AX_GATEWAY_PORT": "1234", "OTHER": "x"}).port == 1234
    assert Settings(bare_names="a, b").bare_namespaces == frozenset({"a", "b"})
    assert Settings(bare_names="a,*").bare_namespaces == "*"
    assert Settings(proxy="proxy.example:3128").proxy_address == ("proxy.example", 3128)
    for wrong in ({"AX_GATEWAY_PORT": "x"}, {"AX_GATEWAY_UNKNOWN": "x"}, {"AX_GATEWAY_PROXY": "http://p"}):
        with pytest.raises(ValidationError):
            Settings.from_env(wrong)
