"""The generated CRDs: they follow the models, and hold nothing that an API server refuses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ax_operator import crd_files
from ax_operator.api.crd import crds
from ax_operator.api.names import GROUP, VERSION

# What apiextensions/v1 calls forbidden or what would freeze a choice into every object.
FORBIDDEN = {"$ref", "$defs", "title", "anyOf", "oneOf", "patternProperties", "propertyNames", "const", "definitions"}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def schemas() -> list[Any]:
    return [
        pytest.param(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], id=crd["spec"]["names"]["kind"])
        for crd in crds()
    ]


@pytest.mark.parametrize("path", crd_files.files(), ids=str)
def test_generated_file_follows_the_models(path: Path) -> None:
    assert (crd_files.ROOT / path).read_text(encoding="utf-8") == crd_files.files()[path], "run `make crds`"


def test_check_reports_a_stale_file_and_a_run_repairs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd_files.main(["--check"], tmp_path) == 1
    assert "make crds" in capsys.readouterr().err
    assert crd_files.main([], tmp_path) == 0
    assert crd_files.main(["--check"], tmp_path) == 0
    assert yaml.safe_load((tmp_path / "crds/axmodels.yaml").read_text())["metadata"]["name"] == f"axmodels.{GROUP}"


@pytest.mark.parametrize("schema", schemas())
def test_schema_is_structural_and_bounded(schema: dict[str, Any]) -> None:
    for path, node in nodes(schema):
        assert not FORBIDDEN & node.keys(), path
        assert node.get("additionalProperties") is not False, path
        typed = "type" in node or "x-kubernetes-int-or-string" in node or "x-kubernetes-preserve-unknown-fields" in node
        assert typed, f"{path} has no type"
        if path.startswith(".spec") and node.get("type") == "array":
            assert "maxItems" in node, path
        if path.startswith(".spec") and node.get("type") == "string" and "enum" not in node:
            assert "maxLength" in node, path
        if path.startswith(".spec") and isinstance(node.get("additionalProperties"), dict):
            assert "maxProperties" in node or path.endswith("affinity"), path


@pytest.mark.parametrize("schema", schemas())
def test_only_the_scale_subresource_has_defaults(schema: dict[str, Any]) -> None:
    found = {path for path, node in nodes(schema) if "default" in node}
    assert found <= {".spec.scaling", ".spec.scaling.replicas"}


def test_every_rule_has_a_message_that_is_a_sentence() -> None:
    rules = [
        rule
        for crd in crds()
        for _, node in nodes(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        for rule in node.get("x-kubernetes-validations", ())
    ]
    assert len(rules) > 20
    assert all(len(rule["message"]) > 15 for rule in rules)


def test_names_versions_and_short_names() -> None:
    found = {c["spec"]["names"]["kind"]: c["spec"] for c in crds()}
    short = {kind: spec["names"]["shortNames"] for kind, spec in found.items()}
    assert short == {"AXModel": ["axm"], "AXEngine": ["axe"], "AXHostedAPI": ["axh"]}
    scopes = {kind: spec["scope"] for kind, spec in found.items()}
    assert scopes == {"AXModel": "Namespaced", "AXEngine": "Namespaced", "AXHostedAPI": "Cluster"}
    assert all(s["group"] == GROUP and s["versions"][0]["name"] == VERSION for s in found.values())
