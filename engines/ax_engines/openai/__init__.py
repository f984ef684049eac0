"""The OpenAI frontend beside each Triton.

Read in this order: `app` (the process), `handlers` (one request from body to bytes), `schema` and `chat` (what a
body may say and what the engine is asked, pure), `template` (chat templates), `tools` (tool calls in a stream of
text, pure), `answers` and `sse` (what goes back), `upstream` (Triton over gRPC).
"""
