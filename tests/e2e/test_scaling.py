"""Replicas follow load on a real cluster: from zero, up, down, to zero; and by an HPA instead of ourselves.

The model is small and the machine too, so a replica is told to serve four requests at once and to be kept three parts
busy: ten clients fill more than two replicas, two clients do not fill one. The way down takes a minute, since a need
must be gone for one stabilisation window.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from local import product
from tests.e2e.history import History, history
from tests.e2e.metrics_adapter import external_metrics
from tests.e2e.site import Json, Site

pytestmark = pytest.mark.e2e
EXAMPLE = Path(__file__).parents[2] / "examples" / "hpa.yaml"
NAME = "tide"
SERVING = "app.kubernetes.io/component=serving"
COST = "controller.kubernetes.io/pod-deletion-cost"


def spec(scaling: Json) -> Json:
    """Return the demo model's spec with few slots, and room on a small machine."""
    return {
        "model": "SmolLM2-135M-Instruct",
        "source": {"pvc": {"claimName": "models", "path": product.MODEL_FILE}},
        "engine": {"limits": {"maxBatchSize": 4, "maxTotalTokens": 512}},
        "placement": {"pod": {"cpu": "100m"}},
        "scaling": scaling,
    }


class Story:
    """A model in mode builtin, clients that never stop asking it, and all that became of it and its pods."""

    def __init__(self, site: Site, models: History, pods: History) -> None:
        self.site = site
        self.key = f"{site.namespace}/{NAME}"
        self.outcomes: Counter[str] = Counter()
        self.load = ExitStack()
        self._models = models
        self._pods = pods

    def ready(self) -> int:
        """Return the ready replicas."""
        return int(self.site.model(NAME)["status"]["readyReplicas"])

    def rows(self) -> list[Json]:
        """Return every decision that status has had."""
        found: list[Json] = []
        for version in self._models.versions():
            scaling = (version.get("status") or {}).get("scaling") or {}
            found += (row for row in scaling.get("lastDecisions") or () if row not in found)
        return found

    def costs(self) -> tuple[dict[str, int], set[str]]:
        """Return the deletion cost that each pod had at its end or has now, and which pods went."""
        cost: dict[str, int] = {}
        going: set[str] = set()
        for pod in self._pods.versions():
            meta = pod["metadata"]
            if meta["name"] not in going:
                cost[meta["name"]] = int((meta.get("annotations") or {}).get(COST, "0"))
            if meta.get("deletionTimestamp"):
                going.add(meta["name"])
        return cost, going

    def series(self) -> dict[str, float]:
        """Return the operator's series of this model: name and values of its other labels -> value."""
        text = self.site.cluster.kubectl(
            "get", "--raw", f"/api/v1/namespaces/{product.NAMESPACE}/services/ax-operator:8080/proxy/metrics"
        )
        found = {}
        for name, written, value in re.findall(r"^ax_operator_model_(\w+)\{(.*)\} (\S+)$", text, re.M):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', written))
            if (labels.pop("namespace"), labels.pop("model")) == (self.site.namespace, NAME):
                found[" ".join((name, *labels.values()))] = float(value)
        return found


@pytest.fixture(scope="module")
def story(site: Site) -> Iterator[Story]:
    """A model that sleeps, under observation."""
    with (
        history(site.cluster, site.namespace, "axm", f"--field-selector=metadata.name={NAME}") as models,
        history(site.cluster, site.namespace, "pods", "-l", f"serving.axmodel.io/model={NAME},{SERVING}") as pods,
    ):
        site.apply(NAME, spec({"minReplicas": 0, "maxReplicas": 3, "target": 75, "scaleToZeroAfter": "5s"}))
        site.ready(NAME)
        found = Story(site, models, pods)
        with found.load:
            yield found


def test_a_held_request_wakes_a_model_that_sleeps(story: Story) -> None:
    assert story.site.condition(NAME, "Ready") == ("True", "ScaledToZero")
    assert not story.site.pods()
    assert "Seoul" in story.site.ask(story.key)
    first, second, *_ = story.rows()
    assert (first["replicas"], second["replicas"]) == (0, 1)
    assert second["why"].startswith("0 -> 1: demand 1.0 at 4 per replica")


