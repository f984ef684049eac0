"""How much memory a model takes: parameters, weights by format, KV cache per token, budgets per GPU and per host.

Pure arithmetic over a `ModelConfig`. Counts of parameters are exact for gated-MLP decoders with RMSNorm; what
happens at run time (activations, context, communication) is estimated, see `docs/recipes.md` for the margins.
"""

from __future__ import annotations

from dataclasses import dataclass

from ax_engines.contract import ModelConfig

MIB = 1024 * 1024

# Estimates of what a rank holds beside weights, activations and KV cache, in MiB.
CUDA_CONTEXT = 700  # driver context, loaded kernels, cuBLAS workspace
COMMUNICATION = 600  # NCCL channels and all-reduce buffers, when there is more than one rank
LIBRARY = {"tensorrt": 300, "pytorch": 1536, "transformers": 1024}  # execution contexts; CUDA graphs and allocator
# Factor over the activations that are counted, for workspaces and temporaries that are not.
ACTIVATION_FACTOR = 1.25
# Triton, its Python stub and the tokenizer, as seen with a small model on CPUs.
HOST_PROCESSES = 384


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Memory of one rank's GPU (or of the host, for CPU backends) by part, in MiB.

    `kv_cache` is what is left for the KV cache, `kv_tokens` how many tokens fit into it over all requests;
    `reserve` is the share of free memory that is left alone on purpose. With several ranks the parts are those of
    the rank that holds most. A model that does not fit has no `kv_tokens` and a negative `kv_cache`.
    """

    total: int
    weights: int
    activations: int
    runtime: int
    kv_cache: int
    reserve: int
    kv_tokens: int
    kv_bytes_per_token: int

    def concurrency(self, context: int) -> float:
        """Return how many requests of `context` tokens fit at once, with a fraction."""
        return self.kv_tokens / context


@dataclass(frozen=True, slots=True)
class Split:
    """How a model is split: tensor ranks times pipeline ranks."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def ranks(self) -> int:
        """GPUs that the split takes."""
        return self.tensor * self.pipeline


def parameter_count(config: ModelConfig) -> int:
    """Return the parameters of the language model; exact for gated-MLP decoders with RMSNorm."""
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    per_layer = _linear_parameters(config, 1) + _other_parameters(config)
    return embeddings + config.num_hidden_layers * per_layer + config.hidden_size


def _linear_parameters(config: ModelConfig, tensor: int) -> int:
    """Matrices of one layer that quantization applies to, on one of `tensor` ranks."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    query_and_output = 2 * hidden * heads * config.head_dim // tensor
    key_and_value = 2 * hidden * kv_heads_per_rank(config, tensor) * config.head_dim
    return query_and_output + key_and_value + 3 * hidden * config.intermediate_size // tensor


def _other_parameters(config: ModelConfig) -> int:
    """Norms and biases of one layer, which stay in 16 bits."""
    bias = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    return 2 * config.hidden_size + (bias if config.attention_bias else 0)


def kv_heads_per_rank(config: ModelConfig, tensor: int) -> int:
    """Return key/value heads on one tensor rank; they are repeated when there are fewer heads than ranks."""
    return -(-config.num_key_value_heads // tensor)


def weights_bytes(config: ModelConfig, linear_bytes: float = 2.0, split: Split = Split()) -> int:
    """Return the weights' bytes on the rank that holds most of them.

    `linear_bytes` is what a format takes for one value of a layer's matrices, scales included. Embedding and output
    head stay in 16 bits; the head is split over tensor ranks, the embedding counts as repeated, which is the
    converters' default and the worse case elsewhere. A tied head counts as a copy for the same reason.
    """
    layers = -(-config.num_hidden_layers // split.pipeline)
    per_layer = linear_bytes * _linear_parameters(config, split.tensor) + 2 * _other_parameters(config)
    embedding = 2 * config.vocab_size * config.hidden_size
    head = embedding // split.tensor
    # The first pipeline rank has the embedding, the last one the head.
    ends = embedding + head if split.pipeline == 1 else embedding
    return int(layers * per_layer + ends + 2 * config.hidden_size)


def kv_bytes_per_token(config: ModelConfig, value_bytes: float = 2.0, split: Split = Split()) -> int:
    """Return the KV cache's bytes per token on the rank that holds most: keys and values of its layers."""
    layers = -(-config.num_hidden_layers // split.pipeline)
    return int(2 * layers * kv_heads_per_rank(config, split.tensor) * config.head_dim * value_bytes)


def activation_bytes(config: ModelConfig, tokens: int, batch: int, tensor: int = 1) -> int:
    """Estimate the peak of activations when one step computes `tokens` tokens of `batch` requests.

    Residual stream and norms (16 bits, not split), gate and up projections, queries, keys and values, and 32-bit
    logits of one position per request, which are gathered on every rank.
    """
    attention = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    per_token = 2 * (4 * config.hidden_size + 2 * config.intermediate_size // tensor + attention // tensor)
    logits = 2 * 4 * batch * config.vocab_size
    return int(ACTIVATION_FACTOR * (tokens * per_token + logits))


def gpu_budget(
    config: ModelConfig,
    memory_mib: int,
    library: str,
    split: Split,
    linear_bytes: float,
    kv_bytes: float,
    step_tokens: int,
    batch: int,
    free_fraction: float,
) -> MemoryBudget:
    """Return how the memory of one rank's GPU divides up; `library` is a key of LIBRARY.

    The engine takes `free_fraction` of what is left after weights, activations and its own buffers.
    """
    weights = mib(weights_bytes(config, linear_bytes, split))
    activations = mib(activation_bytes(config, step_tokens, batch, split.tensor))
    runtime = CUDA_CONTEXT + LIBRARY[library] + (COMMUNICATION if split.ranks > 1 else 0)
    left = memory_mib - weights - activations - runtime
    cache = int(left * free_fraction)
    per_token = kv_bytes_per_token(config, kv_bytes, split)
    tokens = max(0, cache * MIB // per_token)
    return MemoryBudget(memory_mib, weights, activations, runtime, cache, left - cache, tokens, per_token)


def host_budget(config: ModelConfig, file_bytes: int, context: int, slots: int) -> MemoryBudget:
    """Return what a CPU backend takes of a host: the weights, a whole KV cache per slot, buffers, processes."""
    per_token = kv_bytes_per_token(config)
    tokens = context * slots
    weights = mib(file_bytes)
    cache = mib(per_token * tokens)
    # Logits and activations of one 512-token batch, in 32 bits.
    activations = mib(4 * 512 * (config.vocab_size + 4 * config.hidden_size + 2 * config.intermediate_size))
    total = weights + cache + activations + HOST_PROCESSES
    return MemoryBudget(total, weights, activations, HOST_PROCESSES, cache, 0, tokens, per_token)


def mib(count: float) -> int:
    """Return bytes as MiB, rounded up."""
    return int(-(-count // MIB))
