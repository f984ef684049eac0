"""Writes tiny random models of real architectures, and what transformers itself generates with them.

Run with the packages of locks/torch.txt: `python tiny_models.py FOLDER`. Makes FOLDER/<kind>/ with a checkpoint and a
tokenizer, and FOLDER/reference.json: for each kind a list of cases with prompt, images, and the answer of one
`generate` call of its own: text, tokens, the log probability of each, and the prompt's length. Weights are large, so
that answers neither repeat themselves nor hide a mistake in positions, masks or caches.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers import decoders as token_decoders
from transformers import (
    AutoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2TokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

SPECIALS = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
SYLLABLES = [chr(code) for code in range(0xAC00, 0xAC00 + 28 * 120, 28)]
ASCII = [chr(code) for code in range(0x20, 0x7F)]
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
}
ANSWER = 24
TEXTS = ["가나다", "Hello", "긴 질문입니다: " + "가각간 " * 12, "1+1=", "마지막 question?"]


def text_tokenizer() -> Any:
    """Return a tokenizer of single characters."""
    words = {token: at for at, token in enumerate([*SPECIALS, *ASCII, *SYLLABLES])}
    inner = Tokenizer(models.WordLevel(words, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = token_decoders.Fuse()
    inner.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<|pad|>", eos_token="<|im_end|>", additional_special_tokens=SPECIALS[1:2]
    )


def byte_tokenizer() -> tuple[Any, list[int]]:
    """Return Qwen2's kind of tokenizer, of bytes, and its tokens that are no whole character."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: at for at, letter in enumerate(letters)}
    merges = []
    byte = dict(enumerate(letters_by_byte()))
    for syllable in SYLLABLES:
        first, second, third = (byte[value] for value in syllable.encode())
        for pair in ((first, second), (first + second, third)):
            if pair not in merges:
                merges.append(pair)
            vocabulary.setdefault("".join(pair), len(vocabulary))
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = token_decoders.ByteLevel()
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=inner,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        unk_token=None,
        additional_special_tokens=[*SPECIALS[1:2], *VISION],
    )
    broken = [at for at in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([at]) or not tokenizer.decode([at])]
    return tokenizer, broken


def letters_by_byte() -> list[str]:
    """Return GPT-2's letter of each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in letters)
    letters |= {byte: chr(256 + at) for at, byte in enumerate(rest)}
    return [letters[byte] for byte in range(256)]


def chat(text: str, images: int = 0) -> str:
    """Return the prompt that the tests' template makes of one message, its images first."""
    seen = "<|vision_start|><|image_pad|><|vision_end|>" * images
    return f"<|im_start|>user\n{seen}{text}<|im_end|>\n<|im_start|>assistant\n"


def text_model(kind: str) -> tuple[Any, Any]:
    """Return a model that reads text, and its tokenizer."""
    tokenizer = text_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    shape: dict[str, Any] = {**SHAPE, **ends, "vocab_size": len(tokenizer)}
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape)), tokenizer
    return Qwen2ForCausalLM(Qwen2Config(**shape)), tokenizer


def vision_model() -> tuple[Any, Any]:
    """Return a model that sees, and its processor; broken characters are never its most likely token."""
    tokenizer, broken = byte_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in zip(
        ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"), VISION, strict=True
    )}  # fmt: skip
    config = Qwen2VLConfig(
        **{**SHAPE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None},
        rope_scaling={"type": "mrope", "mrope_section": [4, 2, 2]},
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "initializer_range": 0.2,
        },
        **ids,
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight[broken] = 0
    pixels = {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 12}
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**pixels), tokenizer, Qwen2VLVideoProcessor(**pixels), chat_template=template
    )
    return model, processor


def image(width: int, height: int, seed: int) -> str:
    """Return a picture of noise as a data URL."""
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    out = io.BytesIO()
    Image.fromarray(noise.numpy()).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def picture(url: str) -> Any:
    """Return a data URL's picture."""
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, inputs: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Return the case with what the model says to it, greedily."""
    prompt = inputs["input_ids"].shape[1]
    out = model.generate(
        **inputs, max_new_tokens=ANSWER, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    tokens = out.sequences[0, prompt:].tolist()
    known = [torch.log_softmax(row[0].float(), -1) for row in out.logits]
    chances = [float(row[token]) for row, token in zip(known, tokens, strict=True)]
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    return {**case, "prompt_tokens": prompt, "tokens": tokens, "logprobs": chances, "text": text}


def write(folder: Path) -> None:
    """Write everything."""
    reference: dict[str, Any] = {}
    for kind in ("llama", "qwen2"):
        torch.manual_seed(7)
        model, tokenizer = text_model(kind)
        model.eval()
        model.save_pretrained(folder / kind)
        tokenizer.save_pretrained(folder / kind)
        reference[kind] = [
            answer(model, tokenizer, tokenizer(chat(text), return_tensors="pt", return_token_type_ids=False),
                   {"content": text, "images": []})
            for text in TEXTS
        ]  # fmt: skip
    torch.manual_seed(7)
    model, processor = vision_model()
    model.eval()
    model.save_pretrained(folder / "qwen2_vl")
    config = folder / "qwen2_vl" / "config.json"  # saved without the class's name, which published ones have
    config.write_text(json.dumps({"architectures": [type(model).__name__], **json.loads(config.read_text())}))
    processor.save_pretrained(folder / "qwen2_vl")
    processor = AutoProcessor.from_pretrained(folder / "qwen2_vl")
    sights = [("무엇?", [(56, 56)]), ("둘?", [(100, 30), (28, 84)]), ("글만", []), ("large", [(640, 480)])]
    reference["qwen2_vl"] = []
    for text, sizes in sights:
        urls = [image(*size, at) for at, size in enumerate(sizes)]
        pictures = [picture(url) for url in urls] or None
        inputs = processor(text=[chat(text, len(urls))], images=pictures, return_tensors="pt")
        reference["qwen2_vl"].append(answer(model, processor.tokenizer, inputs, {"content": text, "images": urls}))
    (folder / "reference.json").write_text(json.dumps(reference, ensure_ascii=False))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
