"""Opens the origin that a source names."""

from __future__ import annotations

from ax_engines.build.errors import BuildError
from ax_engines.build.origin_claim import ClaimOrigin
from ax_engines.build.origins import Origin
from ax_engines.build.places import Places
from ax_engines.contract import Source


def open_origin(source: Source, places: Places, revision: str | None = None) -> Origin:
    """Return the origin; a hub's is opened at `revision`, the commit that resolve found, where one is given.

    The libraries of hubs and object stores are imported only when a source needs them.
    """
    if source.pvc:
        return ClaimOrigin(source.pvc, places.source)
    if source.hugging_face:
        from ax_engines.build.origin_hub import HubOrigin  # noqa: PLC0415

        return HubOrigin(source.hugging_face, places.secret, revision)
    if source.s3:
        from ax_engines.build.origin_s3 import S3Origin  # noqa: PLC0415

        return S3Origin(source.s3, places.secret)
    raise BuildError("TaskInvalid", "the source names no location: set one of huggingFace, s3 and pvc")
