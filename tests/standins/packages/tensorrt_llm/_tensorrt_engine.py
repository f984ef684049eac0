"""Stand-in: the class that loads engine folders."""

import json
from pathlib import Path

from tensorrt_llm.llm import BaseLLM


class LLM(BaseLLM):
    """Takes TrtLlmArgs and an engine folder."""

    backend = "tensorrt"

    def load(self, folder):
        """Insist on an engine of as many ranks as were asked for."""
        config = json.loads(Path(folder, "config.json").read_text())
        if not {"pretrained_config", "build_config"} <= set(config):
            raise ValueError(f"{folder} is not an engine directory")
        mapping = config["pretrained_config"]["mapping"]
        for name, key in (("tensor_parallel_size", "tp_size"), ("pipeline_parallel_size", "pp_size")):
            asked = self.arguments.get(name, 1)
            if asked not in (1, mapping[key]):
                raise ValueError(f"{name} {asked} does not match the engine's {mapping[key]}")
