"""What the operator and its containers share: sources, artifacts, manifests, and how to serve one.

Pure: no clock, network, environment or files. The operator writes these objects, the containers read them, and
both import this module, so that a key is spelled once. They become CRD fields, environment variables and
files, hence camelCase JSON. Jobs are told in `tasks` what to do; what is made for every token lives in `wire`.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

CONTRACT_VERSION = 1

Backend = Literal["tensorrt", "pytorch", "transformers", "llamacpp"]
Quantization = Literal["none", "fp8", "awq", "w4a8-awq", "int8-wo", "int8-sq", "nvfp4"]
Artifact = Literal["gguf", "safetensors", "tensorrt"]
PhaseName = Literal["fetch", "quantize", "compile", "publish"]

# The key under which its options reach a serving pod, and where a container finds its folders.
SERVING_ENV = "AX_SERVING"
STORE_MOUNT = "/store"
SOURCE_MOUNT = "/source"
CALIBRATION_MOUNT = "/calibration"
SECRET_MOUNT = "/secret"  # noqa: S105  a folder's name
FRONTEND_PORT = 8000
METRICS_PORT = 8001
MANIFEST = "manifest.json"
CHAT_TEMPLATE = "chat_template.jinja"
STAGING = ".staging"

# Folders of a staging folder. Commands run there and name them relatively, so that a digest depends on no path:
# fetch fills FETCHED, quantize and compile write the others. What is published is the last one that was written,
# with the tokenizer's files and the chat template of FETCHED beside it.
FETCHED = "source"
CHECKPOINT = "checkpoint"
COMPILED = "engine"
TIMING_CACHES = ".timing"
"""Folder of the store, beside STAGING, where `trtllm-build` keeps what it measured; survives builds and sweeps."""


class Shared(BaseModel):
    """A frozen object with camelCase JSON that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )

    def to_json(self) -> str:
        """Return the object as compact JSON with sorted keys: same object, same bytes."""
        return canonical(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote; raises pydantic.ValidationError naming the key that is wrong."""
        return cls.model_validate_json(text)


def canonical(value: Any) -> str:
    """Return JSON that depends on the value alone: sorted keys, no blanks, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def short_hash(value: Any, length: int = 10) -> str:
    """Return the first `length` hex digits of the SHA-256 of the value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def slug(text: str, limit: int = 40) -> str:
    """Return `text` as a DNS label of at most `limit` characters: lower case, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].strip("-") or "model"


# --- sources ---


class HuggingFaceSource(Shared):
    """A repository of the Hugging Face hub or of a mirror of it."""

    repo: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    revision: Annotated[str, Field(max_length=200, min_length=1)] = "main"
    endpoint: Annotated[str, Field(max_length=500, pattern=r"^https?://[^\s@]+$")] | None = None
    token_secret: Annotated[str, Field(max_length=253)] | None = None


class S3Source(Shared):
    """A prefix in an S3-compatible store."""

    uri: Annotated[str, Field(max_length=1000, pattern=r"^s3://[a-z0-9][a-z0-9.-]+/.+$")]
    endpoint: Annotated[str, Field(max_length=500, pattern=r"^https?://[^\s@]+$")] | None = None
    credentials_secret: Annotated[str, Field(max_length=253)] | None = None


class PvcSource(Shared):
    """A file or folder on a PersistentVolumeClaim of the model's namespace; `path` is relative to its root."""

    claim_name: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
    path: Annotated[str, Field(max_length=1000, min_length=1, pattern=r"^[^/].*$")] = "."


class Source(Shared):
    """Where a model's files lie: exactly one of the three is set (the CRD's CEL says so to users)."""

    hugging_face: HuggingFaceSource | None = None
    s3: S3Source | None = None
    pvc: PvcSource | None = None

    @property
    def label(self) -> str:
        """The last part of the location, for names and messages."""
        if self.hugging_face:
            return self.hugging_face.repo.rpartition("/")[2]
        if self.s3:
            return self.s3.uri.rstrip("/").rpartition("/")[2]
        path = self.pvc.path.rstrip("/") if self.pvc else ""
        return re.sub(r"\.gguf$", "", path.rpartition("/")[2]) if path not in ("", ".") else "model"

    @property
    def secret(self) -> str | None:
        """The name of the Secret that the fetching container mounts, if any."""
        if self.hugging_face:
            return self.hugging_face.token_secret
        return self.s3.credentials_secret if self.s3 else None


class ModelConfig(Shared):
    """A model's shape, in Hugging Face's words, read from its real config.json or GGUF metadata."""

    architecture: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    dtype: str = "bfloat16"
    rope_scaling: dict[str, Any] | None = None
    quantization: str | None = None
    vision: dict[str, Any] | None = None


