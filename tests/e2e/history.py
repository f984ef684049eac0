"""All that becomes of some objects, as a watch tells it: nothing between two looks is missed."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from local import Cluster
from local.binaries import client
from tests.e2e.site import Json


class History:
    """The versions of some objects of one kind, in order."""

    def __init__(self, path: str) -> None:
        self._path = path

    def versions(self) -> list[Json]:
        """Return every version until now; each has its deletionTimestamp if it was going."""
        with open(self._path, encoding="utf-8") as file:
            text = file.read()
        decoder, at, found = json.JSONDecoder(), 0, []
        while (at := text.find("{", at)) >= 0:
            try:
                event, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError:
                break  # the last one is still being written
            found.append(event["object"])
        return found


@contextmanager
def history(cluster: Cluster, namespace: str, *what: str) -> Iterator[History]:
    """Watch what `kubectl get` names, from now until the end of the block."""
    command = [str(client("kubectl")), "-n", namespace, "get", *what, "--watch", "--output-watch-events", "-o", "json"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        watch = subprocess.Popen(command, stdout=file, env=cluster.environment())
        try:
            yield History(file.name)
        finally:
            watch.terminate()
            watch.wait()
