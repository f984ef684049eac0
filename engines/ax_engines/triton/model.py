"""The model that Triton runs: requests in, chunks out, gauges at Triton's metrics endpoint.

`execute` hands each request to the service and returns at once, so that no request blocks another. The module
`triton_python_backend_utils` exists only inside Triton's stub.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ax_engines import wire
from ax_engines.contract import ServingOptions
from ax_engines.triton.adaptor import load_engine
from ax_engines.triton.guardian import Guardian
from ax_engines.triton.repository import OPTIONS_FILE
from ax_engines.triton.service import Service

METRICS_SECONDS = 0.5
CHANNEL_RESPONSES = 1000
REOPEN_SECONDS = 5.0
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
log = logging.getLogger(__name__)


class TritonPythonModel:
    """Triton's name for the class it looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine; Triton is ready only after this returns, and stops when it raises."""
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        raw = json.loads((Path(args["model_repository"]) / OPTIONS_FILE).read_text(encoding="utf-8"))
        options = ServingOptions.model_validate(raw["serving"])
        self.engine = load_engine(raw["adaptor"])
        self.engine.start(options, Path(raw["folder"]))
        self.service = Service(self.engine, options)
        self.guardian = Guardian(os.getppid())
        self.gauges = Gauges(self.service, options, {"model": options.model, "version": args["model_version"]})
        log.info("Loaded the engine: engine=%s backend=%s slots=%d", options.engine, options.backend, options.slots)

    def execute(self, requests: list[Any]) -> None:
        """Take messages; answers are sent later, by the service's thread."""
        for request in requests:
            sender = request.get_response_sender()
            data = pb_utils.get_input_tensor_by_name(request, wire.TENSOR_REQUEST).as_numpy()[0]
            try:
                self._take(wire.decode_message(data), sender)
            except (ValueError, KeyError, TypeError) as error:
                text = f"The message does not follow the contract: {error!r}"
                send_error(sender, wire.EngineError(400, text))

    def _take(self, message: wire.Message, sender: Any) -> None:
        if isinstance(message, wire.OpenChannel):
            known = self.service.channel(message.channel)
            if isinstance(known, ChannelOutlet):
                known.renew(sender)
            else:
                self.service.attach(message.channel, ChannelOutlet(sender))
            return
        if isinstance(message, wire.Cancel):
            self.service.cancel(message.id)
            sender.send(flags=FINAL)
            return
        outlet = self.service.channel(message.channel) if message.channel else RequestOutlet(sender)
        if outlet is None:
            send_error(sender, wire.EngineError(503, "The channel is closed.", "no_channel", 1))
            return
        if isinstance(message, wire.CountTokens):
            self.service.count(message, outlet)
        else:
            self.service.open(message, outlet)
        if message.channel:
            sender.send(flags=FINAL)

    def finalize(self) -> None:
        """Let go of everything when Triton unloads the model."""
        self.gauges.stop()
        self.service.stop()
        self.engine.stop()
        self.guardian.dismiss()


class RequestOutlet:
    """Sends one request's answers as its own responses."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def send(self, parcels: list[wire.Parcel]) -> None:
        """Send what has come up; the last parcel ends the request."""
        for parcel in parcels:
            if parcel.chunks:
                final = parcel.last and not parcel.error
                send(self._sender, wire.encode_chunks(parcel.chunks), final=final)
            if parcel.error:
                send_error(self._sender, parcel.error)

    def is_gone(self) -> bool:
        """Ask Triton whether the client has left: a round trip to the server process."""
        return bool(self._sender.is_cancelled())

    def close(self) -> None:
        """Do nothing: the last parcel has ended the request."""


class ChannelOutlet:
    """Sends the answers of many requests as the responses of the one that opened the channel.

    Triton keeps something of every response until its request has ended, about 2 kB, so the request is ended after
    CHANNEL_RESPONSES of them; answers are held until the frontend, told by that end, opens the channel again.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._held: list[wire.Parcel] = []
        self._sent = 0
        self._ended = 0.0

    def send(self, parcels: list[wire.Parcel]) -> None:
        """Send one batch, or hold it until the channel is open again."""
        with self._lock:
            self._held += parcels
            if self._sender is not None:
                self._flush()

    def renew(self, sender: Any) -> None:
        """Go on with the responses of another request."""
        with self._lock:
            self._sender, self._sent = sender, 0
            self._flush()

    def is_gone(self) -> bool:
        """Say whether the frontend has left."""
        with self._lock:
            sender = self._sender
            if sender is None:
                return time.monotonic() - self._ended > REOPEN_SECONDS
        return bool(sender.is_cancelled())

    def close(self) -> None:
        """Let Triton forget the channel."""
        with self._lock:
            if self._sender is not None:
                self._sender.send(flags=FINAL)

    def _flush(self) -> None:
        held, self._held = self._held, []
        send(self._sender, wire.encode_batch(held), final=False)
        self._sent += 1
        if self._sent >= CHANNEL_RESPONSES:
            self._sender.send(flags=FINAL)
            self._sender, self._ended = None, time.monotonic()


