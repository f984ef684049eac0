"""Ends Triton when the process with the engine dies: Triton would stay up and ready, and answer nothing any more.

A shell waits for the end of a pipe that only this process holds. When it ends without the word, the process is gone;
then Triton, asked politely first because it may be the container's process 1, ends, and its container starts again.
"""

from __future__ import annotations

import subprocess

GRACE_SECONDS = 15
SCRIPT = f'read -r word || {{ kill -TERM "$0"; sleep {GRACE_SECONDS}; kill -KILL "$0"; }} 2>/dev/null'


class Guardian:
    """The waiting shell."""

    def __init__(self, triton: int) -> None:
        """Begin to wait; `triton` is the process to end."""
        self._shell = subprocess.Popen(["/bin/sh", "-c", SCRIPT, str(triton)], stdin=subprocess.PIPE)

    def dismiss(self) -> None:
        """Say the word: the engine is let go on purpose."""
        self._shell.communicate(b"dismissed\n", timeout=5)
