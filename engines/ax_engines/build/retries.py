"""Does short remote work again when it was interrupted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ax_engines.build.errors import BuildError, InterruptedReadError

logger = logging.getLogger(__name__)

T = TypeVar("T")


def persistently(work: Callable[[], T], attempts: int = 3, pause: Callable[[float], None] = time.sleep) -> T:
    """Return what `work` returns; what still fails after `attempts` is told with its reason."""
    for attempt in range(1, attempts + 1):
        try:
            return work()
        except InterruptedReadError as error:
            if attempt == attempts:
                raise BuildError(error.reason, f"{error.message} ({attempts} attempts)") from error
            logger.warning("Lost connection", extra={"attempt": attempt, "error": error.message})
            pause(float(attempt))
    raise ValueError("attempts must be at least 1")
