"""Fields of OpenAI and vLLM that would change an answer and that this server does not know. Pure.

Fields that change nothing a client could miss are ignored, as OpenAI ignores them; an answer that silently leaves out
what was asked would be worse than a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ax_engines.openai.errors import ApiError

SCHEMA = "answers are guided by JSON schemas here: use 'response_format'"
REFUSED = {
    "functions": "use 'tools'",
    "function_call": "use 'tool_choice'",
    "audio": "this server speaks text only",
    "guided_choice": SCHEMA,
    "guided_regex": SCHEMA,
    "guided_grammar": SCHEMA,
    "structural_tag": SCHEMA,
    "use_beam_search": "this server samples; leave it out",
    "allowed_token_ids": "use 'logit_bias'",
    "bad_words": "use 'logit_bias'",
    "logits_processors": "use 'logit_bias'",
    "prompt_logprobs": "only an answer's tokens have log probabilities here: use 'logprobs'",
    "truncate_prompt_tokens": "shorten the prompt; /tokenize counts its tokens",
    "chat_template": "a model's template is set in its spec, not in requests",
    "documents": "put them into a message",
}


def refuse(raw: Mapping[str, Any]) -> None:
    """Raise ApiError 400 for the first field that asks for something this server cannot do.

    What is null, false or empty asks for nothing.
    """
    for name, instead in REFUSED.items():
        if raw.get(name):
            raise ApiError(400, f"'{name}' is not supported: {instead}.", param=name, code="unsupported_field")
    modalities = raw.get("modalities")
    if isinstance(modalities, list) and any(one != "text" for one in modalities):
        raise ApiError(400, "'modalities' may be ['text'] only.", param="modalities", code="unsupported_field")
