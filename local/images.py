"""The project's container images, as one table, and the commands over it.

An image is built in two steps from Containerfiles of `engines/images`: `python.Containerfile` puts the wheels of
one lock file on a base, which seldom changes; the image's own adds our sources (the folder `app` of its context).
The same files serve production with another BASE.
"""

import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from local import build
from local.errors import LocalError
from local.layout import forget
from local.paths import ROOT, cache_dir
from local.wheels import installed

PYTHON_BASE = "docker.io/library/python:3.11-slim-bookworm"
DEMO_MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
KEPT = 3
"""Builds of one image that stay in the cache."""


@dataclass(frozen=True)
class Image:
    """One image: `<registry>/<name>:<project version>`."""

    name: str
    containerfile: str
    """File of `engines/images`, without its suffix."""
    lock: str = ""
    """File of `locks`, without its suffix; none where the base brings the packages."""
    sources: tuple[str, ...] = ()
    """Packages copied into `app`, relative to the repository."""
    base: str = PYTHON_BASE
    """What production builds on."""
    local: bool = True
    """Whether it makes sense on this machine's cluster."""


ENGINES = "engines/ax_engines"
IMAGES = (
    Image("ax-operator", "operator", "control", ("operator/ax_operator", "operator/ax_gateway", ENGINES)),
    Image("ax-gateway", "gateway", "control", ("operator/ax_operator", "operator/ax_gateway", ENGINES)),
    Image("ax-envoy", "envoy", "envoy"),
    Image("ax-engines", "engines", "engines", (ENGINES,)),
    Image("ax-triton", "triton", "triton", (ENGINES,)),
    Image(
        "ax-triton-tensorrt",
        "triton",
        sources=(ENGINES,),
        base="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        local=False,
    ),
)


def reference(name: str, registry: str = "localhost") -> str:
    """Return an image's full name."""
    return f"{registry}/{name}:{VERSION}"


def chosen(names: Sequence[str], *, local: bool) -> tuple[Image, ...]:
    """Return the images of these names, or all (of this machine); raises LocalError for an unknown one."""
    table = {image.name: image for image in IMAGES}
    unknown = [name for name in names if name not in table]
    if unknown:
        raise LocalError(f"No image {', '.join(unknown)}; there are {', '.join(table)}")
    return tuple(table[name] for name in names) or tuple(image for image in IMAGES if image.local or not local)


def build_all(names: Sequence[str] = ()) -> dict[str, Path]:
    """Build what changed; return name → OCI layout, ready for `Cluster.load_images`."""
    base = build.base_image()
    layouts = {}
    for image in chosen(names, local=True):
        target = _cache() / f"{image.name}-{VERSION}-{key(image, base)}"
        if not target.exists():
            below = build.wheels_image(image.lock, base)
            sources = [ROOT / source for source in image.sources]
            build.layout(_containerfile(image), reference(image.name), below, sources, target, _cache() / "blobs")
            _forget_old(target)
        layouts[image.name] = target
    return layouts


def push(registry: str, names: Sequence[str] = (), base: str = "") -> Iterator[str]:
    """Build for production and push; yield each reference that the registry has now.

    `base` replaces the own base of the images named, such as a mirror's copy of it.
    """
    if base and not names:
        raise LocalError("A base suits some images only: name them, as in IMAGES='ax-operator ax-gateway ax-engines'")
    for image in chosen(names, local=False):
        target = reference(image.name, registry.rstrip("/"))
        below = base or image.base
        if image.lock:
            below = build.wheels_image(image.lock, below, pull=True)
        build.push(_containerfile(image), target, below, [ROOT / source for source in image.sources])
        yield target


def demo_model() -> Path:
    """Return the GGUF file of the demo's chat model, SmolLM2-135M-Instruct (Apache-2.0), from its PyPI package."""
    model = next(installed("smollm2").rglob("*.gguf"))
    seal = model.with_suffix(".checked")
    if not seal.exists():
        with model.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != DEMO_MODEL_SHA256:
            raise LocalError(f"{model} has SHA-256 {found}, expected {DEMO_MODEL_SHA256}: delete it and run again")
        seal.touch()
    return model


def key(image: Image, base: str) -> str:
    """Return twelve hex digits over everything that decides an image's content."""
    digest = hashlib.sha256(repr((image, base, VERSION)).encode())
    locks = [ROOT / "locks" / f"{image.lock}.txt"] if image.lock else []
    wheels = ROOT / "engines" / "images" / "python.Containerfile"
    for path in (_containerfile(image), wheels, *locks, *_files(ROOT / source for source in image.sources)):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _containerfile(image: Image) -> Path:
    return ROOT / "engines" / "images" / f"{image.containerfile}.Containerfile"


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _cache() -> Path:
    return cache_dir() / "images"


def _forget_old(target: Path) -> None:
    """Delete all but the newest builds of an image."""
    stem = target.name.rpartition("-")[0]
    found = [path for path in target.parent.glob(f"{stem}-*") if path.name.rpartition("-")[0] == stem]
    with build.store():
        for path in sorted(found, key=lambda layout: layout.stat().st_mtime)[:-KEPT]:
            forget(path, _cache() / "blobs")
