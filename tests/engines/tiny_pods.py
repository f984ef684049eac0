"""Serving pods with tiny random models of real architectures on the transformers backend.

The packages are installed once per lock file, the models made once per version of `tiny_models.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ax_engines.build.model_config import from_config_json
from ax_engines.contract import ChatFacts, Manifest
from local.paths import cache_dir, locked
from local.wheels import installed
from tests.engines.serving import Pod, pod

PYTHON = str(Path(sys.base_prefix) / "bin" / "python3")
START_SECONDS = 300
KINDS = ("llama", "qwen2", "qwen2_vl")
SLOTS, CONTEXT = 4, 512
ARGUMENTS = {"dtype": "auto", "device_map": "cpu", "attn_implementation": "sdpa"}
TEMPLATE = """\
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}{{- message.content }}
{%- else %}{% for part in message.content %}
{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{- part.text }}{% endif %}
{%- endfor %}{% endif %}{{- '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""


def tiny_models() -> Path:
    """Return the folder with the tiny models and the reference answers."""
    script = Path(__file__).with_name("tiny_models.py")
    lock = Path(__file__).parents[2] / "locks" / "torch.txt"
    digest = hashlib.sha256(script.read_bytes() + lock.read_bytes()).hexdigest()[:12]
    folder = cache_dir() / f"tiny-models-{digest}"
    with locked(folder.parent / ".tiny-models.lock"):
        if not folder.exists():
            draft = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
            command = [PYTHON, "-s", str(script), str(draft)]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(installed("torch"))})
            draft.rename(folder)
    return folder


def write_artifact(store: Path, kind: str) -> None:
    """Publish a tiny model as the build does."""
    folder = store / f"{kind.replace('_', '-')}-0123456789"
    shutil.copytree(tiny_models() / kind, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = from_config_json(json.loads((folder / "config.json").read_text()))
    manifest = Manifest(
        engine=folder.name,
        artifact="safetensors",
        quantization="none",
        revision="test",
        architecture=config.architecture,
        files=(),
        chat=ChatFacts(template=True, eos_token="<|im_end|>", vocab_size=config.vocab_size),
        config=config,
    )
    (folder / "manifest.json").write_text(manifest.to_json())


@contextmanager
def tiny_pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pod]]:
    """Run a pod of each kind; they start side by side."""
    environment = {
        "AX_DRAIN_GRACE": "0",
        "AX_ENGINE_ADAPTOR": "torch_engine",
        "AX_TORCH_SITE": str(installed("torch")),
        "HOME": str(tmp_path_factory.mktemp("home")),
    }
    with ExitStack() as stack:
        started = {}
        for kind in KINDS:
            one = stack.enter_context(
                pod(
                    tmp_path_factory.mktemp(kind),
                    environment,
                    backend="transformers",
                    engine=f"{kind.replace('_', '-')}-0123456789",
                    served_names=("tiny",),
                    slots=SLOTS,
                    context_length=CONTEXT,
                    threads=1,
                    engine_args=ARGUMENTS,
                )
            )
            write_artifact(one.store, kind)
            one.start_frontend()
            one.start_triton()
            started[kind] = one
        for one in started.values():
            assert one.triton
            one.wait_until(f"{one.url}/health/ready", one.triton, START_SECONDS)
        yield started
