"""Triton over gRPC, on loopback: one streaming call per request, whose cancellation reaches the engine."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from ax_engines.openai.errors import ApiError
from ax_engines.wire import (
    TENSOR_CHUNK,
    TENSOR_REQUEST,
    TRITON_MODEL,
    Chunk,
    EngineError,
    GenerateRequest,
    decode_chunks,
)

SERVICE = "/inference.GRPCInferenceService"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
NOT_READY = "The model is being loaded; retry."


class Upstream:
    """A channel to Triton, used by every request."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=UNLIMITED)
        self._infer = self._channel.stream_stream(
            f"{SERVICE}/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        self._ready = self._channel.unary_unary(
            f"{SERVICE}/ModelReady",
            request_serializer=pb.ModelReadyRequest.SerializeToString,
            response_deserializer=pb.ModelReadyResponse.FromString,
        )

    async def ready(self) -> bool:
        """Say whether Triton has loaded the model."""
        try:
            answer = await self._ready(pb.ModelReadyRequest(name=TRITON_MODEL), timeout=5)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.ready)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Chunk], None]:
        """Yield what the engine answers, several chunks at once when they came together.

        Raises ApiError. Leaving the iteration early frees the engine's slot.
        """
        call = self._infer()
        try:
            await call.write(infer_request(request))
            await call.done_writing()
            async for response in call:
                if response.error_message:
                    raise ApiError.of_engine(EngineError.decode(response.error_message))
                chunks = read_response(response.infer_response)
                if chunks:
                    yield chunks
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise ApiError(503, NOT_READY, code="not_ready", retry_after=2) from error
            raise ApiError.of_engine(EngineError.decode(error.details() or "")) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def infer_request(request: GenerateRequest) -> Any:
    """Return the message for one request: one BYTES tensor, length first."""
    data = request.encode()
    message = pb.ModelInferRequest(model_name=TRITON_MODEL, id=request.id)
    tensor = message.inputs.add()
    tensor.name, tensor.datatype = TENSOR_REQUEST, "BYTES"
    tensor.shape.append(1)
    message.outputs.add().name = TENSOR_CHUNK
    message.raw_input_contents.append(struct.pack("<I", len(data)) + data)
    return message


def read_response(response: Any) -> list[Chunk]:
    """Return the chunks of one response; the empty final response has none."""
    raw = response.raw_output_contents
    return decode_chunks(raw[0][4:]) if raw else []
