"""What Triton is given: a model repository as texts, and the server's arguments and environment.

Pure. The texts suit Triton 2.51 (the PyPI wheel, for machines without NVIDIA's image) and 26.07 (production).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ax_engines.contract import ServingOptions
from ax_engines.wire import TENSOR_CHUNK, TENSOR_REQUEST, TRITON_MODEL

OPTIONS_FILE = "options.json"


@dataclass(frozen=True, slots=True)
class Ports:
    """Triton's three listeners, all on loopback; the frontend beside it knows the same three."""

    http: int = 8010
    grpc: int = 8011
    metrics: int = 8012

    @classmethod
    def parse(cls, text: str) -> Ports:
        """Read `http,grpc,metrics`; an empty text means the defaults; raises ValueError otherwise."""
        if not text:
            return cls()
        numbers = [int(part) for part in text.split(",")]
        if len(numbers) != 3 or not all(0 < number < 65536 for number in numbers):
            raise ValueError(f"expected three ports such as 8010,8011,8012, got {text!r}")
        return cls(*numbers)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a Triton installation lies: its program, its backends, and folders of libraries it must find."""

    server: str
    backends: str
    libraries: tuple[str, ...] = ()


def config_pbtxt() -> str:
    """Return the config of the one model: a decoupled Python model that takes requests and answers chunks.

    Triton neither batches nor queues: each request goes to the model at once, whose own admission decides.
    """
    return f"""name: "{TRITON_MODEL}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input [ {{ name: "{TENSOR_REQUEST}", data_type: TYPE_STRING, dims: [ 1 ] }} ]
output [ {{ name: "{TENSOR_CHUNK}", data_type: TYPE_STRING, dims: [ 1 ] }} ]
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
"""


def model_py(paths: Sequence[str]) -> str:
    """Return the model's Python file: Triton's stub ignores PYTHONPATH, so the search path is written into it."""
    return f"""import sys

sys.path[:0] = [path for path in {list(paths)!r} if path not in sys.path]
from ax_engines.triton.model import TritonPythonModel  # noqa: E402,F401
"""


def options_json(options: ServingOptions, folder: str, adaptor: str) -> str:
    """Return what the model reads when it starts: the serving options, the engine's folder, the adaptor."""
    return json.dumps({"serving": json.loads(options.to_json()), "folder": folder, "adaptor": adaptor})


def model_repository(options: ServingOptions, folder: str, adaptor: str, paths: Sequence[str]) -> dict[str, str]:
    """Return the repository's files: path below the repository → text."""
    return {
        f"{TRITON_MODEL}/config.pbtxt": config_pbtxt(),
        f"{TRITON_MODEL}/{OPTIONS_FILE}": options_json(options, folder, adaptor),
        f"{TRITON_MODEL}/1/model.py": model_py(paths),
    }


def server_arguments(layout: Layout, models: str, ports: Ports, gpus: int) -> list[str]:
    """Return the command line: loopback only, no model control, nothing guessed from the model."""
    return [
        layout.server,
        f"--model-repository={models}",
        f"--backend-directory={layout.backends}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={ports.http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={ports.grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={ports.metrics}",
        f"--allow-gpu-metrics={'true' if gpus else 'false'}",
        "--metrics-config=counter_latencies=true",
        "--exit-timeout-secs=10",
        "--log-info=false",  # tables of its options would push the reason of a failure out of the termination message
    ]


def server_environment(layout: Layout, inherited: dict[str, str]) -> dict[str, str]:
    """Return the server's environment: the inherited one with the layout's libraries first."""
    if not layout.libraries:
        return dict(inherited)
    known = inherited.get("LD_LIBRARY_PATH")
    return {**inherited, "LD_LIBRARY_PATH": ":".join([*layout.libraries, *([known] if known else [])])}
