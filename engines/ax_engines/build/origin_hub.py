"""Reads a source from the Hugging Face hub, or from a mirror that speaks its API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from huggingface_hub import get_session, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # public, but not marked so

from ax_engines.build.errors import BuildError, InterruptedReadError
from ax_engines.build.model_config import parse_json
from ax_engines.build.origins import MAX_FILES, SourceFile
from ax_engines.build.secrets import read_secret
from ax_engines.build.streams import PartsReader, take
from ax_engines.contract import HuggingFaceSource

PUBLIC_HUB = "https://huggingface.co"
MAX_ANSWER_BYTES = 32 * 2**20
TIMEOUT_SECONDS = 60.0

# What the library's HTTP client raises when bytes stop coming; the client's own name changes between releases.
_TransportError = cast("type[Exception]", HfHubHTTPError.__bases__[0])


class HubOrigin:
    """A repository at one commit.

    The token comes from the mounted Secret alone (key `token`), never from this machine's own configuration, and
    follows no redirect to another host (the client drops it).
    """

    def __init__(self, source: HuggingFaceSource, secret: Path, commit: str | None = None) -> None:
        self._repo = source.repo
        self._endpoint = (source.endpoint or PUBLIC_HUB).rstrip("/")
        self._token = read_secret(secret, source.token_secret, "token", "HF_TOKEN") if source.token_secret else None
        self.label = f"{source.repo} at {self._endpoint}"
        answer = self._revision(commit or source.revision)
        found = answer.get("sha")
        if not isinstance(found, str) or not 7 <= len(found) <= 64:
            raise self._no_hub(f"a commit {found!s:.60}")
        self.commit: str | None = found
        self._siblings = answer.get("siblings")

    def _revision(self, revision: str) -> dict[str, Any]:
        url = f"{self._endpoint}/api/models/{self._repo}/revision/{quote(revision, safe='')}?blobs=true"
        with self._get(url, revision) as stream:
            data = take(stream, MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            raise self._no_hub(f"more than {MAX_ANSWER_BYTES} bytes")
        try:
            return parse_json(data, url)
        except BuildError as error:
            raise self._no_hub(error.message) from error

    def _no_hub(self, what: str) -> BuildError:
        return BuildError(
            "SourceUnsupported",
            f"{self._endpoint} answers with {what}, not as a hub does: check the endpoint, and a proxy in between",
        )

    def files(self) -> tuple[SourceFile, ...]:
        """List the repository's files with sizes, and SHA-256 of the large ones."""
        rows = self._siblings
        if not isinstance(rows, list) or len(rows) > MAX_FILES:
            raise self._no_hub(f"a listing that is none, or of more than {MAX_FILES} files")
        return tuple(self._file(row) for row in rows)

    def _file(self, row: Any) -> SourceFile:
        row = row if isinstance(row, dict) else {}
        large = row.get("lfs")
        large = large if isinstance(large, dict) else {}
        name, size = row.get("rfilename"), large.get("size", row.get("size"))
        if not isinstance(name, str) or not isinstance(size, int) or size < 0:
            raise self._no_hub(f"a file without name or size ({row!s:.80})")
        digest = large.get("sha256")
        return SourceFile(name, size, digest if isinstance(digest, str) and len(digest) == 64 else None)

    @contextmanager
    def open(self, file: SourceFile, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        """Stream a file's bytes from `start`; InterruptedReadError if they stop coming."""
        commit = self.commit or ""
        url = hf_hub_url(self._repo, file.path, revision=commit, endpoint=self._endpoint)
        with self._get(url, commit, start, length) as stream:
            yield stream

    @contextmanager
    def _get(self, url: str, revision: str, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        headers = {"User-Agent": "ax-engines", "Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if start or length is not None:
            headers["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        with ExitStack() as stack:
            with self._translated(revision):
                request = get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS)
                response = stack.enter_context(request)
                if response.status_code >= 400:
                    response.read()
                hf_raise_for_status(response)
            reader = PartsReader(self._parts(response.iter_raw(), revision))
            if start and response.status_code != 206:  # this server sends everything from the start
                reader.skip(start)
            yield cast(BinaryIO, reader)

    def _parts(self, parts: Iterator[bytes], revision: str) -> Iterator[bytes]:
        with self._translated(revision):
            yield from parts

    @contextmanager
    def _translated(self, revision: str) -> Iterator[None]:
        """Turn the client's errors into reasons; never around code of a caller, whose errors are its own."""
        try:
            yield
        except HfHubHTTPError as error:
            raise self._refused(error, revision) from error
        except OfflineModeIsEnabled as error:
            raise BuildError("Unreachable", "HF_HUB_OFFLINE is set: unset it, or use a claim as source") from error
        except (_TransportError, OSError) as error:
            raise InterruptedReadError(
                "Unreachable",
                f"{self._endpoint} cannot be reached ({type(error).__name__}: {error!s:.200}): check endpoint, proxy "
                "and network policy, or use a mirror or a claim as source",
            ) from error

    def _refused(self, error: HfHubHTTPError, revision: str) -> BuildError:
        status = error.response.status_code
        with_token = "the token does not give access to it" if self._token else "no tokenSecret is set"
        reason, message = "SourceUnsupported", f"{self.label} answers {status}: check the endpoint"
        if isinstance(error, GatedRepoError):
            reason = "GatedRepository"
            message = (
                f"{self.label} is gated and {with_token}: accept its terms on the hub, and set "
                "source.huggingFace.tokenSecret to a Secret with that account's token"
            )
        elif isinstance(error, RevisionNotFoundError):
            reason, message = "RevisionNotFound", f"{self.label} has no revision {revision}: name a branch or commit"
        elif isinstance(error, RepositoryNotFoundError):
            reason, message = "RepositoryNotFound", f"{self.label} does not exist, or is private and {with_token}"
        elif status in (401, 403):
            reason, message = "AccessDenied", f"{self.label} refuses access ({status}): {with_token}, or it expired"
        elif status == 404:
            reason = "SourceMissing"
            message = f"{self.label} lacks a file that it lists: try again, or use another mirror"
        elif status in (408, 425, 429) or status >= 500:
            return InterruptedReadError("Unreachable", f"{self._endpoint} answers {status}: try again later")
        return BuildError(reason, message)
