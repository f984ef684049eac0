"""The yardstick: the simplest decoupled model, one response for every token of the paced engine.

`python plain_model.py RUN HTTP,GRPC,METRICS SLOTS TOKENS_PER_SECOND IN_STEP` becomes a Triton that serves it;
Triton imports the same file as its model. A request is the number of tokens as text.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

SETTINGS = Path(__file__).parent.parent / "settings.json"
if SETTINGS.exists():  # imported by Triton, whose stub ignores PYTHONPATH
    sys.path[:0] = json.loads(SETTINGS.read_text())["paths"]

OUTPUT = "TEXT"
CONFIG = """name: "plain"
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [ { name: "COUNT", data_type: TYPE_STRING, dims: [ 1 ] } ]
output [ { name: "TEXT", data_type: TYPE_STRING, dims: [ 1 ] } ]
instance_group [ { count: 1, kind: KIND_CPU } ]
"""


class TritonPythonModel:
    """Triton's name for the class it looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the paced engine."""
        settings = json.loads(SETTINGS.read_text())
        from paced_engine import PacedEngine

        from ax_engines.contract import ServingOptions

        self.engine = PacedEngine()
        self.engine.start(ServingOptions.model_validate(settings["serving"]), Path())

    def execute(self, requests: list[Any]) -> None:
        """Send each token as a response of its own."""
        import numpy as np
        import triton_python_backend_utils as pb_utils

        from ax_engines.wire import GenerateRequest, Sampling

        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        for request in requests:
            sender = request.get_response_sender()
            count = int(pb_utils.get_input_tensor_by_name(request, "COUNT").as_numpy()[0])

            def answer(chunk: Any, sender: Any = sender) -> None:
                tensor = pb_utils.Tensor(OUTPUT, np.array([chunk.text.encode()], dtype=np.object_))
                sender.send(pb_utils.InferenceResponse([tensor]), flags=final if chunk.finish else 0)

            self.engine.submit(GenerateRequest("r", Sampling(count)), 0, answer)

    def finalize(self) -> None:
        """Stop the clock."""
        self.engine.stop()


def main(run: str, ports: str, slots: str, rate: str, in_step: str) -> None:
    """Write the repository and become Triton."""
    from ax_engines.contract import ServingOptions
    from ax_engines.triton.__main__ import find_layout, search_path
    from ax_engines.triton.repository import Ports, server_arguments, server_environment

    options = ServingOptions(
        model="bench/plain",
        engine="plain",
        backend="llamacpp",
        slots=int(slots),
        queue=0,
        context_length=1_000_000,
        engine_args={"tokens_per_second": float(rate), "in_step": in_step == "1"},
    )
    folder = Path(run) / "models" / "plain"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1" / "model.py").write_text(Path(__file__).read_text())
    settings = {"serving": options.model_dump(mode="json"), "paths": search_path()}
    (folder / "settings.json").write_text(json.dumps(settings))
    layout = find_layout(Path(run))
    arguments = server_arguments(layout, str(Path(run) / "models"), Ports.parse(ports), gpus=0)
    os.execve(arguments[0], arguments, server_environment(layout, dict(os.environ)))


if __name__ == "__main__" and len(sys.argv) == 6:
    main(*sys.argv[1:])
