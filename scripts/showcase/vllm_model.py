"""A small Llama with random weights in the format of Hugging Face, made without any library.

The weights come from SHAKE-256 of a fixed text, so every machine makes the same model: what a
worker answers at temperature 0 can be compared across runs. The tokenizer has one token for each
byte. Sources: https://huggingface.co/docs/safetensors, the tokenizers library's tokenizer.json.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = "chrek"
NAME = "tiny"
VOCABULARY = 512
HIDDEN = 1024
INTERMEDIATE = 2816
LAYERS = 12
HEADS = 16
KEY_VALUE_HEADS = 8
MOST_TOKENS = 2048
BEGIN, END = 256, 257

_ONE = b"\x80\x3f"
"""1.0 as bfloat16, little-endian."""
# A weight is ±[1, 2) / 64: from random bytes the sign and the seven bits of the fraction are taken,
# the exponent is fixed. The low byte ends in the exponent's last bit.
_LOW = bytes(0x80 | byte for byte in range(256))
_HIGH = bytes(byte & 0x80 | 0x3C for byte in range(256))

Shape = tuple[int, ...]


def tensors() -> Iterator[tuple[str, Shape]]:
    """Name and shape of every tensor; those of one dimension are scales."""
    head = HIDDEN // HEADS
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (HIDDEN,)
        yield f"{at}.self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield f"{at}.self_attn.k_proj.weight", (KEY_VALUE_HEADS * head, HIDDEN)
        yield f"{at}.self_attn.v_proj.weight", (KEY_VALUE_HEADS * head, HIDDEN)
        yield f"{at}.self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield f"{at}.post_attention_layernorm.weight", (HIDDEN,)
        yield f"{at}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{at}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{at}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def weights(name: str, shape: Shape) -> bytes:
    """The content of a tensor, as bfloat16."""
    if len(shape) == 1:
        return _ONE * shape[0]
    count = shape[0] * shape[1]
    random = hashlib.shake_256(f"{SEED} {name}".encode()).digest(2 * count)
    content = bytearray(2 * count)
    content[0::2] = random[:count].translate(_LOW)
    content[1::2] = random[count:].translate(_HIGH)
    return bytes(content)


def configuration() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": MOST_TOKENS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "torch_dtype": "bfloat16",
    }


def vocabulary() -> dict[str, int]:
    """Tokens by name: every byte as the printable character that stands for it, then the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    bytes_ = {chr(byte): byte for byte in printable}
    bytes_ |= {chr(256 + number): byte for number, byte in enumerate(others)}
    return bytes_ | {
        "<s>": BEGIN,
        "</s>": END,
        **{f"<{number}>": number for number in range(END + 1, VOCABULARY)},
    }


def tokenizer() -> dict[str, Any]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": content, "special": True, **special}
            for number, content in ((BEGIN, "<s>"), (END, "</s>"))
        ],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": False},
        "post_processor": None,
        "decoder": {**level, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocabulary(), "merges": []},
    }


def write(folder: Path) -> None:
    """Write the model; a folder that has one is left alone."""
    whole = folder / "config.json"
    if whole.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "model_max_length": MOST_TOKENS,
            }
        )
    )
    _write_weights(folder / "model.safetensors")
    # Written last: it says that the rest is there.
    whole.write_text(json.dumps(configuration()))


def _write_weights(path: Path) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors():
            file.write(weights(name, shape))
