"""How much memory a model takes: parameters, weights by format, KV cache per token, budgets per GPU and per host.

Pure arithmetic over a `ModelConfig`. Counts of parameters are exact for gated-MLP decoders with RMSNorm; what
happens at run time (activations, context, communication) is estimated, see `docs/recipes.md` for the margins.
"""

from __future__ import annotations

from dataclasses import dataclass

from ax_engines.contract import ModelConfig

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Memory of one rank's GPU (or of the host, for CPU backends) by part, in MiB.

    `kv_cache` is what is left for the KV cache, `kv_tokens` how many tokens fit into it over all requests;
    `reserve` is the share of free memory that is left alone on purpose.
    """

    total: int
    weights: int
    activations: int
    runtime: int
    kv_cache: int
    reserve: int
    kv_tokens: int
    kv_bytes_per_token: int

    def concurrency(self, context: int) -> int:
        """Return how many requests of `context` tokens fit at once."""
        return self.kv_tokens // context


def kv_bytes_per_token(config: ModelConfig, value_bytes: float = 2.0, tensor: int = 1, pipeline: int = 1) -> int:
    """Return the KV cache's bytes per token on the rank that holds most of them.

    Keys and values of every layer; key/value heads are split over tensor ranks and repeated when there are fewer
    heads than ranks.
    """
    layers = -(-config.num_hidden_layers // pipeline)
    heads = -(-config.num_key_value_heads // tensor)
    return int(2 * layers * heads * config.head_dim * value_bytes)


def host_budget(config: ModelConfig, file_bytes: int, context: int, slots: int) -> MemoryBudget:
    """Return what a CPU backend takes of a host: mapped file, whole KV cache, compute buffers, processes."""
    per_token = kv_bytes_per_token(config)
    tokens = context * slots
    weights = mib(file_bytes)
    kv_cache = mib(per_token * tokens)
    # Logits and activations of one 512-token batch, in 32 bits.
    activations = mib(4 * 512 * (config.vocab_size + 4 * config.hidden_size + 2 * config.intermediate_size))
    runtime = 384  # Triton, its Python stub and the tokenizer, as seen on a small model
    total = weights + kv_cache + activations + runtime
    return MemoryBudget(total, weights, activations, runtime, kv_cache, 0, tokens, per_token)


def mib(count: float) -> int:
    """Return bytes as MiB, rounded up."""
    return int(-(-count // MIB))
