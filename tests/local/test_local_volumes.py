"""Which claims get a volume, which volumes are cleared away, and what a volume looks like."""

from pathlib import Path
from typing import Any

import pytest

from local.volumes import PROVISIONER, is_done, size_in_bytes, volume_for, wants_volume


def claim(**spec: Any) -> dict[str, Any]:
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}
    return {
        "metadata": {"name": "ax-engines", "namespace": "team", "uid": "u-1"},
        "spec": {**wanted, "storageClassName": "local", **spec},
    }


def test_a_claim_of_our_class_waits_for_us() -> None:
    assert wants_volume(claim())
    assert wants_volume(claim(storageClassName="memory"))


@pytest.mark.parametrize("spec", [{"storageClassName": "other"}, {"volumeName": "pv"}, {"storageClassName": None}])
def test_other_claims_are_left_alone(spec: dict[str, Any]) -> None:
    assert not wants_volume(claim(**spec))


def test_a_claim_that_is_being_deleted_gets_nothing() -> None:
    leaving = claim()
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not wants_volume(leaving)


def test_the_volume_belongs_to_the_claim() -> None:
    volume = volume_for(claim(), Path("/state/volumes"))
    assert volume["spec"]["claimRef"]["uid"] == "u-1"
    assert volume["spec"]["hostPath"]["path"] == "/state/volumes/u-1"
    assert volume["spec"]["capacity"] == {"storage": "64Mi"}
    assert "nodeAffinity" not in volume["spec"]


@pytest.mark.parametrize(
    ("owner", "phase", "done"),
    [(PROVISIONER, "Released", True), (PROVISIONER, "Bound", False), ("x", "Released", False)],
)
def test_only_released_volumes_of_ours_are_cleared(owner: str, phase: str, done: bool) -> None:
    volume = volume_for(claim(), Path("/v")) | {"status": {"phase": phase}}
    volume["metadata"]["annotations"] = {"pv.kubernetes.io/provisioned-by": owner}
    assert is_done(volume) is done


@pytest.mark.parametrize(
    ("quantity", "size"), [("64Mi", 64 << 20), ("1.5Gi", 3 << 29), ("2G", 2 * 10**9), ("512", 512)]
)
def test_quantities_are_read_as_kubernetes_does(quantity: str, size: int) -> None:
    assert size_in_bytes(quantity) == size
