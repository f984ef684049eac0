"""Counting: tokens of texts and chats, times on request, and how well answers carry Hangul."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from ax_engines.tokens_cli import PIECE, pieces
from tests.engines.serving import Pod, page, post


def script(**fields: Any) -> str:
    """Return a prompt that tells the scripted engine what to say."""
    return f"<<{json.dumps(fields, ensure_ascii=False)}>>"


def test_the_engine_counts_texts_and_chats(model_pod: Pod) -> None:
    url = f"{model_pod.url}/tokenize"
    reply = post(url, {"model": "smollm2", "prompt": "The capital of Korea is Seoul."})
    assert reply.json() == {"count": 7, "max_model_len": 1024}
    chat = {"model": "smollm2", "messages": [{"role": "user", "content": "What is the capital of Korea?"}]}
    assert post(url, chat).json()["count"] == 16
    assert post(url, {"model": "smollm2", "prompt": "word " * 5000}).json()["count"] == 5001
    assert post(url, {"model": "nope", "prompt": "x"}).status == 404
    assert post(url, {"model": "smollm2"}).json()["error"]["param"] == "prompt"


def tokens(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "ax_engines", "tokens", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_tells_tokens_and_saving(model_pod: Pod, tmp_path: Path) -> None:
    file = tmp_path / "글.txt"
    file.write_text("안녕하세요. Hello.\n", encoding="utf-8")
    done = tokens(str(file), "--url", model_pod.url)
    assert done.returncode == 0, done.stderr
    assert re.search(r"characters +14$", done.stdout.replace(",", ""), re.MULTILINE)
    assert re.search(r"Hangul syllables +5$", done.stdout, re.MULTILINE)
    assert re.search(r"reference tokens +24  \(UTF-8 bytes\)$", done.stdout, re.MULTILINE)
    same = tokens(str(file), "--url", f"{model_pod.url}/v1", "--model", "smollm2", "--reference-url", model_pod.url)
    assert re.search(r"saving +0.0%$", same.stdout, re.MULTILINE)


def test_the_command_says_why_it_cannot_count(tmp_path: Path, model_pod: Pod) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a")
    for arguments, said in [
        ([str(tmp_path / "none")], "No such file"),
        ([str(file), "--url", "http://127.0.0.1:9"], "cannot be reached"),
        ([str(file), "--url", "file:///etc/passwd"], "no address of a server"),
        ([str(file), "--url", model_pod.url, "--model", "x"], "answered 404"),
    ]:
        done = tokens(*arguments)
        assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (1, True, 1), done.stderr


def test_long_texts_are_cut_at_ends_of_lines() -> None:
    text = "가" * (PIECE - 1) + "\n" + "나" * 5 + "\n" + "다" * (PIECE + 3)
    assert "".join(pieces(text)) == text
    assert [len(piece) for piece in pieces(text)] == [PIECE, 6, PIECE, 3]


def test_times_come_with_the_usage_when_asked_for(scripted: openai.OpenAI) -> None:
    prompt, headers = script(say=["a", "b", "c"], delay=0.02), {"X-AX-Timing": "1"}
    whole = scripted.completions.create(model="smollm2", prompt=prompt, extra_headers=headers)
    assert whole.usage
    timing = whole.usage.to_dict()["timing"]
    assert isinstance(timing, dict)
    assert 0 <= timing["queue_ms"] < timing["first_token_ms"] < timing["total_ms"]
    assert timing["between_tokens_ms"] > 0
    *_, last = scripted.completions.create(model="smollm2", prompt=prompt, extra_headers=headers, stream=True)
    assert last.usage
    assert "timing" in last.usage.to_dict()
    plain = scripted.completions.create(model="smollm2", prompt=prompt)
    assert plain.usage
    assert "timing" not in plain.usage.to_dict()


@pytest.mark.parametrize(("say", "counted"), [(["안녕하", "세요", "."], (5, 3, 16)), (["Hello ", "안녕"], (0, 0, 0))])
def test_answers_in_hangul_are_counted(
    scripted: openai.OpenAI, scripted_pod: Pod, say: list[str], counted: tuple[int, int, int]
) -> None:
    def known() -> list[float]:
        text = page(scripted_pod.metrics_url)
        names = ("characters", "tokens", "bytes")
        return [float(re.findall(rf"^ax_frontend_hangul_{name}_total (\S+)", text, re.MULTILINE)[0]) for name in names]

    before = known()
    scripted.completions.create(model="smollm2", prompt=script(say=say))
    assert tuple(now - then for now, then in zip(known(), before, strict=True)) == counted
