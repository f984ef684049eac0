"""The one error of this package: a reason for machines and a sentence for people.

BuildError
  source    SourceMissing, SourceEmpty, SourceAmbiguous, SourceChanged, SourceUnsupported, Truncated, BadMagic,
            UnknownFormat, UnsafeFiles, TooLarge
  model     ConfigInvalid, ArchitectureUnknown, ArchitectureMismatch, EngineMismatch
  network   Unreachable, AccessDenied, SecretInvalid, GatedRepository, RepositoryNotFound, RevisionNotFound,
            ChecksumMismatch
  store     StoreFull, StoreUnwritable, VolumeFailed
  command   CommandFailed, CommandMissing, OutputMissing, OutOfMemory, NoGpu, CalibrationMissing
  task      TaskInvalid, InternalError
"""

from __future__ import annotations


class BuildError(Exception):
    """A build cannot go on; `message` says what is wrong, with values, and what to change."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class InterruptedReadError(BuildError):
    """Bytes stopped coming, or were damaged on the way: worth another attempt from where they stopped."""
