"""Makes volumes for claims and clears them away: `python -m local.volumes <state folder>`.

Two storage classes. `local` (the default) is a folder of the host under the cluster's state, without a size
limit; `memory` is a tmpfs of exactly the size that was asked for, for what must run out of room. Both are
hostPath volumes without node affinity, so that pods of simulated nodes may claim them too. The kubelet does not
chown such volumes: the folders are open to every user instead.

Level-triggered: every change of a claim, and every few seconds, all claims and volumes are looked at afresh.
"""

import ctypes
import http.client
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from local.api import Api

PROVISIONER = "local.axmodel.io/folder"
CLASSES = {"local": "true", "memory": "false"}
"""Class name → whether it is the default one."""
ANNOTATION = "pv.kubernetes.io/provisioned-by"
CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
RESYNC_S = 3
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def storage_class(name: str) -> dict[str, Any]:
    """Return the manifest of one of `CLASSES`."""
    default = {"storageclass.kubernetes.io/is-default-class": CLASSES[name]}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": default},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def wants_volume(claim: dict[str, Any]) -> bool:
    """Tell whether a claim waits for a volume of ours."""
    spec = claim["spec"]
    return (
        spec.get("storageClassName") in CLASSES
        and not spec.get("volumeName")
        and "deletionTimestamp" not in claim["metadata"]
    )


def volume_for(claim: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the volume that a claim gets: its name follows from the claim's uid, so twice is once."""
    metadata, spec = claim["metadata"], claim["spec"]
    reference = {key: metadata[key] for key in ("namespace", "name", "uid")}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"pvc-{metadata['uid']}", "annotations": {ANNOTATION: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"],
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference},
            "hostPath": {"path": str(folder / metadata["uid"]), "type": "Directory"},
        },
    }


def is_done(volume: dict[str, Any]) -> bool:
    """Tell whether a volume is ours and its claim is gone."""
    ours = volume["metadata"].get("annotations", {}).get(ANNOTATION) == PROVISIONER
    return bool(ours and volume["status"].get("phase") == "Released")


def size_in_bytes(quantity: str) -> int:
    """Return a Kubernetes quantity such as `64Mi` in bytes."""
    for suffix, factor in UNITS.items():
        if quantity.endswith(suffix):
            return int(float(quantity.removesuffix(suffix)) * factor)
    return int(float(quantity))


def settle(api: Api, folder: Path) -> str:
    """Make what is missing, clear what is done; return the version from which to watch."""
    claims = api.get(CLAIMS) or {}
    for claim in claims["items"]:
        if wants_volume(claim):
            volume = volume_for(claim, folder)
            _make(volume, Path(volume["spec"]["hostPath"]["path"]))
            api.create(VOLUMES, volume)
    for volume in (api.get(VOLUMES) or {})["items"]:
        if is_done(volume):
            _clear(Path(volume["spec"]["hostPath"]["path"]))
            api.delete(f"{VOLUMES}/{volume['metadata']['name']}")
    return str(claims["metadata"]["resourceVersion"])


def _make(volume: dict[str, Any], path: Path) -> None:
    if path.exists():
        return
    path.mkdir(parents=True)
    if volume["spec"]["storageClassName"] == "memory":
        size = size_in_bytes(volume["spec"]["capacity"]["storage"])
        options = f"size={size},mode=777".encode()
        if ctypes.CDLL(None, use_errno=True).mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, options):
            raise OSError(ctypes.get_errno(), "a volume of class memory needs a cluster of mode node", str(path))
    path.chmod(0o777)


def _clear(path: Path) -> None:
    if path.is_mount():
        ctypes.CDLL(None).umount2(os.fsencode(path), 2)
    if path.exists():
        shutil.rmtree(path)


def main() -> None:
    """Serve the cluster whose state folder is the first argument until killed."""
    state = Path(sys.argv[1])
    api = Api(json.loads((state / "plan.json").read_text())["server"], state)
    for name in CLASSES:
        api.create("/apis/storage.k8s.io/v1/storageclasses", storage_class(name))
    while True:
        try:
            version = settle(api, state / "volumes")
            next(api.changes(CLAIMS, version, RESYNC_S), None)
        except (OSError, http.client.HTTPException) as error:
            sys.stderr.write(f"volumes: {error}\n")
            time.sleep(1)


if __name__ == "__main__":
    main()
