"""Reads a source from an S3-compatible store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ax_engines.build.errors import BuildError, InterruptedReadError
from ax_engines.build.origins import MAX_FILES, SourceFile
from ax_engines.build.secrets import optional_secret, read_secret
from ax_engines.build.streams import PartsReader
from ax_engines.contract import S3Source

PART_BYTES = 64 * 2**10
"""What is lost at most when a connection breaks: the client keeps no part that it could not complete."""


class S3Origin:
    """The objects directly below a prefix, or one GGUF object.

    Credentials come from the mounted Secret alone (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and if need be
    AWS_SESSION_TOKEN and AWS_REGION); without a Secret requests are anonymous.
    """

    commit: str | None = None

    def __init__(self, source: S3Source, secret: Path) -> None:
        self.label = source.uri
        self._bucket, _, self._prefix = source.uri.removeprefix("s3://").partition("/")
        self._endpoint = source.endpoint
        self._client = _client(source, secret)

    def files(self) -> tuple[SourceFile, ...]:
        """List the objects with sizes and ETags; an ETag is asked for again when the object is read."""
        with self._translated():
            if self._prefix.endswith(".gguf"):
                head = self._client.head_object(Bucket=self._bucket, Key=self._prefix)
                name = self._prefix.rpartition("/")[2]
                return (SourceFile(name, head["ContentLength"], tag=head["ETag"]),)
            return self._list(self._prefix.rstrip("/") + "/")

    def _list(self, prefix: str) -> tuple[SourceFile, ...]:
        found: list[SourceFile] = []
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix, Delimiter="/"
        )
        for page in pages:
            for row in page.get("Contents", ()):
                key = row["Key"]
                if not key.startswith(prefix):
                    raise BuildError("UnsafeFiles", f"{self.label} lists {key!r:.200}, which is not below it")
                if name := key[len(prefix) :]:  # the prefix itself may be an object: a "folder" of a console
                    found.append(SourceFile(name, row["Size"], tag=row["ETag"]))
            if len(found) > MAX_FILES:
                break  # `select` refuses so many
        if not found:
            raise BuildError("SourceMissing", f"{self.label} has no objects: check bucket and prefix")
        return tuple(found)

    @contextmanager
    def open(self, file: SourceFile, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        """Stream an object's bytes from `start`, if it is still the listed one."""
        own = self._prefix.endswith(".gguf")
        key = self._prefix if own else f"{self._prefix.rstrip('/')}/{file.path}"
        wanted: dict[str, Any] = {"Bucket": self._bucket, "Key": key, "IfMatch": file.tag}
        if start or length is not None:
            wanted["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        with self._translated():
            body = self._client.get_object(**wanted)["Body"]
        with closing(body):
            yield cast(BinaryIO, PartsReader(self._parts(body)))

    def _parts(self, body: Any) -> Iterator[bytes]:
        with self._translated():
            yield from body.iter_chunks(PART_BYTES)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._refused(error) from error
        except (BotoCoreError, OSError) as error:
            raise InterruptedReadError(
                "Unreachable",
                f"{self._endpoint or 'the S3 endpoint'} does not answer ({type(error).__name__}): check endpoint, "
                "proxy and network policy",
            ) from error

    def _refused(self, error: ClientError) -> BuildError:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status == 404:
            return BuildError("SourceMissing", f"{self.label} does not exist ({code}): check bucket and prefix")
        if status in (401, 403):
            return BuildError(
                "AccessDenied", f"{self.label} refuses access ({code}): check the Secret of credentialsSecret"
            )
        if status == 412:
            return BuildError("SourceChanged", f"{self.label} changed while it was read: resolve it again")
        if status == 429 or status >= 500:
            return InterruptedReadError("Unreachable", f"{self.label} answers {status} ({code}): try again later")
        return BuildError("SourceUnsupported", f"{self.label} answers {status} ({code}): check the endpoint")


def _client(source: S3Source, secret: Path) -> Any:
    name = source.credentials_secret
    config = Config(
        signature_version=None if name else UNSIGNED,
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 3},
        # Stores with an endpoint of their own seldom have a host name for each bucket.
        s3={"addressing_style": "path" if source.endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=source.endpoint,
        region_name=optional_secret(secret, "AWS_REGION") or "us-east-1",
        aws_access_key_id=read_secret(secret, name, "AWS_ACCESS_KEY_ID") if name else None,
        aws_secret_access_key=read_secret(secret, name, "AWS_SECRET_ACCESS_KEY") if name else None,
        aws_session_token=optional_secret(secret, "AWS_SESSION_TOKEN") if name else None,
        verify=os.environ.get("SSL_CERT_FILE"),  # the CA bundle of the chart
        config=config,
    )
