"""The OpenAPI document: what it promises is what a pod does, however strange the request."""

from __future__ import annotations

import json
import os

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.config import GenerationConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema

from ax_engines.openai.document import document
from tests.engines.serving import Pod, page

SOAK = os.environ.get("AX_SOAK") == "1"
pytestmark = [pytest.mark.soak] if SOAK else []
PROMISED = document(("demo/smollm2", "smollm2"))
OPERATIONS = [(path, method) for path, methods in PROMISED["paths"].items() for method in methods]
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
bounded = settings(
    max_examples=400 if SOAK else 20,
    derandomize=not SOAK,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def promised() -> OpenApiSchema:
    """The document."""
    return schemathesis.openapi.from_dict(PROMISED)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_a_pod_keeps_what_its_document_promises(
    promised: OpenApiSchema, scripted_pod: Pod, path: str, method: str
) -> None:
    """Valid, invalid and odd requests: no server error; status, headers, body and a stream's events as promised.

    A schema cannot say everything (`top_logprobs` needs `logprobs`), so a valid request may be refused.
    """
    operation = promised[path][method]

    kinds: set[str] = set()
    statuses: set[int] = set()

    def check(case: schemathesis.Case) -> None:
        response = case.call(base_url=scripted_pod.url)
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
        statuses.add(response.status_code)
        if response.status_code == 200:
            kinds.update(kind.partition(";")[0] for kind in response.headers["content-type"])

    # every keyword of the schema at its bounds and beyond them
    config = GenerationConfig(modes=MODES)
    for case in promised.iter_coverage_cases(operation, generation_modes=MODES, generation_config=config):
        check(case)
    assert statuses >= ({200, 400} if method == "post" else {200})
    assert kinds == set(PROMISED["paths"][path][method]["responses"]["200"]["content"])
    # and anything at random
    for mode in MODES if method == "post" else []:
        bounded(given(operation.as_strategy(mode))(check))()


def test_the_document_is_served_and_sound(scripted_pod: Pod) -> None:
    served = json.loads(page(f"{scripted_pod.url}/openapi.json"))
    assert served == json.loads(json.dumps(PROMISED))
    schemathesis.openapi.from_dict(served).validate()


def test_every_schema_is_used_and_every_reference_leads_somewhere() -> None:
    text = json.dumps(PROMISED)
    names = PROMISED["components"]["schemas"]
    used = {name for name in names if f'"#/components/schemas/{name}"' in text}
    assert used == set(names)
    assert text.count('"$ref"') == sum(text.count(f'"#/components/schemas/{name}"') for name in names)
