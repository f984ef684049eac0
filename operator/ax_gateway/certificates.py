"""Certificates from files: the one that clients see, and those by which hosted APIs are verified."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from ax_gateway.snapshot import Certificate

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 2.0


async def follow_certificate(folder: Path, found: Callable[[Certificate], None]) -> None:
    """Read tls.crt and tls.key of a mounted Secret for ever, and tell of each new pair.

    The kubelet swaps the files without a word, so they are read again and again. Whether they are any good is
    Envoy's to say.
    """
    last, reason = None, ""
    while True:
        try:
            pair = ((folder / "tls.crt").read_text(), (folder / "tls.key").read_text())
        except (OSError, ValueError) as problem:
            if str(problem) != reason:
                reason = str(problem)
                logger.error("Found no certificate for clients", extra={"folder": str(folder), "reason": reason})
        else:
            if pair != last:
                logger.info("Read the certificate for clients", extra={"folder": str(folder)})
                last, reason = pair, ""
                found(pair)
        await asyncio.sleep(AGAIN_SECONDS)


def trusted_certificates(bundle: Path | None) -> str:
    """Return the certificates by which hosted APIs are verified, as PEM text; raises OSError for a missing file."""
    system = ssl.get_default_verify_paths().cafile
    path = bundle or (Path(system) if system else None)
    if path is None:
        logger.warning("Found no certificates of the system: no hosted API can be verified")
        return ""
    return path.read_text()