class ResolvedSource(Shared):
    """What the resolve Job found: the exact bytes and the model's real shape. Kept in an immutable ConfigMap."""

    revision: Annotated[str, Field(max_length=200)]
    """A commit, or `sha256:…` over file names, sizes and headers."""
    format: Literal["gguf", "safetensors"]
    files: int
    bytes: int
    config: ModelConfig
    chat_template: bool = False


# --- artifacts ---


class Limits(Shared):
    """Bounds of an engine; tokens are prompt (`max_input_tokens`) and prompt plus answer (`max_total_tokens`)."""

    max_batch_size: Annotated[int, Field(ge=1, le=4096)]
    max_input_tokens: Annotated[int, Field(ge=1, le=10_000_000)]
    max_total_tokens: Annotated[int, Field(ge=2, le=10_000_000)]


class Calibration(Shared):
    """A data set on a claim, for formats that need a calibration pass."""

    claim_name: Annotated[str, Field(max_length=253)]
    path: Annotated[str, Field(max_length=1000)] = "."


class Phase(Shared):
    """One container of a build Job: its name and, for quantize and compile, the commands it runs in order."""

    name: PhaseName
    commands: Annotated[tuple[tuple[Annotated[str, Field(max_length=2000)], ...], ...], Field(max_length=16)] = ()


class Target(Shared):
    """What a TensorRT engine is compiled for; an engine runs on nothing else."""

    sm: Annotated[int, Field(ge=50, le=200)]
    tensorrt_llm: Annotated[str, Field(max_length=40)]
    tensor: Annotated[int, Field(ge=1, le=64)]
    pipeline: Annotated[int, Field(ge=1, le=64)]
    limits: Limits


class ArtifactSpec(Shared):
    """The spec of an AXEngine: all that decides an artifact's bytes, and how to fetch and build it."""

    slug: Annotated[str, Field(max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    source: Source
    revision: Annotated[str, Field(max_length=200)]
    artifact: Artifact
    architecture: Annotated[str, Field(max_length=100)]
    bytes: Annotated[int, Field(ge=0)]
    quantization: Quantization = "none"
    calibration: Calibration | None = None
    target: Target | None = None
    toolchain: Annotated[str, Field(max_length=63)]
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    gpu_product: Annotated[str, Field(max_length=63)] | None = None
    phases: Annotated[tuple[Phase, ...], Field(max_length=4)] = ()
    trust_remote_code: bool = False
    """Whether the source's own code (*.py) is part of the artifact."""

    @property
    def digest(self) -> str:
        """Ten hex digits that name the artifact's bytes; location, mirror and secret are not part of them."""
        identity: dict[str, Any] = {
            "revision": self.revision,
            "artifact": self.artifact,
            "quantization": self.quantization,
            "calibration": self.calibration.model_dump(mode="json") if self.calibration else None,
        }
        if self.trust_remote_code:
            identity["code"] = True
        if self.target:
            identity["target"] = self.target.model_dump(mode="json")
        commands = [p.model_dump(mode="json") for p in self.phases if p.commands]
        if commands:
            identity["commands"] = commands
        return short_hash(identity)

    @property
    def name(self) -> str:
        """The AXEngine's name and the artifact's folder in the store."""
        return f"{self.slug}-{self.digest}"


class FileEntry(Shared):
    """One file of an artifact: path below its folder, size in bytes, SHA-256."""

    path: str
    size: int
    sha256: str


class ChatFacts(Shared):
    """What the frontend needs beyond the weights, read at publish from tokenizer files or GGUF metadata."""

    template: bool = False
    bos_token: str = ""
    eos_token: str = ""
    context_length: int = 0
    vocab_size: int = 0


class Manifest(Shared):
    """`manifest.json`: written last; a folder without it is never served."""

    contract: int = CONTRACT_VERSION
    engine: str
    artifact: Artifact
    quantization: Quantization
    revision: str
    architecture: str
    target: Target | None = None
    files: tuple[FileEntry, ...]
    chat: ChatFacts = ChatFacts()
    config: ModelConfig


# --- serving ---


class ServingOptions(Shared):
    """What a serving pod reads from AX_SERVING: one engine folder, and how to run it."""

    model: str
    """`<namespace>/<name>`: what the frontend calls itself."""
    served_names: tuple[str, ...] = ()
    engine: str
    backend: Backend
    slots: Annotated[int, Field(ge=1, le=4096)]
    """Requests that generate at once; more wait in the admission queue."""
    queue: Annotated[int, Field(ge=0, le=100_000)]
    """Requests that may wait; one more gets 429."""
    context_length: Annotated[int, Field(ge=1)]
    """Tokens of prompt plus answer, per request."""
    threads: int = 0
    gpus: int = 0
    tool_parser: str | None = None
    chat_template: Annotated[str, Field(max_length=65_536)] | None = None
    trust_remote_code: bool = False
    engine_args: dict[str, Any] = {}
    """Arguments of the backend's constructor (LLM API, AutoModel, llama.cpp), from the recipe."""
