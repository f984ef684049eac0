"""Writes Triton's model repository and becomes Triton: `python3 -m ax_engines.triton`.

Environment: AX_SERVING (contract.ServingOptions as JSON), and for other places than a pod's: AX_STORE (engine
store, `/store`), AX_RUN (writable folder, `/run/ax`), AX_TRITON_PORTS (`http,grpc,metrics`), AX_ENGINE_ADAPTOR (a
module with another engine adaptor).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from pydantic import ValidationError

from ax_engines.contract import MANIFEST, SERVING_ENV, STORE_MOUNT, Manifest, ServingOptions
from ax_engines.guard import Expected, check_manifest
from ax_engines.triton.adaptor import BACKENDS
from ax_engines.triton.machine import compute_capabilities, tensorrt_llm_version
from ax_engines.triton.repository import Layout, Ports, model_repository, server_arguments, server_environment

NVIDIA = Path("/opt/tritonserver")
RUN = "/run/ax"


class CannotServeError(Exception):
    """Why this pod cannot serve, in one sentence that says what to change."""


def main() -> int:
    """Become Triton; returns 1, after one sentence on stderr, when it cannot."""
    try:
        arguments, environment = prepare(dict(os.environ))
    except CannotServeError as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    os.execve(arguments[0], arguments, environment)  # noqa: S606  no shell is wanted


def prepare(environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Write the model repository; return Triton's command line and environment."""
    options = read_options(environment.get(SERVING_ENV, ""))
    folder = engine_folder(Path(environment.get("AX_STORE", STORE_MOUNT)), options)
    try:
        ports = Ports.parse(environment.get("AX_TRITON_PORTS", ""))
    except ValueError as error:
        raise CannotServeError(f"AX_TRITON_PORTS is wrong: {error}.") from error
    run = Path(environment.get("AX_RUN", RUN))
    adaptor = environment.get("AX_ENGINE_ADAPTOR") or BACKENDS[options.backend]
    models = run / "models"
    for path, text in model_repository(options, str(folder), adaptor, search_path()).items():
        (models / path).parent.mkdir(parents=True, exist_ok=True)
        (models / path).write_text(text, encoding="utf-8")
    layout = find_layout(run)
    environment = server_environment(layout, environment)
    environment["AX_RUN"] = str(run)
    return server_arguments(layout, str(models), ports, options.gpus), environment


def read_options(text: str) -> ServingOptions:
    """Read AX_SERVING; raises CannotServeError naming the key that is wrong."""
    if not text:
        raise CannotServeError(f"the environment variable {SERVING_ENV} is missing; the operator sets it.")
    try:
        return ServingOptions.from_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or SERVING_ENV
        raise CannotServeError(f"{SERVING_ENV} is wrong at {where}: {first['msg']}.") from error


def engine_folder(store: Path, options: ServingOptions) -> Path:
    """Return the artifact's folder; raises CannotServeError unless its manifest names this engine."""
    folder = store / options.engine
    try:
        manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise CannotServeError(
            f"{folder} has no {MANIFEST}, so it is no finished engine; let its build finish or build it again."
        ) from error
    except ValidationError as error:
        raise CannotServeError(
            f"{folder / MANIFEST} cannot be read ({error.error_count()} faults); build the engine again."
        ) from error
    if manifest.engine != options.engine:
        raise CannotServeError(
            f"{folder} holds the engine {manifest.engine!r}, not {options.engine!r}; mount the right store."
        )
    check_machine(folder, manifest, options)
    return folder


def check_machine(folder: Path, manifest: Manifest, options: ServingOptions) -> None:
    """Raise CannotServeError unless this container has the GPUs and the library that the artifact needs."""
    sms = compute_capabilities()
    if sms is not None and len(sms) < options.gpus:
        raise CannotServeError(
            f"the engine runs on {options.gpus} GPUs but this container sees {len(sms)}; "
            "let the pod request as many, or lower engine.parallelism."
        )
    if not manifest.target:
        return
    here = Expected(
        sm=next((sm for sm in sms or () if sm != manifest.target.sm), None),
        tensorrt_llm=tensorrt_llm_version(),
        tensor=options.engine_args.get("tensor_parallel_size"),
        pipeline=options.engine_args.get("pipeline_parallel_size"),
    )
    if found := check_manifest(manifest, here):
        raise CannotServeError(
            f"{folder} was compiled for another machine: {'; '.join(map(str, found))}; "
            "serve it on the GPUs and image that it was built for, or build it again."
        )


def find_layout(run: Path) -> Layout:
    """Return NVIDIA's installation where there is one, else the one inside the nvidia-pytriton wheel."""
    if (NVIDIA / "bin/tritonserver").exists():
        return Layout(str(NVIDIA / "bin/tritonserver"), str(NVIDIA / "backends"))
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise CannotServeError("this image has neither /opt/tritonserver nor the package nvidia-pytriton.")
    package = Path(spec.submodule_search_locations[0])
    home = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise CannotServeError(f"nvidia-pytriton has no Triton stub for Python {version}; use Python 3.11.")
    # Triton looks for the stub beside the backend's library; the image is read-only, hence links elsewhere. The stub
    # itself is copied: Triton changes its mode, which a link would pass on to the image's file or to a shared cache.
    backends = run / "backends"
    (backends / "python").mkdir(parents=True, exist_ok=True)
    for target in (home / "backends/python").iterdir():
        link = backends / "python" / target.name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    own = backends / "python" / stub.name
    own.unlink(missing_ok=True)
    shutil.copyfile(stub, own)
    own.chmod(0o700)
    libraries = (str(package.parent / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    return Layout(str(home / "bin/tritonserver"), str(backends), libraries)


def search_path() -> list[str]:
    """Return this process's own search path without the standard library: what the model must import from."""
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    skipped = (".zip", "lib-dynload")
    paths = [os.path.abspath(path or ".") for path in sys.path]
    return [path for path in dict.fromkeys(paths) if path not in standard and not path.endswith(skipped)]


if __name__ == "__main__":
    sys.exit(main())
