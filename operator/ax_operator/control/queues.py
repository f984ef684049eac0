"""The queues of models that a change of the chart makes roll, kept up with every change of a Deployment.

`plan.turns` tells the rule. In a cluster where nothing is due, the queues are empty and cost nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ax_operator.api.names import COMPONENT, COMPONENT_SERVING, MODEL
from ax_operator.control.cache import Change
from ax_operator.control.wakes import Key, model_key
from ax_operator.plan.marks import due, queue_of
from ax_operator.plan.turns import MOST_RIVALS
from ax_operator.plan.world import Settings

Manifest = dict[str, Any]


class Queues:
    """Deployments that are due, by namespace and GPU product."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._due: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)

    def note(self, change: Change) -> set[Key]:
        """Take over a Deployment's change; return the models whose turn it may be now."""
        woken: set[Key] = set()
        for each in change.objects:
            labels = each["metadata"].get("labels") or {}
            if labels.get(COMPONENT) != COMPONENT_SERVING or MODEL not in labels:
                continue
            queue, entry = queue_of(each), (labels[MODEL], each["metadata"]["name"])
            if each is change.new and due(each, self._settings):
                self._due[queue].add(entry)
            elif entry in self._due[queue]:
                self._due[queue].discard(entry)
                woken |= {model_key(queue[0], name) for name in self._names(queue)[: MOST_RIVALS + 1]}
        return woken

    def before(self, key: Key, deployments: list[Manifest]) -> list[Key]:
        """Return the models that stand before this one, as many as it has to look at; none if it is not due."""
        queues = {queue_of(d) for d in deployments if due(d, self._settings)}
        names = sorted({name for queue in queues for name in self._names(queue) if name < key.name})
        return [model_key(key.namespace, name) for name in names[:MOST_RIVALS]]

    def _names(self, queue: tuple[str, str]) -> list[str]:
        return sorted({name for name, _ in self._due.get(queue, ())})
