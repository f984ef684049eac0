"""Stand-in: SamplingParams and GuidedDecodingParams, with the fields, types and rules of the facts."""

from tests.engines.trtllm_flags import load

FACTS = load("llm_api")
KINDS = {"int": int, "float": (int, float), "bool": bool, "str": str}


class GuidedDecodingParams:
    """One form that the answer must have."""

    def __init__(self, **given):
        """Take exactly one form."""
        unknown = set(given) - set(FACTS["guided"])
        if unknown:
            raise TypeError(f"GuidedDecodingParams has no {sorted(unknown)}")
        if sum(bool(value) for value in given.values()) > 1:
            raise ValueError("Only one guide can be used for a request")
        self.given = given


class SamplingParams:
    """Sampling of one request; keywords only."""

    def __init__(self, **given):
        """Take known fields of the right types and check the rules between them."""
        for name, value in given.items():
            fact = FACTS["sampling"].get(name)
            if fact is None:
                raise TypeError(f"SamplingParams has no field {name}")
            if not _fits(value, fact["type"]):
                raise TypeError(f"SamplingParams.{name} is a {fact['type']}, not {value!r}")
        self.given = given
        for name, fact in FACTS["sampling"].items():
            setattr(self, name, given.get(name, fact.get("default")))
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
        if (self.top_k or 0) < 0 or (self.temperature or 0) < 0:
            raise ValueError("require top_k >= 0 and temperature >= 0")

    @property
    def greedy(self):
        """Whether the library would decode greedily."""
        nothing = self.temperature is None and self.top_p is None and self.top_k is None
        return nothing or self.top_k == 1 or self.top_p == 0 or self.temperature == 0


def _fits(value, kind):
    if kind == "tensor":
        from torch import Tensor

        return isinstance(value, Tensor)
    if kind == "guided":
        return isinstance(value, GuidedDecodingParams)
    if kind.startswith("list"):
        return isinstance(value, list)
    if kind in KINDS:
        return isinstance(value, KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
    return True
