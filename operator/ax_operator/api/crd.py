"""CRDs from the models: pydantic's JSON schema, rewritten into what the API server calls structural.

Five things of pydantic's output are refused or useless there: `$defs`, `title`, `anyOf [..., null]`, numeric
`exclusiveMinimum` and `additionalProperties: false`. Defaults stay out of the schema (they would freeze today's
choice into every object) except those that a subresource needs; the description names them instead.
"""

from __future__ import annotations

from typing import Any

import yaml

from ax_engines.contract import Shared
from ax_operator.api import names
from ax_operator.api.axengine import AXEngineSpec, AXEngineStatus
from ax_operator.api.axhostedapi import AXHostedAPISpec, AXHostedAPIStatus
from ax_operator.api.axmodel import AXModelSpec, AXModelStatus

Json = dict[str, Any]
_KEPT = (
    "type", "description", "format", "pattern", "enum", "minLength", "maxLength", "minItems", "maxItems",
    "minimum", "maximum", "maxProperties", "minProperties", "required", "x-kubernetes-validations",
    "x-kubernetes-int-or-string",
)  # fmt: skip


def structural(model: type[Shared]) -> Json:
    """Return a model's schema as Kubernetes wants it: inlined, typed at every level, without nulls."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _rewrite(schema, schema.get("$defs", {}))


def _rewrite(node: Json, defs: Json) -> Json:
    if "$ref" in node:
        target = defs[node["$ref"].rpartition("/")[2]]
        node = {**target, **{k: v for k, v in node.items() if k != "$ref"}}
        return _rewrite(node, defs)
    options = [o for o in node.get("anyOf", ()) if o.get("type") != "null"]
    if options:
        merged = _merge([_rewrite(o, defs) for o in options])
        kept = {k: v for k, v in node.items() if k in ("description", "default")}
        return _describe({**merged, **{k: v for k, v in kept.items() if k == "description"}}, node)
    if "const" in node:
        node = {**node, "enum": [node["const"]]}
    out: Json = {k: node[k] for k in _KEPT if k in node}
    if out.get("x-kubernetes-int-or-string"):
        del out["type"]
    if "properties" in node:
        out["properties"] = {k: _rewrite(v, defs) for k, v in node["properties"].items()}
    if node.get("type") == "object" and "properties" not in node:
        _map(out, node, defs)
    if node.get("type") == "array":
        items = node.get("items", {})
        out["items"] = _rewrite(items, defs) if items else {"x-kubernetes-preserve-unknown-fields": True}
        out.setdefault("maxItems", 1024)
    return _describe(out, node)


def _map(out: Json, node: Json, defs: Json) -> None:
    """Write a map's values, and as CEL what its keys may be: the server knows no `patternProperties`."""
    patterns: Json = node.get("patternProperties") or {}
    values = next(iter(patterns.values()), None) or node.get("additionalProperties")
    if not isinstance(values, dict) or not values:
        out["x-kubernetes-preserve-unknown-fields"] = True
        return
    out["additionalProperties"] = _rewrite(values, defs)
    keys = node.get("propertyNames", {})
    found = [_key_rule(f"k.matches({_quoted(p)})", f"keys must match {p}") for p in patterns]
    if "maxLength" in keys:
        limit = keys["maxLength"]
        found.append(_key_rule(f"k.size() <= {limit}", f"keys have at most {limit} characters"))
    if "enum" in keys:
        allowed = ", ".join(keys["enum"])
        found.append(_key_rule(f"k in [{', '.join(map(_quoted, keys['enum']))}]", f"keys are {allowed}"))
    if found:
        out["x-kubernetes-validations"] = found + out.get("x-kubernetes-validations", [])


def _key_rule(test: str, message: str) -> Json:
    return {"rule": f"self.all(k, {test})", "message": message}


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _merge(options: list[Json]) -> Json:
    """Merge alternatives of one type: `Literal["auto"] | Literal[...]` becomes one enum."""
    if len(options) == 1:
        return options[0]
    if all("enum" in o for o in options):
        return {**options[0], "enum": [v for o in options for v in o["enum"]]}
    raise TypeError(f"the API server cannot hold a choice of types: {options}")


