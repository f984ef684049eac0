"""The phases of a build as programs: `python -m ax_engines resolve|fetch|quantize|compile|publish|sweep`.

The task is in AX_TASK; the last word goes to the termination message; the exit status is 0 or 1.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping

from pydantic import ValidationError

from ax_engines.build import logs, result, store
from ax_engines.build.errors import BuildError
from ax_engines.build.places import Places
from ax_engines.build.progress import Tracker, served
from ax_engines.build.retries import persistently
from ax_engines.contract import PhaseName
from ax_engines.tasks import TASK_ENV, BuildTask, ResolveTask, SweepTask, TaskResult

logger = logging.getLogger(__name__)

_BUILD_PHASES: tuple[PhaseName, ...] = ("fetch", "quantize", "compile", "publish")


def main(argv: list[str], env: Mapping[str, str] = os.environ) -> int:
    """Run the phase that `argv` names first and return the exit status."""
    logs.setup()
    # The first process of a container ignores SIGTERM unless it says otherwise.
    signal.signal(signal.SIGTERM, _unwind if argv[:1] in (["quantize"], ["compile"]) else _leave)
    places = Places.from_environment(env)
    outcome = run(argv[0] if argv else "", env.get(TASK_ENV, ""), places)
    result.write(outcome, places.termination_log)
    return 0 if outcome.ok else 1


def _unwind(signum: int, frame: object) -> None:
    """End the running command first."""
    raise SystemExit(128 + signum)


def _leave(signum: int, frame: object) -> None:
    """Go at once, without waiting for threads that copy: a phase can be killed at any line."""
    os._exit(128 + signum)


def run(phase: str, task: str, places: Places) -> TaskResult:
    """Run one phase and return its result; whatever goes wrong becomes a reason and a sentence."""
    started = time.monotonic()
    try:
        outcome = _run(phase, task, places)
    except BuildError as error:
        outcome = failure(error.reason, error.message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        outcome = failure("TaskInvalid", f"{TASK_ENV} is not a task of this version: {where}: {first['msg']}")
    except OSError as error:
        logger.exception("Failed to read or write")
        outcome = _os_failure(error)
    except Exception as error:  # the Job's pod must say something; the traceback is in its log
        logger.exception("Failed unexpectedly")
        outcome = failure("InternalError", f"{type(error).__name__}: {error}")
    return outcome.model_copy(update={"seconds": round(time.monotonic() - started, 1)})


def failure(reason: str, message: str) -> TaskResult:
    """Return a result that says what went wrong."""
    return TaskResult(ok=False, reason=reason, message=result.shortened(message))


def _os_failure(error: OSError) -> TaskResult:
    where = error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return failure("StoreFull", f"the volume became full at {where}: enlarge the engine store's claim")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return failure("StoreUnwritable", f"{where}: {error.strerror}: check the claim's access mode and fsGroup")
    return failure("VolumeFailed", f"{where}: {error.strerror or error}: check the volume")


def _run(phase: str, task: str, places: Places) -> TaskResult:
    if phase == "resolve":
        return _resolve(ResolveTask.from_json(task), places)
    if phase == "sweep":
        return _sweep(SweepTask.from_json(task), places)
    for known in _BUILD_PHASES:
        if phase == known:
            return _build(known, BuildTask.from_json(task), places)
    raise BuildError("TaskInvalid", f"{phase!r} is no phase: use resolve, sweep, {', '.join(_BUILD_PHASES)}")


def _resolve(task: ResolveTask, places: Places) -> TaskResult:
    from ax_engines.build.resolve import resolve  # noqa: PLC0415  each phase imports what it needs
    from ax_engines.build.sources import open_origin  # noqa: PLC0415

    resolved = persistently(lambda: resolve(open_origin(task.source, places), task.trust_remote_code))
    return TaskResult(ok=True, reason="Resolved", resolved=resolved, bytes=resolved.bytes)


def _sweep(task: SweepTask, places: Places) -> TaskResult:
    from ax_engines.build.sweep import sweep  # noqa: PLC0415

    freed = sweep(task.remove, places)
    return TaskResult(ok=True, reason="Swept", message=f"removed {len(task.remove)} artifacts", bytes=freed)


def _build(phase: PhaseName, task: BuildTask, places: Places) -> TaskResult:
    if task.engine != task.spec.name:
        raise BuildError(
            "TaskInvalid", f"the engine is called {task.engine}, but its spec makes {task.spec.name}: rename it"
        )
    manifest = store.published(places, task.engine, task.spec)
    if manifest and phase != "publish":
        return TaskResult(ok=True, reason="AlreadyPublished", bytes=sum(f.size for f in manifest.files))
    tracker = Tracker(phase)
    with served(tracker, places.progress_port):
        if phase == "publish":
            return _publish(task, places, tracker)
        if phase == "fetch":
            return _fetch(task, places, tracker)
        return _commands(phase, task, places, tracker)


def _fetch(task: BuildTask, places: Places, tracker: Tracker) -> TaskResult:
    from ax_engines.build.fetch import Fetch  # noqa: PLC0415
    from ax_engines.build.sources import open_origin  # noqa: PLC0415

    origin = persistently(lambda: open_origin(task.spec.source, places, task.spec.revision))
    fetched = Fetch(origin, task.engine, task.spec, places, tracker).run()
    return TaskResult(ok=True, reason="Fetched", bytes=fetched)


def _commands(phase: PhaseName, task: BuildTask, places: Places, tracker: Tracker) -> TaskResult:
    from ax_engines.build.commands import run_commands  # noqa: PLC0415

    ran = run_commands(phase, task.spec, places.staging(task.engine), places, tracker)
    reason = "Quantized" if phase == "quantize" else "Compiled"
    return TaskResult(ok=True, reason=reason, message=f"ran {ran} commands")


def _publish(task: BuildTask, places: Places, tracker: Tracker) -> TaskResult:
    from ax_engines.build.publish import publish  # noqa: PLC0415

    manifest = publish(task.engine, task.spec, places, tracker)
    size = sum(f.size for f in manifest.files)
    return TaskResult(ok=True, reason="Published", bytes=size, chat=manifest.chat)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
