"""Kubernetes Events: what people see at the end of `kubectl describe`. Pure."""

from __future__ import annotations

from typing import Any

from ax_operator.kinds import EVENT

Manifest = dict[str, Any]


def event(
    regarding: Manifest, reason: str, note: str, action: str, now: str, reporter: str, *, warning: bool
) -> Manifest:
    """Return one Event about an object; `now` is RFC 3339 with microseconds, texts are cut to what fits."""
    meta = regarding["metadata"]
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"generateName": f"{meta['name'][:200]}-", "namespace": meta.get("namespace") or "default"},
        "eventTime": now,
        "type": "Warning" if warning else "Normal",
        "reason": reason[:128],
        "action": action[:128],
        "note": note[:1024],
        "reportingController": reporter,
        "reportingInstance": reporter,
        "regarding": {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "name": meta["name"],
            "namespace": meta.get("namespace"),
            "uid": meta.get("uid"),
        },
    }
