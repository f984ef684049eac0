"""Sources on a hub and in an object store that stand in for real ones: what they hold, their plans, their downloads."""

from __future__ import annotations

from ax_engines.build.fetch import Fetch
from ax_engines.build.origins import Origin
from ax_engines.build.places import Places
from ax_engines.build.progress import Tracker
from ax_engines.build.resolve import resolve
from ax_engines.build.sources import open_origin
from ax_engines.contract import ArtifactSpec, HuggingFaceSource, S3Source, Source
from tests.engines.model_files import spec_of, tree
from tests.engines.remote_stores import Remote

SHARD = "model-00002-of-00002.safetensors"


def stored_files(places: Places) -> dict[str, bytes]:
    """Return what a stand-in holds: the model's files and two that nobody needs."""
    return tree(places.source / "model") | {"README.md": b"# card", "onnx/model.bin": b"no"}


def hub_source(hub: Remote, **changes: str) -> Source:
    """Return the stand-in's repository as a source."""
    values = {"repo": "skt/tiny", "endpoint": hub.url} | changes
    return Source(hugging_face=HuggingFaceSource.model_validate(values, by_name=True))


def s3_source(s3: Remote, **changes: str) -> Source:
    """Return the stand-in's prefix as a source."""
    values = {"uri": "s3://models/ax/tiny", "endpoint": s3.url} | changes
    return Source(s3=S3Source.model_validate(values, by_name=True))


def planned(source: Source, places: Places) -> ArtifactSpec:
    """Resolve a source and return the spec of its artifact."""
    return spec_of(resolve(open_origin(source, places)), source)


def fetch(source: Source, spec: ArtifactSpec, places: Places) -> list[float]:
    """Fetch without waiting between attempts; returns the waits that there would have been."""
    waits: list[float] = []
    origin: Origin = open_origin(source, places, spec.revision)
    Fetch(origin, spec.name, spec, places, Tracker("fetch"), pause=waits.append).run()
    return waits
