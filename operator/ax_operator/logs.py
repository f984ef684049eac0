"""One line per record: time, level, what happened, then its facts as key=value."""

from __future__ import annotations

import logging
import sys

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_FRAMEWORK = frozenset({"k8s_skip", "k8s_ref", "settings", "taskName"})
"""What kopf attaches to its records for its own use."""


class KeyValues(logging.Formatter):
    """Appends what a record was given as `extra`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        """Return the line, without a traceback."""
        facts = {k: v for k, v in vars(record).items() if k not in _OWN and k not in _FRAMEWORK}
        return " ".join([super().formatMessage(record), *(f"{key}={_shown(value)}" for key, value in facts.items())])


def _shown(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and not any(c in text for c in " \"'=") else repr(text)


def set_up(level: str = "INFO") -> None:
    """Send the log to standard error; libraries speak up from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValues())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("ax_operator").setLevel(level)