def send(sender: Any, data: bytes, *, final: bool) -> None:
    """Send one response."""
    tensor = pb_utils.Tensor(wire.TENSOR_CHUNK, np.array([data], dtype=np.object_))
    response = pb_utils.InferenceResponse([tensor])
    if final:
        sender.send(response, flags=FINAL)
    else:
        sender.send(response)


def send_error(sender: Any, error: wire.EngineError) -> None:
    """End a request with an error that carries its HTTP status."""
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(error.encode())), flags=FINAL)


class Gauges:
    """Copies the service's numbers into Triton's metrics twice a second: each write is a round trip."""

    def __init__(self, service: Service, options: ServingOptions, labels: dict[str, str]) -> None:
        self._service = service
        self._stopped = threading.Event()
        self._written: dict[str, float] = {}
        self._labels = labels
        self._metrics: dict[str, Any] = {}
        self._write(wire.METRIC_SLOTS, options.slots)
        self.update()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)
        self._thread.start()

    def update(self) -> None:
        """Write every number that has changed."""
        service, counters = self._service, self._service.counters
        stats = service.engine.stats()
        held = min(stats.waiting, service.running)
        self._write(wire.METRIC_RUNNING, service.running - held)
        self._write(wire.METRIC_WAITING, service.waiting + held)
        self._write(wire.METRIC_PROMPT_TOKENS, counters.prompt_tokens)
        self._write(wire.METRIC_GENERATED_TOKENS, counters.generated_tokens)
        self._write(wire.METRIC_TTFT_SUM, counters.first_token_seconds)
        self._write(wire.METRIC_TTFT_COUNT, counters.first_tokens)
        self._write(wire.METRIC_QUEUE_SUM, counters.queue_seconds)
        self._write(wire.METRIC_QUEUE_COUNT, counters.queued)
        if stats.kv_used is not None:
            self._write(wire.METRIC_KV_USED, stats.kv_used)

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.wait(METRICS_SECONDS):
            self.update()

    def _write(self, name: str, value: float) -> None:
        known = self._written.get(name)
        if known == value:
            return
        text, kind = FAMILIES[name]
        families = pb_utils.MetricFamily  # the stub adds it after it has imported this module
        if name not in self._metrics:
            family = families(name=name, description=text, kind=getattr(families, kind))
            self._metrics[name] = (family.Metric(labels=self._labels), family)  # it must live as long
        metric, _ = self._metrics[name]
        if kind == COUNTER:
            metric.increment(value - (known or 0))
        else:
            metric.set(value)
        self._written[name] = value


GAUGE, COUNTER = "GAUGE", "COUNTER"
FAMILIES = {
    wire.METRIC_RUNNING: ("Requests that generate.", GAUGE),
    wire.METRIC_WAITING: ("Requests in the admission queue.", GAUGE),
    wire.METRIC_SLOTS: ("Requests that can generate at once.", GAUGE),
    wire.METRIC_PROMPT_TOKENS: ("Prompt tokens of finished requests.", COUNTER),
    wire.METRIC_GENERATED_TOKENS: ("Tokens generated.", COUNTER),
    wire.METRIC_TTFT_SUM: ("Seconds from arrival to first token, summed.", COUNTER),
    wire.METRIC_TTFT_COUNT: ("Requests that got a first token.", COUNTER),
    wire.METRIC_QUEUE_SUM: ("Seconds spent in the admission queue, summed.", COUNTER),
    wire.METRIC_QUEUE_COUNT: ("Requests that left the admission queue for a slot.", COUNTER),
    wire.METRIC_KV_USED: ("Share of the KV cache in use.", GAUGE),
}
