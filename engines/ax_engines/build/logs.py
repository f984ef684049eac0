"""Log lines that a person can read: time, level, what happened, then key=value."""

from __future__ import annotations

import logging
import sys

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class KeyValueFormatter(logging.Formatter):
    """Formats a record and appends its `extra` as key=value; values with blanks are quoted."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        """Return the line without traceback."""
        pairs = {k: v for k, v in vars(record).items() if k not in _PLAIN}
        return " ".join([super().formatMessage(record), *(f"{k}={_show(v)}" for k, v in pairs.items())])


def _show(value: object) -> str:
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return repr(text) if not text or any(c in text for c in " \n\t\"'=") else text


def setup() -> None:
    """Send this process's logs to standard output; libraries speak from WARNING on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("ax_engines").setLevel(logging.INFO)