def test_replicas_rise_with_load(story: Story) -> None:
    story.outcomes = story.load.enter_context(story.site.load(story.key, workers=2, tokens=200))
    with story.site.load(story.key, workers=10, tokens=40) as crowd:
        product.until("a second replica", lambda: story.ready() >= 2, patience=180)
        done = crowd["ok"]
        product.until("the crowd is served", lambda: crowd["ok"] >= done + 10, patience=180)
        assert story.series()["wanted_replicas"] >= 2
    assert set(crowd) == {"ok"}, crowd


def test_the_hpa_of_the_examples_scales_a_model_by_the_operators_demand(
    story: Story, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = story.site
    _, hpa = yaml.safe_load_all(EXAMPLE.read_text())
    # What is the machine's and not the example's: whom to scale, how many requests a replica serves, how long to wait.
    metric = hpa["spec"]["metrics"][0]["external"]
    hpa["metadata"] |= {"name": "swell", "namespace": site.namespace}
    hpa["spec"]["scaleTargetRef"]["name"] = metric["metric"]["selector"]["matchLabels"]["model"] = "swell"
    hpa["spec"]["maxReplicas"] = 2
    metric["target"]["averageValue"] = "3"
    hpa["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] = 0
    site.apply("swell", spec({"mode": "external"}))

    def asked_for() -> int:
        return int(site.model("swell")["spec"]["scaling"]["replicas"])

    with external_metrics(site.cluster, site.namespace, tmp_path_factory.mktemp("adapter")):
        site.kubectl("apply", "-f", "-", input=yaml.safe_dump(hpa))
        site.ready("swell")
        with site.load(f"{site.namespace}/swell", workers=8, tokens=40) as outcomes:
            product.until("two asked for", lambda: asked_for() == 2, patience=180)
            product.until("two pods", lambda: len(site.pods("serving", "swell")) == 2, patience=60)
        product.until("one asked for", lambda: asked_for() == 1, patience=120)
        events = [e["note"] for e in site.items("events.events.k8s.io") if e["reason"] == "SuccessfulRescale"]
        assert any("external metric ax_operator_model_demand_requests" in note for note in events), events
        site.kubectl("delete", "hpa", "swell")
    assert set(outcomes) == {"ok"}, outcomes
    assert "scaling" not in site.model("swell")["status"]
    site.kubectl("delete", "axm", "swell", "--wait=false")


def test_the_emptiest_pods_go_first_when_load_falls(story: Story) -> None:
    product.until("one replica", lambda: story.ready() == 1, patience=240)
    costs, going = story.costs()
    [kept] = costs.keys() - going
    assert going
    assert max(costs[name] for name in going) <= costs[kept], costs
    assert any(costs.values()), costs


def test_without_load_the_last_replica_goes_and_no_request_was_lost(story: Story) -> None:
    story.load.close()
    product.until("no replica", lambda: story.ready() == 0 and not story.site.pods("serving", NAME), patience=120)
    assert story.site.condition(NAME, "Ready") == ("True", "ScaledToZero")
    assert set(story.outcomes) == {"ok"}, story.outcomes
    assert story.rows()[-1]["replicas"] == 0
    assert "idle for" in story.rows()[-1]["why"]


def test_status_and_series_tell_the_same_decisions(story: Story) -> None:
    rows = story.rows()
    assert story.site.model(NAME)["status"]["scaling"]["lastDecisions"] == rows[-5:]
    changes = list(pairwise(rows))
    for before, row in changes:
        assert row["why"].startswith(f"{before['replicas']} -> {row['replicas']}: demand "), rows
    ups = sum(before["replicas"] < row["replicas"] for before, row in changes)
    series = story.series()
    told = {way: sum(v for k, v in series.items() if k.startswith(f"scalings_total {way} ")) for way in ("up", "down")}
    assert told == {"up": ups, "down": len(changes) - ups}
    assert (series["demand_requests"], series["wanted_replicas"], series["scalings_total down idle"]) == (0, 0, 1)