def _describe(out: Json, node: Json) -> Json:
    default = node.get("default")
    if isinstance(default, bool | int | float | str) and default != "":
        text = "true" if default is True else "false" if default is False else default
        out["description"] = f"{out.get('description', '').strip()} Default: {text}.".strip()
    return out


def _column(name: str, kind: str, path: str, priority: int = 0) -> Json:
    return {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


# What names of objects become, and hence what they may be: a pattern and what the API server answers.
_MODEL_NAME = (
    "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$",
    "an AXModel's name becomes part of others: at most 40 lower-case letters, digits and dashes, a letter first",
)
_ENGINE_NAME = (
    "^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?-[0-9a-f]{10}$",
    "an AXEngine is named <spec.slug>-<digest of its spec>: ten hex digits after the slug",
)
_API_NAME = (
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    "an AXHostedAPI's name is part of metrics and routes: at most 63 lower-case letters, digits and dashes",
)

_AGE = _column("Age", "date", ".metadata.creationTimestamp")


def _crd(  # one argument per difference between the three kinds
    kind: str, plural: str, short: str, spec: type[Shared], status: type[Shared], columns: list[Json], *,
    name: tuple[str, str], scope: str = "Namespaced", scale: bool = False,
) -> Json:  # fmt: skip
    status_schema = structural(status)
    conditions = status_schema["properties"]["conditions"]
    conditions |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    spec_schema = structural(spec)
    subresources: Json = {"status": {}}
    if scale:
        # The scale subresource reads this path also from an object that never named it.
        spec_schema["properties"]["scaling"]["default"] = {}
        spec_schema["properties"]["scaling"]["properties"]["replicas"]["default"] = 1
        subresources["scale"] = {
            "specReplicasPath": ".spec.scaling.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    schema = {
        "type": "object",
        "description": (spec.__doc__ or "").strip(),
        "required": ["spec"],
        "x-kubernetes-validations": [
            {"rule": f"self.metadata.name.matches({_quoted(pattern)})", "message": message}
            for pattern, message in [name]
        ],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec_schema,
            "status": status_schema,
        },
    }
    singular = kind.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": scope,
            "names": {
                "kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": singular,
                "shortNames": [short], "categories": ["ax"],
            },
            "versions": [
                {
                    "name": names.VERSION, "served": True, "storage": True, "subresources": subresources,
                    "additionalPrinterColumns": columns, "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }  # fmt: skip


def crds() -> list[Json]:
    """Return the three CustomResourceDefinitions."""
    return [
        _crd(
            "AXModel", "axmodels", "axm", AXModelSpec, AXModelStatus,
            [
                _column("Ready", "string", _condition("Ready", "status")),
                _column("Reason", "string", _condition("Ready", "reason")),
                _column("Engine", "string", ".status.engine.serving"),
                _column("Replicas", "integer", ".status.readyReplicas"),
                _column("Queue", "integer", ".status.queue.waiting"),
                _column("Route", "string", _condition("Routed", "reason")),
                _column("Message", "string", _condition("Ready", "message"), 1),
                _AGE,
            ],
            name=_MODEL_NAME, scale=True,
        ),
        _crd(
            "AXEngine", "axengines", "axe", AXEngineSpec, AXEngineStatus,
            [
                _column("Ready", "string", _condition("Ready", "status")),
                _column("Reason", "string", _condition("Ready", "reason")),
                _column("Artifact", "string", ".spec.artifact"),
                _column("Phase", "string", ".status.progress.phase"),
                _column("Percent", "number", ".status.progress.percent"),
                _column("In use", "string", _condition("InUse", "status")),
                _column("Message", "string", _condition("Ready", "message"), 1),
                _AGE,
            ],
            name=_ENGINE_NAME,
        ),
        _crd(
            "AXHostedAPI", "axhostedapis", "axh", AXHostedAPISpec, AXHostedAPIStatus,
            [
                _column("Model", "string", ".spec.model"),
                _column("Reachable", "string", _condition("Reachable", "status")),
                _column("Spent today", "number", ".status.spentToday"),
                _AGE,
            ],
            name=_API_NAME, scope="Cluster",
        ),
    ]  # fmt: skip


def render(crd: Json) -> str:
    """Return a CRD as YAML; same models, same bytes."""
    return yaml.safe_dump(crd, sort_keys=False, allow_unicode=True, width=110)
