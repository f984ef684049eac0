"""What the catalogue knows about a model, and how a model's real config compares with it.

Pure: shells load `catalogue/*.yaml` and pass entries on as data. Every value carries a mark: `published` (its
source states it), `inferred` (it follows from the base model or from arithmetic) or `unknown`. A real config that
differs from a published value is an error; from an inferred one, a note: the real value wins.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from ax_engines.contract import ModelConfig, Quantization, Shared

Mark = Literal["published", "inferred", "unknown"]
ToolParser = Literal["hermes"]
T = TypeVar("T", str, int, bool)

Short = Annotated[str, Field(max_length=200)]


class Fact(Shared, Generic[T]):
    """One value with its mark and where it comes from; `value` is None exactly when the mark is `unknown`."""

    value: T | None = None
    mark: Mark
    source: Short = ""

    @model_validator(mode="after")
    def _value_agrees_with_mark(self) -> Self:
        if (self.value is None) != (self.mark == "unknown"):
            raise ValueError("a value is left out exactly when its mark is `unknown`")
        if self.mark == "published" and not self.source:
            raise ValueError("a published value names its source")
        return self


class CatalogueEntry(Shared):
    """One model of the catalogue: identity, dimensions with their marks, and what is recommended for serving."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    display_name: Short
    hub_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", max_length=200)]
    format: Literal["gguf", "safetensors"] = "safetensors"
    parameters: Fact[str]
    base: Fact[str]
    architecture: Fact[str]
    fallback_architecture: Annotated[str, Field(max_length=100)] | None = None
    """What plans assume until the real config is read, where the architecture is unknown."""
    num_hidden_layers: Fact[int]
    hidden_size: Fact[int]
    intermediate_size: Fact[int]
    num_attention_heads: Fact[int]
    num_key_value_heads: Fact[int]
    head_dim: Fact[int]
    vocab_size: Fact[int]
    attention_bias: Fact[bool]
    tie_word_embeddings: Fact[bool]
    dtype: Fact[str]
    context: Fact[int]
    """Tokens of prompt plus answer that the model is published for, rope scaling included."""
    native_context: Fact[int] | None = None
    """Tokens without rope scaling, where that is less than `context`."""
    license: Fact[str]
    multimodal: Fact[bool]
    trust_remote_code: bool = False
    """Whether the model is believed to need code of its own repository."""
    chat_template: Short
    """Where the chat template comes from."""
    tool_parser: ToolParser | None = None
    served_names: Annotated[tuple[Short, ...], Field(min_length=1, max_length=16)]
    quantizations: Annotated[tuple[Quantization, ...], Field(min_length=1)]
    """Formats recommended for serving; `engine.quantization: auto` chooses among these only."""

    def assumed_config(self) -> ModelConfig:
        """Return the shape that plans use until the real config is read; unknown values become usual ones.

        A multimodal model has a `vision` of unknown content, so that nothing takes it for a text model.
        """
        architecture = self.architecture.value or self.fallback_architecture
        if architecture is None:
            raise ValueError(f"{self.name}: the catalogue has neither an architecture nor a fallback")
        dims = {name: getattr(self, name).value for name in _DIMENSIONS}
        missing = [name for name, value in dims.items() if value is None]
        if missing:
            raise ValueError(f"{self.name}: the catalogue has no value for {', '.join(missing)}")
        return ModelConfig(
            architecture=architecture,
            max_position_embeddings=(self.native_context or self.context).value or 4096,
            rope_scaling=self._assumed_rope(),
            tie_word_embeddings=bool(self.tie_word_embeddings.value),
            attention_bias=bool(self.attention_bias.value),
            dtype=self.dtype.value or "bfloat16",
            vision={} if self.multimodal.value else None,
            **dims,
        )

    def _assumed_rope(self) -> dict[str, Any] | None:
        native, full = self.native_context and self.native_context.value, self.context.value
        if not native or not full or native >= full:
            return None
        return {"type": "yarn", "factor": full / native, "original_max_position_embeddings": native}


_DIMENSIONS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
_COMPARED = ("architecture", *_DIMENSIONS, "tie_word_embeddings", "attention_bias", "dtype")


def context_length(config: ModelConfig) -> int:
    """Return the tokens that the config allows: its positions, times the factor of a scaling not yet in them.

    Configs spell rope scaling in two ways: `max_position_embeddings` before scaling (YaRN as Qwen documents it:
    equal to `original_max_position_embeddings`, or that key is absent) or after it (Llama 3, long-context Phi).
    """
    scaling = config.rope_scaling or {}
    factor = scaling.get("factor")
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind not in ("yarn", "linear", "dynamic") or not isinstance(factor, int | float) or factor <= 1:
        return config.max_position_embeddings
    original = scaling.get("original_max_position_embeddings")
    if isinstance(original, int) and original > 0:
        return max(config.max_position_embeddings, int(original * factor))
    return int(config.max_position_embeddings * factor)


def compare(entry: CatalogueEntry, config: ModelConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (errors, notes): where the real config differs from published values, and from inferred ones.

    Weights of another type than published are no difference if the checkpoint says that it is quantized.
    """
    errors: list[str] = []
    notes: list[str] = []
    for name in _COMPARED:
        fact: Fact[Any] = getattr(entry, name)
        real = getattr(config, name)
        if fact.value == real or (name == "dtype" and config.quantization):
            continue
        if fact.mark == "published":
            errors.append(
                f"{name} is {real} in the source, but {fact.value} is published for {entry.name} ({fact.source}): "
                f"point the source at {entry.hub_id}, or leave `model` out to serve it as a model of its own"
            )
        elif fact.mark == "inferred":
            notes.append(f"{name} is {real} in the source; the catalogue had inferred {fact.value}")
        else:
            notes.append(f"{name} is {real} in the source; the catalogue does not know it")
    _compare_context(entry, config, errors, notes)
    if entry.multimodal.value and config.vision is None:
        errors.append(f"{entry.name} takes images, but the source's config has no vision part")
    return tuple(errors), tuple(notes)


def _compare_context(entry: CatalogueEntry, config: ModelConfig, errors: list[str], notes: list[str]) -> None:
    """A config may allow more than is published; less is a note if it is the context without rope scaling."""
    full, real = entry.context, context_length(config)
    native = entry.native_context.value if entry.native_context else None
    if full.value is None or real == full.value:
        return
    if real == native:
        notes.append(
            f"the source's config allows {real} tokens; the {full.value} of {entry.name} need rope scaling in it"
        )
    elif real < full.value and full.mark == "published":
        errors.append(
            f"the source's config allows {real} tokens, but {full.value} are published for {entry.name} "
            f"({full.source}): point the source at {entry.hub_id}, or leave `model` out"
        )
    else:
        notes.append(f"the source's config allows {real} tokens; the catalogue says {full.value}")
