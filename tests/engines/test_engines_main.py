"""The images' entry point imports only what a subcommand needs, and every failure's reason is documented."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ax_engines import __main__ as entry
from ax_engines.build import errors
from tests.engines.model_files import claim_source, resolve_task, write_gguf

ROOT = Path(__file__).parents[2]


def reasons() -> set[str]:
    """Return every reason that the build's modules write."""
    found = set()
    for file in (ROOT / "engines/ax_engines/build").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "BuildError",
                "InterruptedReadError",
                "failure",
            ):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(str(first.value))
    return found


def test_every_reason_is_documented() -> None:
    documented = set(re.findall(r"\b[A-Z][a-z]+[A-Za-z]+\b", (ROOT / "docs/builds.md").read_text(encoding="utf-8")))
    drawn = set(re.findall(r"\b[A-Z][a-z]+[A-Za-z]+\b", errors.__doc__ or ""))
    assert len(reasons()) > 20
    assert reasons() - documented == set()
    assert reasons() - drawn == set()


@pytest.mark.parametrize("argv", [[], ["serve"], ["--help"]])
def test_an_unknown_subcommand_names_the_known_ones(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(argv) == 2
    assert "resolve,fetch,quantize,compile,publish,sweep" in capsys.readouterr().err


def test_a_phase_imports_only_what_it_needs(tmp_path: Path) -> None:
    write_gguf(tmp_path / "source" / "tiny.gguf")
    env = os.environ | {"AX_ROOT": str(tmp_path), "AX_TASK": resolve_task(claim_source("tiny.gguf"))}
    program = (
        "import json, sys; from ax_engines.__main__ import main; assert main(['resolve']) == 0;"
        "sys.stderr.write(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr))
    heavy = {"boto3", "botocore", "huggingface_hub", "aiohttp", "numpy", "gguf", "tritonclient", "grpc", "jinja2"}
    assert not loaded & heavy
