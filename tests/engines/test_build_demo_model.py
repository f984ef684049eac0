"""The demo's real model, from its file on a claim to a published artifact."""

from __future__ import annotations

import shutil
from pathlib import Path

from ax_engines import catalogue
from ax_engines.build import store
from ax_engines.build.__main__ import run
from ax_engines.build.places import Places
from ax_engines.models import compare
from local.images import demo_model
from tests.engines.model_files import build_task, claim_source, resolved, spec_of


def test_the_demo_model_is_what_the_catalogue_says_and_is_published(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    places.source.mkdir()
    places.store.mkdir()
    shutil.copyfile(demo_model(), places.source / "smollm2.gguf")
    found = resolved(places, "smollm2.gguf")
    assert compare(catalogue.load()["SmolLM2-135M-Instruct"], found.config) == ((), ())
    assert found.config.quantization == "Q4_1"
    spec = spec_of(found, claim_source("smollm2.gguf"))
    for phase in ("fetch", "publish"):
        result = run(phase, build_task(spec), places)
        assert result.ok, result.message
    assert result.chat is not None
    assert (result.chat.bos_token, result.chat.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (result.chat.context_length, result.chat.vocab_size) == (8192, 49152)
    template = (places.final(spec.name) / "chat_template.jinja").read_text()
    assert "You are a helpful AI assistant named SmolLM" in template
    assert store.published(places, spec.name, spec)
