"""Writes a container's last word, which Kubernetes carries into the pod's status."""

from __future__ import annotations

import logging
from pathlib import Path

from ax_engines.tasks import TERMINATION_MESSAGE_BYTES, TaskResult

logger = logging.getLogger(__name__)


def fitted(result: TaskResult) -> str:
    """Return the result as JSON of at most TERMINATION_MESSAGE_BYTES bytes; a long message loses its middle."""
    text = result.to_json()
    message = result.message
    while len(text.encode()) > TERMINATION_MESSAGE_BYTES and len(message) > 40:
        message = message[: len(message) // 3] + " … " + message[-len(message) // 3 :]
        text = result.model_copy(update={"message": message}).to_json()
    if len(text.encode()) > TERMINATION_MESSAGE_BYTES:
        raise ValueError("the result does not fit a termination message even with a short message")
    return text


def write(result: TaskResult, path: Path) -> None:
    """Write the result to the termination log and to the log."""
    path.write_text(fitted(result), encoding="utf-8")
    level = logging.INFO if result.ok else logging.ERROR
    logger.log(level, "Finished task", extra={"ok": result.ok, "reason": result.reason, "detail": result.message})


def shortened(message: str, limit: int = 1500) -> str:
    """Return a message within the bound of TaskResult.message: the start says what, the end says why."""
    return message if len(message) <= limit else message[: limit // 3] + " … " + message[-(limit // 2) :]
