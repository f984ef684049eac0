"""What Envoy's counters say since they were last read, and what it means: tokens, money, ways, service times.

Pure: text, prices and the time come as arguments. Envoy's counters only grow until it restarts; then they are read
as counting from zero.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ax_gateway.hosted import HostedAPI
from ax_gateway.table import Route

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]
Way = Literal["onprem", "hosted_first", "overflow", "failover", "unavailable", "hold", "local"]

ApiState = Literal["reachable", "key_rejected", "unreachable"]

PREFIX = "envoy_ax_"
_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)\{(.*)\} ([0-9.e+-]+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
BYTES_PER_TOKEN = 4
"""Of a prompt whose usage was never told: an estimate, for answers that broke off at a hosted API."""
WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Delta:
    """How much a counter grew."""

    name: str
    labels: Mapping[str, str]
    amount: int


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens, requests and KRW at a hosted API; adds up."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0
    krw: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests,
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.krw + other.krw,
        )


Purchase = tuple[str, str, str]
"""API, model, client."""


def counters(text: str) -> Iterator[tuple[Series, int]]:
    """Read our counters out of Prometheus' text; histograms and Envoy's own are passed over."""
    for line in text.splitlines():
        match = _LINE.match(line) if line.startswith(PREFIX) else None
        if match and not match[1].startswith(f"{PREFIX}time_"):
            yield (match[1].removeprefix(PREFIX), tuple(_LABEL.findall(match[2]))), int(float(match[3]))


class Meter:
    """Remembers the last reading. `seen` can be kept across restarts of the agent, with the Envoy it belongs to."""

    def __init__(self, seen: Mapping[Series, int] | None = None) -> None:
        self.seen: dict[Series, int] = dict(seen or {})

    def read(self, text: str) -> list[Delta]:
        """Return what grew since the last reading."""
        grown = []
        for series, value in counters(text):
            before = self.seen.get(series, 0)
            if value != before:
                amount = value - before if value > before else value
                grown.append(Delta(series[0], dict(series[1]), amount))
                self.seen[series] = value
        return grown


def way_of(labels: Mapping[str, str], hosted_first: bool) -> Way:
    """Return how a request went: from who answered, which cluster was asked, and at which attempt."""
    by, cluster = labels.get("by", ""), labels.get("way", "")
    if by == "hosted":
        if cluster.startswith("first_"):
            return "unavailable" if labels.get("attempts") == "1" else "failover"
        return "hosted_first" if hosted_first or cluster.startswith("gate_") else "overflow"
    if by == "onprem":
        return "onprem"
    return "hold" if by == "hold" else "local"


class Accounts:
    """Sums since the agent's start, and what clients used in the last minute."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str, str, Way]] = Counter()
        """By model, backend, client, status code and way."""
        self.prompt_tokens: Counter[tuple[str, str, str]] = Counter()
        """By model, backend and client."""
        self.completion_tokens: Counter[tuple[str, str, str]] = Counter()
        self.service_seconds: dict[str, float] = {}
        """How long requests of a model take at its replicas: a moving mean that ignores small changes."""
        self.api_state: dict[str, ApiState] = {}
        """What an API's last answers were, by its name."""
        self._recent: deque[tuple[float, str, int]] = deque()
        self._recent_by: Counter[str] = Counter()

    def take(
        self, deltas: Iterable[Delta], routes: Mapping[str, Route], apis: Mapping[str, HostedAPI], now: float
    ) -> dict[Purchase, Spent]:
        """Add what grew; return what was bought at hosted APIs. `routes` are by every name; `now` in seconds."""
        bought: dict[Purchase, Spent] = {}
        served: dict[str, list[int]] = {}
        codes: dict[str, set[str]] = {}
        for delta in deltas:
            labels = delta.labels
            model, by = labels.get("model", ""), labels.get("by", "")
            client, api = labels.get("client", ""), labels.get("api", "")
            if delta.name == "requests":
                route = routes.get(model)
                way = way_of(labels, route is not None and route.model.policy == "HostedFirst")
                self.requests[model, by or "none", client, labels.get("code", ""), way] += delta.amount
                if api:
                    codes.setdefault(api, set()).add(labels.get("code", ""))
                    _add(bought, (api, model, client), Spent(requests=delta.amount))
            elif delta.name in ("prompt_tokens", "completion_tokens"):
                sums = self.prompt_tokens if delta.name == "prompt_tokens" else self.completion_tokens
                sums[model, by, client] += delta.amount
                self._note(now, client, delta.amount)
                if api:
                    _add(bought, (api, model, client), _price(apis.get(api), delta.name, delta.amount))
            elif delta.name in ("broken_events", "broken_bytes"):
                key = routes[model].key if model in routes else model
                kind = "completion_tokens" if delta.name == "broken_events" else "prompt_tokens"
                amount = delta.amount if kind == "completion_tokens" else delta.amount // BYTES_PER_TOKEN
                sums = self.prompt_tokens if kind == "prompt_tokens" else self.completion_tokens
                sums[key, "hosted", client] += amount
                self._note(now, client, amount)
                _add(bought, (api, key, client), _price(apis.get(api), kind, amount))
            elif delta.name in ("served", "served_ms") and by == "onprem":
                served.setdefault(model, [0, 0])[delta.name == "served_ms"] += delta.amount
        self.api_state |= {api: _state(found) for api, found in codes.items()}
        for model, (count, milliseconds) in served.items():
            if count:
                self._learn(model, milliseconds / count / 1000, count)
        return bought

    def used(self, client: str, now: float) -> int:
        """Return the tokens that a client used in the last minute."""
        while self._recent and self._recent[0][0] < now - WINDOW_SECONDS:
            _, who, tokens = self._recent.popleft()
            self._recent_by[who] -= tokens
        return self._recent_by[client]

    def overflowed(self) -> Counter[str]:
        """Return how many requests of each model went to a hosted API for lack of room."""
        found: Counter[str] = Counter()
        for (model, _, _, _, way), count in self.requests.items():
            if way == "overflow":
                found[model] += count
        return found

    def _note(self, now: float, client: str, tokens: int) -> None:
        if client:
            self._recent.append((now, client, tokens))
            self._recent_by[client] += tokens

    def _learn(self, model: str, seconds: float, count: int) -> None:
        """Move the mean, but only by steps that matter: each step changes routes."""
        old = self.service_seconds.get(model)
        weight = min(1.0, count / 20)
        new = seconds if old is None else old + (seconds - old) * weight
        if new > 0 and (old is None or abs(new - old) > 0.25 * old):
            self.service_seconds[model] = new


def _state(codes: set[str]) -> ApiState:
    """Judge an API by the status codes of its latest answers: one good answer says that it works."""
    if any(code.startswith(("2", "4")) and code not in ("401", "403") for code in codes):
        return "reachable"
    return "key_rejected" if codes & {"401", "403"} else "unreachable"


def _price(api: HostedAPI | None, kind: str, tokens: int) -> Spent:
    if kind == "prompt_tokens":
        return Spent(prompt=tokens, krw=tokens * (api.input_price if api else 0) / 1e6)
    return Spent(completion=tokens, krw=tokens * (api.output_price if api else 0) / 1e6)


def _add(bought: dict[Purchase, Spent], key: Purchase, spent: Spent) -> None:
    bought[key] = bought.get(key, Spent()) + spent
