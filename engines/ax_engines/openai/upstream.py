"""Triton over gRPC, on loopback: one streaming call that carries every request, answer and cancellation.

The call opens a channel (see `wire`); the model's first, empty batch says that it is loaded, and the end of the call
that it is gone. What comes is handed to each request's sink without waking a task, because this runs for every token.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from ax_engines.openai.errors import ApiError
from ax_engines.wire import (
    HEARTBEAT_SECONDS,
    TENSOR_CHUNK,
    TENSOR_REQUEST,
    TRITON_MODEL,
    Cancel,
    Chunk,
    CountTokens,
    EngineError,
    GenerateRequest,
    OpenChannel,
    Parcel,
    decode_batch,
)

log = logging.getLogger(__name__)
CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
CHANNEL_ID = "channel"
RETRY_SECONDS = 0.2
SILENCE_SECONDS = 10 * HEARTBEAT_SECONDS
LOADING = EngineError(503, "The model is being loaded; retry.", "not_ready", 2)
LOST = EngineError(503, "The engine went away; retry.", "engine_lost", 2)
Sink = Callable[[list[Chunk]], None]


class Upstream:
    """The one call to Triton, made again whenever it ends."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL)
        self._infer = self._channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        self._call: Any = None
        self._name = ""
        self._writing = asyncio.Lock()
        self._keys = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._cancels: set[asyncio.Task[None]] = set()
        self._heard = 0.0
        self._silent = False
        self.ready = False
        self._tasks = [asyncio.create_task(self._keep_open()), asyncio.create_task(self._notice_silence())]

    def stream(self, request: GenerateRequest | CountTokens) -> Stream:
        """Return a request ready to be sent: use it as an async context manager."""
        return Stream(self, replace(request, channel=self._name, key=next(self._keys)))

    async def close(self) -> None:
        """End the call."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._cancels, return_exceptions=True)
        await self._channel.close()

    async def send(self, stream: Stream) -> None:
        """Send a request; raises ApiError when there is nobody to send it to."""
        if not self.ready or stream.request.channel != self._name:
            raise ApiError.of_engine(LOADING)
        data = stream.request.encode()
        self._streams[stream.request.key] = stream
        await self._write(data)

    def leave(self, stream: Stream) -> None:
        """Forget a request; one that has not ended is cancelled."""
        if self._streams.pop(stream.request.key, None) is not None and self.ready:
            task = asyncio.create_task(self._write(Cancel(stream.request.id).encode()))
            self._cancels.add(task)
            task.add_done_callback(self._cancels.discard)

    async def _write(self, data: bytes, request_id: str = "") -> None:
        try:
            async with self._writing:
                await self._call.write(infer_request(data, request_id))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            log.info("Triton left while a message was sent")  # the reading side fails every open request

    async def _keep_open(self) -> None:
        while True:
            try:
                await self._read()
            except grpc.aio.AioRpcError as error:
                if self.ready:
                    log.warning("Lost Triton: %s", error.details())
            except asyncio.CancelledError:
                if not self._silent:
                    raise
                log.warning("Gave up an engine that had fallen silent: seconds=%d", SILENCE_SECONDS)
            except Exception:
                log.exception("Answers could not be read")
            finally:
                self._fail_all()
            await asyncio.sleep(RETRY_SECONDS)

    async def _notice_silence(self) -> None:
        """End the call when not even heartbeats come: Triton lives on when the engine's process has died."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            if self.ready and time.monotonic() - self._heard > SILENCE_SECONDS:
                self._silent = True
                self._call.cancel()

    async def _read(self) -> None:
        """Open a channel and hand out what comes, until the call ends."""
        self._call = self._infer()
        self._name = uuid.uuid4().hex
        self._silent = False
        try:
            await self._write(OpenChannel(self._name).encode(), CHANNEL_ID)
            async for response in self._call:
                if response.error_message:
                    if self.ready:
                        log.warning("Triton refused a message: %s", response.error_message)
                    return
                raw = response.infer_response.raw_output_contents
                if raw:
                    self._heard = time.monotonic()
                    self.ready = True
                    for parcel in decode_batch(raw[0][4:]):
                        self._hand_out(parcel)
                elif response.infer_response.id == CHANNEL_ID:  # see the model's ChannelOutlet
                    await self._write(OpenChannel(self._name).encode(), CHANNEL_ID)
        finally:
            self._call.cancel()

    def _hand_out(self, parcel: Parcel) -> None:
        stream = self._streams.get(parcel.key)
        if stream is None:
            return
        if parcel.last:
            del self._streams[parcel.key]
        stream.take(parcel)

    def _fail_all(self) -> None:
        self.ready = False
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.take(Parcel(stream.request.key, [], LOST, True))


class Stream:
    """One request's answers: they gather until a sink takes them.

    As a context manager it sends the request and, when left before the end, cancels it.
    """

    __slots__ = ("_begun", "_ended", "_error", "_pending", "_sink", "_upstream", "request")

    def __init__(self, upstream: Upstream, request: GenerateRequest | CountTokens) -> None:
        loop = asyncio.get_running_loop()
        self.request = request
        self._upstream = upstream
        self._sink: Sink | None = None
        self._pending: list[Chunk] = []
        self._begun: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._error: ApiError | None = None

    async def __aenter__(self) -> Stream:
        """Send the request; raises ApiError."""
        await self._upstream.send(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the request."""
        self._upstream.leave(self)

    async def begun(self) -> None:
        """Wait for the first answer; raises ApiError when it is an error."""
        await self._begun
        if self._error and not self._pending:
            raise self._error

    async def ended(self) -> None:
        """Wait for the last answer; raises ApiError when it is an error."""
        await self._ended
        if self._error:
            raise self._error

    def into(self, sink: Sink) -> None:
        """Give what has gathered and what will come to `sink`, which must not fail or wait."""
        self._sink = sink
        pending, self._pending = self._pending, []
        if pending:
            sink(pending)

    def take(self, parcel: Parcel) -> None:
        """Take what came from Triton."""
        if parcel.chunks:
            if self._sink:
                self._sink(parcel.chunks)
            else:
                self._pending += parcel.chunks
        if parcel.error:
            self._error = ApiError.of_engine(parcel.error)
        if not self._begun.done():
            self._begun.set_result(None)
        if parcel.last and not self._ended.done():
            self._ended.set_result(None)


def infer_request(data: bytes, request_id: str) -> Any:
    """Return a message to the model: one BYTES tensor, length first."""
    message = pb.ModelInferRequest(model_name=TRITON_MODEL, id=request_id)
    if request_id == CHANNEL_ID:  # the only request whose end is of interest
        message.parameters["triton_enable_empty_final_response"].bool_param = True
    tensor = message.inputs.add()
    tensor.name, tensor.datatype = TENSOR_REQUEST, "BYTES"
    tensor.shape.append(1)
    message.outputs.add().name = TENSOR_CHUNK
    message.raw_input_contents.append(struct.pack("<I", len(data)) + data)
    return message
