"""A stand-in for TensorRT-LLM's LLM API: no GPU, no model, the names and rules of tests/data/trtllm.

It refuses every constructor argument, sampling field and keyword that the facts do not have, insists on a running
event loop as the library does, and streams objects that are updated in place. What is "generated" is written in the
prompt, as the text of token ids: `say:<text>` is said piece by piece (a piece is a UTF-8 byte string of 2 bytes, so
that Korean syllables are cut as byte tokens cut them), then `stop`; other commands are documented at `Script`.
"""

from tensorrt_llm.llm import LLM
from tensorrt_llm.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]
__version__ = "1.2.1"
