"""Resolve: good sources get names and shapes, each kind of bad source its own reason."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from ax_engines.build.__main__ import run
from ax_engines.build.errors import BuildError
from ax_engines.build.gguf_header import BLOCKS
from ax_engines.build.identity import HEAD_BYTES, WHOLE_BYTES, spans
from ax_engines.build.origins import SourceFile, check_path, select
from ax_engines.build.places import Places
from ax_engines.tasks import TERMINATION_MESSAGE_BYTES, TaskResult
from tests.engines.bad_sources import BAD, a_shard
from tests.engines.model_files import (
    claim_source,
    resolve_task,
    resolved,
    write_folder,
    write_gguf,
    write_raw_safetensors,
    write_safetensors,
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places.below(tmp_path)
    made.source.mkdir()
    return made


def reason(places: Places, path: str = "model", trust: bool = False) -> BuildError:
    with pytest.raises(BuildError) as caught:
        resolved(places, path, trust)
    return caught.value


def test_a_gguf_file(places: Places) -> None:
    write_gguf(places.source / "tiny.gguf")
    found = resolved(places, "tiny.gguf")
    assert found.format == "gguf"
    assert found.files == 1
    assert found.chat_template
    assert found.config.architecture == "LlamaForCausalLM"
    assert found.config.num_key_value_heads == 2
    assert found.config.head_dim == 16
    assert found.config.dtype == "float16"
    assert found.config.quantization is None
    assert found.config.tie_word_embeddings


def test_a_folder(places: Places) -> None:
    write_folder(places.source / "model")
    (places.source / "model" / "README.md").write_text("left out")
    (places.source / "model" / "pytorch_model.bin").write_bytes(b"left out")
    (places.source / "model" / "modeling.py").write_text("left out")
    found = resolved(places)
    assert (found.format, found.files) == ("safetensors", 7)
    assert found.chat_template
    assert found.config.attention_bias, "Qwen2 has biases that its config does not mention"
    assert resolved(places, trust_remote_code=True).files == found.files + 1
    assert found.revision.startswith("sha256:")


def test_the_revision_names_the_bytes_and_not_the_place(places: Places) -> None:
    first = write_folder(places.source / "a")
    write_folder(places.source / "b")
    assert resolved(places, "a").revision == resolved(places, "b").revision
    write_safetensors(first / "model-00001-of-00002.safetensors", fill=9)
    assert resolved(places, "a").revision != resolved(places, "b").revision


def test_a_large_file_is_sampled_from_start_to_end() -> None:
    size = 5 * 2**30
    parts = spans(size)
    assert parts[0] == (0, HEAD_BYTES)
    assert parts[-1][0] + parts[-1][1] == size
    assert sum(length for _, length in parts) < 3 * 2**20
    assert spans(WHOLE_BYTES) == ((0, WHOLE_BYTES),)


def test_a_change_in_the_last_bytes_of_a_large_file_is_seen(places: Places) -> None:
    path = places.source / "model" / "model-00001-of-00002.safetensors"
    write_folder(places.source / "model")
    write_safetensors(path, rows=50_000, columns=64)
    before = resolved(places).revision
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x07")
    assert resolved(places).revision != before


def test_block_sizes_are_those_of_gguf_py() -> None:
    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: theirs[kind] for kind in BLOCKS} == BLOCKS


def test_a_split_gguf_is_whole_or_refused(places: Places) -> None:
    for part in (1, 2):
        write_gguf(places.source / "model" / f"m-0000{part}-of-00002.gguf")
    assert resolved(places).files == 2
    (places.source / "model" / "m-00002-of-00002.gguf").unlink()
    error = reason(places)
    assert (error.reason, "part 2 of 2" in error.message) == ("Truncated", True)


def test_rope_quantization_and_vision_are_read(places: Places) -> None:
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "short_factor": [1.0] * 64},
        "vision_config": {"depth": 32, "fullatt_block_indexes": [7, 15]},
        "quantization_config": {"quant_method": "awq"},
    }
    write_folder(places.source / "model", config=config)
    found = resolved(places).config
    assert found.rope_scaling == {"rope_type": "yarn", "factor": 4.0}
    assert found.vision == {"depth": 32}
    assert found.quantization == "awq"
    (places.source / "model" / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert resolved(places).config.quantization == "FP8"


def test_a_text_config_inside_a_multimodal_one_is_read(places: Places) -> None:
    config = {"architectures": ["LlavaForConditionalGeneration"], "text_config": {"num_hidden_layers": 5}}
    write_folder(places.source / "model", config=config)
    assert resolved(places).config.num_hidden_layers == 5


@pytest.mark.parametrize(("write", "expected", "words"), BAD.values(), ids=BAD)
def test_a_bad_source_has_its_own_reason(
    places: Places, write: Callable[[Path], object], expected: str, words: str
) -> None:
    write(places.source / "model")
    error = reason(places)
    assert error.reason == expected
    assert words in error.message


@pytest.mark.parametrize("path", ["../secret/token", "model/../../secret", "a\0b"])
def test_a_path_stays_on_the_claim(places: Places, path: str) -> None:
    (places.source / "model").mkdir()
    (places.source.parent / "secret").mkdir()
    (places.source.parent / "secret" / "token").write_text("s3cret")
    assert reason(places, path).reason in ("UnsafeFiles", "SourceMissing")


@pytest.mark.parametrize("name", ["/etc/x.json", "../x.json", "a/../../x.json", "a\\..\\x.json", "a//b", "", "C:x"])
def test_listed_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(BuildError, match="UnsafeFiles"):
        check_path(name, "a hub")


def test_a_listing_of_very_many_files_is_refused() -> None:
    with pytest.raises(BuildError, match="TooLarge"):
        select((SourceFile(f"{i}.json", 1) for i in range(5000)), "a hub")


def test_a_side_file_of_many_gigabytes_is_refused() -> None:
    files = (SourceFile("config.json", 1), SourceFile("x.safetensors", 1), SourceFile("vocab.json", 2**33))
    with pytest.raises(BuildError, match="TooLarge"):
        select(files, "a hub")


def test_code_of_its_own_needs_trust(places: Places) -> None:
    write_folder(places.source / "model", config={"architectures": ["NewForCausalLM"]})
    assert reason(places).reason == "ArchitectureUnknown"
    assert resolved(places, trust_remote_code=True).config.architecture == "NewForCausalLM"


def test_the_last_word_fits_and_says_what_is_wrong(places: Places) -> None:
    write_folder(places.source / "model", config={"rope_scaling": {f"k{i}": "v" * 60 for i in range(500)}})
    (places.source / "model" / ("x" * 250 + ".json")).write_text("{}")
    result = run("resolve", resolve_task(claim_source()), places)
    assert result.ok
    assert len(result.to_json().encode()) <= TERMINATION_MESSAGE_BYTES
    missing = run("resolve", resolve_task(claim_source("modle")), places)
    assert (missing.ok, missing.reason) == (False, "SourceMissing")
    assert "has model" in missing.message, "the message shows what is there"


def test_a_task_that_is_none_says_where(places: Places) -> None:
    result = run("resolve", '{"kind": "resolve", "source": {"pvc": {"claimName": 3}}}', places)
    assert result == TaskResult(ok=False, reason="TaskInvalid", message=result.message, seconds=result.seconds)
    assert "source.pvc.claimName" in result.message


def _many_words(folder: Path) -> None:
    """Fifteen million words of two letters: 150 MB on disk, gigabytes as objects."""
    folder.mkdir()
    key = b"tokenizer.ggml.tokens"
    count = 15_000_000
    with (folder / "bomb.gguf").open("wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key)
        out.write(struct.pack("<IIQ", 9, 8, count))
        for _ in range(150):
            out.write((struct.pack("<Q", 2) + b"ab") * (count // 150))


def _large_header(folder: Path) -> None:
    write_folder(folder)
    with a_shard(folder).open("wb") as out:
        out.write(struct.pack("<Q", 90_000_000) + b'{"a":[' + b"[]," * 30_000_000)


@pytest.mark.parametrize(("write", "expected"), [(_many_words, "TooLarge"), (_large_header, "BadMagic")])
def test_a_bomb_is_refused_within_the_containers_memory(
    places: Places, write: Callable[[Path], None], expected: str
) -> None:
    write(places.source / "model")
    env = os.environ | {"AX_ROOT": str(places.store.parent), "AX_TASK": resolve_task(claim_source())}
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29));"
    program = limit + "from ax_engines.__main__ import main; sys.exit(main(['resolve']))"
    subprocess.run([sys.executable, "-c", program], env=env, stdout=subprocess.DEVNULL, check=False)
    assert TaskResult.from_json(places.termination_log.read_text()).reason == expected


def test_a_model_of_150_gigabytes_is_named_by_reading_little_of_it(places: Places) -> None:
    folder = write_folder(places.source / "model", shards=30)
    for shard in folder.glob("*.safetensors"):  # sparse: their data are holes
        size = 5_000_000_000
        write_raw_safetensors(shard, {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}, b"")
        os.truncate(shard, shard.stat().st_size + size)
    before = _bytes_read()
    found = resolved(places)
    assert found.bytes > 150_000_000_000
    assert _bytes_read() - before < 30 * 3 * 2**20


def _bytes_read() -> int:
    """Bytes that this process asked the kernel for."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"])
