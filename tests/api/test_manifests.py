"""The models and the manifests of tests/data: what the API server accepts, they read; what its schema refuses, too.

Rules across fields are CEL, which only the API server evaluates (tests/cluster/test_crds.py); the models read what
breaks such a rule, and the plan answers for it.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from ax_operator.api.axengine import AXEngineSpec
from ax_operator.api.axhostedapi import AXHostedAPISpec
from ax_operator.api.axmodel import AXModelSpec
from ax_operator.api.crd import crds
from ax_operator.api.schema import Spec

DATA = Path(__file__).parents[1] / "data" / "manifests"
SPECS: dict[str, type[Spec]] = {"AXModel": AXModelSpec, "AXEngine": AXEngineSpec, "AXHostedAPI": AXHostedAPISpec}


def messages(node: Any) -> set[str]:
    """Return the messages of all CEL rules but those about the keys of maps, which the models know as well."""
    if isinstance(node, list):
        return set().union(*map(messages, node))
    if not isinstance(node, dict):
        return set()
    own = {
        rule["message"] for rule in node.get("x-kubernetes-validations", ()) if not rule["message"].startswith("keys ")
    }
    return own.union(*map(messages, node.values()))


def expected(path: Path) -> list[str]:
    return [line[11:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# refused: ")]


def files(kind: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted((DATA / kind).glob("*.yaml"))]


def read(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


LENIENT = {"axmodel-tensor-as-text"}
"""The models read a number from text, and the server lets none through."""
BY_CEL = set().union(*(messages(crd) for crd in crds()))


@pytest.mark.parametrize("path", files("good"))
def test_good_manifest_is_read_and_written_back(path: Path) -> None:
    (manifest,) = read(path)
    spec = SPECS[manifest["kind"]].model_validate(manifest["spec"])
    written = spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    assert SPECS[manifest["kind"]].model_validate(written) == spec


@pytest.mark.parametrize("path", files("bad"))
def test_bad_manifest_is_refused_unless_only_a_rule_across_fields_sees_it(path: Path) -> None:
    manifest = read(path)[-1]
    model, spec = SPECS[manifest["kind"]], manifest.get("spec")
    if BY_CEL.intersection(expected(path)) or path.stem in LENIENT:
        assert model.model_validate(spec)
    else:
        with pytest.raises(ValidationError):
            model.model_validate(spec)


def test_every_rule_across_fields_has_a_bad_manifest() -> None:
    tried = {message for path in (DATA / "bad").glob("*.yaml") for message in expected(path)}
    assert not BY_CEL - tried


def test_there_are_enough_cases_and_each_bad_one_says_why() -> None:
    bad, good = list((DATA / "bad").glob("*.yaml")), list((DATA / "good").glob("*.yaml"))
    assert len(bad) + len(good) >= 60
    assert all(map(expected, bad))
