"""How many tokens a text is to a served model: `python -m ax_engines tokens FILE [--url URL] [--model NAME] ...`.

The count comes from the engine itself, over /tokenize (ours and vLLM's). The reference is a second model, or else
the text's UTF-8 bytes: what a byte-level tokenizer that knows no Korean would make of it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

HANGUL = re.compile("[가-힣]")
PIECE = 1_000_000
"""Characters sent at once; the frontend takes bodies of 10 MB."""


class TokensError(Exception):
    """Why nothing could be counted, in one sentence."""


def main(argv: list[str]) -> int:
    """Print the counts; returns 1, after one sentence on stderr, when they cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m ax_engines tokens", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a UTF-8 text")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the model is served (%(default)s)")
    parser.add_argument("--model", help="its name; default: the server's first")
    parser.add_argument("--reference-url", help="where a model to compare with is served")
    parser.add_argument("--reference-model", help="its name; default: that server's first")
    asked = parser.parse_args(argv)
    try:
        text = asked.file.read_text(encoding="utf-8")
        if not text:
            raise TokensError(f"{asked.file} is empty.")
        tokens = count(asked.url, asked.model, text)
        reference = len(text.encode())
        if asked.reference_url:
            reference = count(asked.reference_url, asked.reference_model, text)
    except (OSError, UnicodeDecodeError, TokensError) as error:
        print(f"Cannot count: {error}", file=sys.stderr)
        return 1
    named = asked.reference_model or asked.reference_url or "UTF-8 bytes"
    print("\n".join(report(text, tokens, reference, named)))
    return 0


def report(text: str, tokens: int, reference: int, named: str) -> Sequence[str]:
    """Return the lines to print."""
    syllables = len(HANGUL.findall(text))
    lines = [
        f"characters                {len(text):>12,}",
        f"Hangul syllables          {syllables:>12,}",
        f"tokens                    {tokens:>12,}",
        f"characters per token      {len(text) / tokens:>12.2f}",
    ]
    if syllables:
        lines.append(f"tokens per Hangul syllable{tokens / syllables:>12.2f}")
    lines.append(f"reference tokens          {reference:>12,}  ({named})")
    lines.append(f"saving                    {1 - tokens / reference:>12.1%}")
    return lines


def count(url: str, model: str | None, text: str) -> int:
    """Return how many tokens a text is, counted in pieces that end with a line; raises TokensError."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise TokensError(f"{url!r} is no address of a server; it begins with http:// or https://.")
    base = url.rstrip("/").removesuffix("/v1")
    name = model or str(ask(f"{base}/v1/models")["data"][0]["id"])
    return sum(int(ask(f"{base}/tokenize", {"model": name, "prompt": piece})["count"]) for piece in pieces(text))


def pieces(text: str) -> Sequence[str]:
    """Return a long text in pieces of at most PIECE characters, cut at ends of lines where there are any."""
    found, start = [], 0
    while start < len(text):
        end = min(len(text), start + PIECE)
        cut = text.rfind("\n", start, end) + 1 if end < len(text) else end
        end = cut if cut > start else end
        found.append(text[start:end])
        start = end
    return found


def ask(url: str, body: dict[str, str] | None = None) -> Any:
    """Return a server's JSON; raises TokensError with its own message."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310  checked above
    try:
        with closing(urllib.request.urlopen(request, timeout=60)) as response:  # noqa: S310
            return json.load(response)
    except urllib.error.HTTPError as error:
        with closing(error):
            raise TokensError(f"{url} answered {error.code}: {error.read().decode(errors='replace')[:500]}") from error
    except urllib.error.URLError as error:
        raise TokensError(f"{url} cannot be reached ({error.reason}); say where with --url.") from error
