"""What cannot work says why, on a real cluster, and stops nothing else."""

from __future__ import annotations

import json

import pytest

from local import images, product
from tests.e2e.site import Json, Site

pytestmark = pytest.mark.e2e


def spec(path: str, **more: object) -> Json:
    """Return a spec whose source is a path on the claim."""
    return {
        "source": {"pvc": {"claimName": "models", "path": path}},
        "scaling": {"mode": "fixed", "replicas": 0},
        **more,
    }


@pytest.fixture(scope="module")
def broken(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Put broken files onto the claim: the first half of the model, a file that is none, another architecture."""
    folder = tmp_path_factory.mktemp("broken")
    real = images.demo_model().read_bytes()
    (folder / "half.gguf").write_bytes(real[: len(real) // 2])
    (folder / "text.gguf").write_bytes(b"this is no model\n" * 1000)
    (folder / "other.gguf").write_bytes(real.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0gpt99", 1))
    product.model_claim(site.cluster, site.namespace, {p.name: p for p in folder.iterdir()})
    return site


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nobody.gguf", "SourceMissing"),
        ("half.gguf", "Truncated"),
        ("text.gguf", "BadMagic"),
        ("other.gguf", "ArchitectureUnknown"),
    ],
)
def test_a_bad_source_gives_its_own_reason(broken: Site, path: str, reason: str) -> None:
    name = path.split(".", maxsplit=1)[0]
    broken.apply(name, spec(path))
    message = broken.until_condition(name, "Ready", reason, patience=60)
    assert path in message or name in message
    assert not broken.names("axengines")
    broken.kubectl("delete", "axm", name)


def test_a_model_too_large_for_the_store_says_how_much_is_missing(site: Site) -> None:
    where = f"{site.namespace}-small"
    product.namespace(site.cluster, where)
    product.model_claim(site.cluster, where, {product.MODEL_FILE: images.demo_model()})
    small = Site(site.cluster, where)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "ax-engines", "labels": {"app.kubernetes.io/managed-by": "ax-operator"}},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "memory",
            "resources": {"requests": {"storage": "16Mi"}},
        },
    }
    small.kubectl("apply", "-f", "-", input=json.dumps(claim))
    small.apply("smol", spec(product.MODEL_FILE, model="SmolLM2-135M-Instruct"))
    message = small.until_condition("smol", "Ready", "StoreFull", patience=90)
    assert "enlarge its claim" in message
    assert not [p for p in small.store().iterdir() if not p.name.startswith(".")]
    site.cluster.kubectl("delete", "namespace", where, "--wait=false")


def test_an_author_cannot_use_a_secret_that_is_not_labelled_for_it(site: Site) -> None:
    site.kubectl("create", "secret", "generic", "private", "--from-literal=token=x")
    site.apply("thief", {"source": {"huggingFace": {"repo": "a/b", "tokenSecret": "private"}}})
    message = site.until_condition("thief", "Ready", "SecretNotUsable")
    assert "private" in message
    assert not site.names("jobs")
    site.kubectl("delete", "axm", "thief")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"placement": {"pod": {"volumes": [{"hostPath": {"path": "/"}}]}}}, "unknown field"),
        ({"placement": {"pod": {"serviceAccountName": "admin"}}}, "unknown field"),
        ({"placement": {"pod": {"image": "evil"}}}, "unknown field"),
        ({"placement": {"pod": {"env": {"LD_PRELOAD": "/x.so"}}}}, "belong to the operator"),
    ],
)
def test_an_author_cannot_reach_beyond_serving_a_model(site: Site, more: Json, words: str) -> None:
    manifest = {
        "apiVersion": "serving.axmodel.io/v1alpha1",
        "kind": "AXModel",
        "metadata": {"name": "reach"},
        "spec": spec(product.MODEL_FILE, **more),
    }
    with pytest.raises(Exception, match=words):
        site.kubectl("apply", "--validate=strict", "-f", "-", input=json.dumps(manifest))


def test_an_image_outside_the_charts_toolchains_is_refused(site: Site) -> None:
    site.apply("tool", spec(product.MODEL_FILE, engine={"toolchain": "mine"}))
    assert "cpu" in site.until_condition("tool", "Ready", "ToolchainIncompatible")
    site.kubectl("delete", "axm", "tool")
