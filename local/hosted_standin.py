"""A stand-in for a hosted OpenAI-compatible API: a fixed answer, streamed word by word, with exact usage.

Runs alone with the standard library in a pod; `GET /seen` tells what it received. It is no model and says so.
"""

import json
import os
import time
from collections import deque
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 8000
ANSWER = "I am the hosted stand-in and no model: on-prem has no replica that could answer now."
WORD_SECONDS = 0.02
MAX_BODY = 16 << 20

seen: deque[dict[str, Any]] = deque(maxlen=1000)


class Handler(BaseHTTPRequestHandler):
    """Chat completions for whoever shows the key."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Tell what came, or which models there are."""
        if self.path == "/seen":
            return self._json(HTTPStatus.OK, list(seen))
        return self._json(HTTPStatus.OK, {"object": "list", "data": [{"id": "ax4", "object": "model"}]})

    def do_POST(self) -> None:
        """Answer a chat."""
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= MAX_BODY:
            self.close_connection = True
            return self._error(HTTPStatus.BAD_REQUEST, "send a body with its length")
        body = json.loads(self.rfile.read(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen.append({"path": self.path, "headers": headers, "body": body})
        if headers.get("authorization") != f"Bearer {os.environ['API_KEY']}":
            return self._error(HTTPStatus.UNAUTHORIZED, "wrong key")
        if body.get("model") != "ax4":
            return self._error(HTTPStatus.NOT_FOUND, f"no model {body.get('model')}")
        prompt = sum(len(str(message.get("content")).split()) for message in body["messages"])
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": len(ANSWER.split()),
            "total_tokens": prompt + len(ANSWER.split()),
        }
        head = {"id": "chatcmpl-standin", "created": int(time.time()), "model": "ax4"}
        if body.get("stream"):
            return self._stream(head, usage if (body.get("stream_options") or {}).get("include_usage") else None)
        message = {"role": "assistant", "content": ANSWER}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self._json(HTTPStatus.OK, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    def _stream(self, head: dict[str, Any], usage: dict[str, int] | None) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number, word in enumerate(ANSWER.split()):
            delta = {"content": word if number == 0 else f" {word}"}
            self._event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            time.sleep(WORD_SECONDS)
        self._event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if usage:
            self._event({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, chunk: dict[str, Any]) -> None:
        data = json.dumps({**chunk, "object": "chat.completion.chunk"})
        self.wfile.write(f"data: {data}\n\n".encode())

    def _error(self, status: HTTPStatus, message: str) -> None:
        self._json(status, {"error": {"message": message, "type": "invalid_request_error", "code": None}})

    def _json(self, status: HTTPStatus, found: object) -> None:
        data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing for each request."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
