"""From the body of a completion to what the engine is asked, one request per prompt. Pure."""

from __future__ import annotations

from ax_engines.openai.content import invalid
from ax_engines.openai.model import ServedModel, guided
from ax_engines.openai.schema import CompletionBody
from ax_engines.wire import GenerateRequest

MAX_PROMPTS = 128


def completion_requests(
    body: CompletionBody, model: ServedModel, request_id: str, deadline: float
) -> list[GenerateRequest]:
    """Return one request for each prompt; raises ApiError 400 naming the field."""
    n = body.n or 1
    if body.suffix:
        raise invalid("suffix", "this server does not insert text; leave it out")
    if body.best_of is not None and body.best_of != n:
        raise invalid("best_of", "this server does not rank answers; leave it out or make it equal to 'n'")
    if body.echo and (body.logprobs is not None or not isinstance(body.prompt, str)):
        raise invalid("echo", "it works with one text prompt and without 'logprobs'")
    texts, tokens = prompts(body, model)
    sampling = model.sampling(body, body.max_tokens, body.logprobs)
    form = guided(body)
    count = len(texts) + len(tokens)
    ids = [request_id if count == 1 else f"{request_id}-{at}" for at in range(count)]
    return [
        GenerateRequest(one, sampling, prompt=text, token_ids=ids_, guided=form, deadline=deadline, n=n, special=True)
        for one, (text, ids_) in zip(ids, [(t, None) for t in texts] + [(None, tuple(t)) for t in tokens], strict=True)
    ]


def prompts(body: CompletionBody, model: ServedModel) -> tuple[list[str], list[list[int]]]:
    """Return the prompts as texts or as token ids; one of the lists is empty."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt], []
    if not prompt or (len(prompt) > MAX_PROMPTS and not isinstance(prompt[0], int)):
        raise invalid("prompt", f"expected between 1 and {MAX_PROMPTS} prompts")
    texts = [one for one in prompt if isinstance(one, str)]
    if texts:
        return texts, []
    ids = [one for one in prompt if isinstance(one, int)]
    lists = [ids] if ids else [one for one in prompt if isinstance(one, list)]
    if not all(lists):
        raise invalid("prompt", "a list of token ids is empty")
    for one in lists:
        model.check_tokens("prompt", one)
    return [], lists
